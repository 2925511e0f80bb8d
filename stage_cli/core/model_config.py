"""What a model directory's `config.json` says. Imports no torch, so that listing models is quick."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stage_cli.core.codec.config import AnyCodecConfig, CodecConfig, codec_config_from_dict
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.stems import STEMS, parse_stem
from stage_cli.errors import UsageError, WeightsError

MODEL_TYPE = "stage"
FORMAT_VERSION = 1
DEFAULT_TEXT_ENCODER = "google-t5/t5-base"
_SAMPLINGS = ("sampling", "metronome_sampling")


@dataclass(frozen=True)
class StageConfig:
    """One model: its codec, its language model, and what a user should know about it.

    Attributes:
        codec: the codec's sizes.
        lm: the language model's sizes and layout.
        stem: the stem that it writes, or None: it was not trained for one.
        text_encoder: Hub id or directory (relative to the model's own) of the T5 encoder, or None.
        window_seconds: longest context, and longest target, that the model was trained with.
        licence: of the weights, as their authors state it.
        base: where the weights come from.
        sampling: what the model is drawn with by default, of `guidance`, `temperature`, `top_k`, `top_p`,
            `advance` and `lookahead`; what is left out is `GenerationConfig`'s.
        metronome_sampling: what of that is different where the context is a metronome track.
        note: what whoever uses it should know, told with each run; "" is nothing.
    """

    codec: AnyCodecConfig = field(default_factory=CodecConfig)
    lm: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    stem: str | None = None
    text_encoder: str | None = DEFAULT_TEXT_ENCODER
    window_seconds: float = 10.0
    licence: str = "unknown"
    base: str | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)
    metronome_sampling: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if (self.codec.codebooks, self.codec.codebook_size) != (self.lm.codebooks, self.lm.codebook_size):
            raise WeightsError(
                f"The codec has {self.codec.codebooks} codebooks of {self.codec.codebook_size}, the language model "
                f"{self.lm.codebooks} of {self.lm.codebook_size}",
                why="they were not made for each other",
                next_step="import the checkpoint with the codec that it was trained with (`base`)",
            )
        for name in ("stem", "text_encoder", "licence", "base", "note"):
            value = getattr(self, name)
            if not isinstance(value, str) and (value is not None or name in ("licence", "note")):
                raise WeightsError(f"{name} = {value!r} in the model's config", why="it must be text")
        seconds = self.window_seconds
        if not isinstance(seconds, int | float) or not 0 < seconds < math.inf or self.window_frames < 2:
            raise WeightsError(
                f"window_seconds = {self.window_seconds!r} in the model's config",
                why="it must hold at least two frames",
            )
        self._check_sampling()
        if self.stem is not None and self.stem not in STEMS:
            raise WeightsError(f"stem = {self.stem!r} in the model's config", why=f"allowed: {', '.join(STEMS)}")

    def _check_sampling(self) -> None:
        """Look at the types only: which settings there are, and their limits, are the sampling's matter."""
        for name in _SAMPLINGS:
            values = getattr(self, name)
            allowed = isinstance(values, Mapping) and all(
                isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
                for value in values.values()
            )
            if not allowed:
                raise WeightsError(f"{name} = {values!r} in the model's config", why="it must hold numbers")

    def sampling_for(self, *, metronome: bool) -> dict[str, float]:
        """What the model is drawn with by default, for a metronome track or for other contexts."""
        return {**self.sampling, **(self.metronome_sampling if metronome else {})}

    @property
    def window_frames(self) -> int:
        """Frames of the model's window."""
        return round(self.window_seconds * self.codec.frame_rate)

    @property
    def takes_text(self) -> bool:
        """Whether a description can be given."""
        return self.lm.text_dimension is not None and self.text_encoder is not None

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON, headed by the format's name and version."""
        return {
            "model_type": MODEL_TYPE,
            "format_version": FORMAT_VERSION,
            "stem": self.stem,
            "window_seconds": self.window_seconds,
            "text_encoder": self.text_encoder,
            "licence": self.licence,
            "base": self.base,
            **{name: dict(getattr(self, name)) for name in _SAMPLINGS if getattr(self, name)},
            **({"note": self.note} if self.note else {}),
            "lm": self.lm.to_dict(),
            "codec": self.codec.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StageConfig:
        """Read what `to_dict` wrote.

        Raises:
            WeightsError: another type of model, a newer format, an unknown key, a value that is not allowed.
        """
        fields = dict(values)
        kind, version = fields.pop("model_type", None), fields.pop("format_version", None)
        if kind != MODEL_TYPE:
            raise WeightsError(f"config.json is for a model of type {kind!r}, not {MODEL_TYPE!r}")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise WeightsError(
                f"The model has format version {version!r}; this stage-cli reads up to {FORMAT_VERSION}",
                next_step="update stage-cli",
            )
        try:
            lm = LanguageModelConfig.from_dict(fields.pop("lm"))
            codec = codec_config_from_dict(fields.pop("codec"))
            if isinstance(fields.get("stem"), str):
                fields["stem"] = parse_stem(fields["stem"])
            return cls(lm=lm, codec=codec, **fields)
        except UsageError as error:
            raise WeightsError(f"stem = {fields['stem']!r} in the model's config", why=error.why) from None
        except KeyError as error:
            raise WeightsError(f"config.json has no {error.args[0]!r}") from None
        except TypeError as error:
            raise WeightsError("config.json has a key or a type that is not known", why=str(error)) from None


def read_config(path: Path) -> dict[str, Any]:
    """Read a `config.json`.

    Raises:
        WeightsError: it is missing, or is not a JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"Cannot read {path}", why=error.strerror or str(error)) from None
    except ValueError as error:
        raise WeightsError(f"{path} is not valid JSON", why=str(error)) from None
    if not isinstance(values, dict):
        raise WeightsError(f"{path} is not a JSON object")
    return values
