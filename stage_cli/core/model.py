"""StageModel: codec + text + language model, loaded tensor by tensor onto one device in one precision.

It is an `Accompanist` (`accompany.py`): it reads contexts as codes, generates codes, and decodes them piece by piece.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor, nn

from stage_cli.core.accompany import (
    AccompanySettings,
    AudioBlock,
    HeardBeats,
    Progress,
    Stem,
    accompany,
    generation_for,
)
from stage_cli.core.codec.config import make_codec
from stage_cli.core.codec.streaming import PIECE_FRAMES, StreamingDecoder, StreamingEncoder
from stage_cli.core.contexts import ContextLike, context_of, given_audio
from stage_cli.core.generation.config import SAMPLING, GenerationConfig
from stage_cli.core.generation.song import generate_song
from stage_cli.core.lm.linear import Int8Linear
from stage_cli.core.lm.transformer import LanguageModel
from stage_cli.core.model_config import StageConfig
from stage_cli.core.music.beats import BeatGrid
from stage_cli.core.precision import BYTES_PER_WEIGHT, Runtime, choose_runtime
from stage_cli.core.text import TextEncoder
from stage_cli.core.weights.checkpoint import own_shapes, plan_directory
from stage_cli.core.weights.formats import Plan
from stage_cli.core.weights.hub import is_player, push_directory, resolve
from stage_cli.core.weights.saving import save_directory
from stage_cli.core.weights.tensors import check_finite
from stage_cli.errors import DeviceError, UsageError, WeightsError


class StageModel(nn.Module):
    """A model that generates stems.

    >>> model = StageModel.from_pretrained("bundled-drums")
    >>> stem = model.accompany("mix.wav", seed=1)
    >>> stem.save("drums.wav")

    Attributes:
        config: sizes, stem, licence.
        codec: audio ↔ codes, fp32.
        lm: tokens → logits, in the runtime's precision.
        text_projection: text encoder's width → model width, fp32; None for a model without text.
        runtime: device and precision.

    Args:
        config: the model's.
        quantized: keep the language model's linears as int8.
    """

    def __init__(self, config: StageConfig, *, quantized: bool = False) -> None:
        super().__init__()
        self.config = config
        self.codec = make_codec(config.codec)
        self.lm = LanguageModel(config.lm, quantized=quantized)
        text, width = config.lm.text_dimension, config.lm.dimension
        self.text_projection = nn.Linear(text, width) if text is not None else None
        self.runtime = Runtime(torch.device("cpu"), "int8" if quantized else "float32")
        self.directory: Path | None = None
        self.offline = False
        self._text_encoder: TextEncoder | None = None
        self._rounded = False  # whether int8 is what the weights were stored as

    @classmethod
    def from_pretrained(
        cls, name: str, *, device: str = "auto", precision: str = "auto", offline: bool = False
    ) -> StageModel:
        """Load a model by name.

        Args:
            name: a local directory, a name in the model list, or `org/name[@revision]` on the Hub.
            device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
            precision: `auto`, `float32`, `bfloat16`, `float16` or `int8`, of the language model.
            offline: use only files that are already on this machine.

        Raises:
            UsageError: an unknown name or option.
            HubError: the model cannot be fetched.
            WeightsError: its files cannot be used.
            DeviceError: the device is absent, or the model does not fit into its memory.
        """
        directory = resolve(name, offline=offline)
        if is_player(directory):
            raise UsageError(
                f"{name} is a player: it writes notes, and no codes",
                next_step="load it with StagePlayer.from_pretrained",
            )
        plan = plan_directory(directory, offline=offline)
        model = cls.from_plan(plan, runtime_for(plan.config, device, precision, rounded=plan.rounded))
        model.directory, model.offline = directory, offline
        return model

    @classmethod
    def from_plan(cls, plan: Plan, runtime: Runtime) -> StageModel:
        """Build a model from checkpoint files; the peak of memory is the weights as they are kept, and one tensor more.

        Raises:
            WeightsError: tensors are unknown, missing, misshapen, or not finite.
            DeviceError: out of memory.
        """
        expected = own_shapes(plan.config)
        for source in plan.sources:
            source.check(expected)
        with torch.device("meta"):
            model = cls(plan.config, quantized=runtime.quantized)
        model.runtime, model._rounded = runtime, plan.rounded
        with memory_errors(plan.config, runtime):
            model._allocate()
            for source in plan.sources:
                for name, tensor in source.tensors():
                    model._keep(name, tensor)
                    expected.pop(name)
                    del tensor  # before the next is read: it keeps its part of the file in memory
        if expected:
            raise WeightsError(f"The checkpoint has no {', '.join(sorted(expected)[:8])}")
        for module in model.modules():
            if isinstance(module, nn.LSTM):
                module.flatten_parameters()  # on CUDA; else cuDNN gathers them at each call, and warns of it
        return model.eval()

    @overload
    def accompany(
        self,
        context: ContextLike | None = None,
        *,
        sample_rate: int | None = None,
        bpm: float | None = None,
        beats_per_bar: int | None = None,
        offset: float | None = None,
        start: float = 0.0,
        duration: float | None = None,
        description: str | None = None,
        continuation: ContextLike | None = None,
        seed: int | None = None,
        variations: None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        advance: float | None = None,
        lookahead: float | None = None,
        on_audio: Callable[[np.ndarray], None] | None = None,
        on_progress: Progress | None = None,
    ) -> Stem: ...

    @overload
    def accompany(
        self,
        context: ContextLike | None = None,
        *,
        sample_rate: int | None = None,
        bpm: float | None = None,
        beats_per_bar: int | None = None,
        offset: float | None = None,
        start: float = 0.0,
        duration: float | None = None,
        description: str | None = None,
        continuation: ContextLike | None = None,
        seed: int | None = None,
        variations: int,
        guidance: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        advance: float | None = None,
        lookahead: float | None = None,
        on_audio: Callable[[np.ndarray], None] | None = None,
        on_progress: Progress | None = None,
    ) -> list[Stem]: ...

    def accompany(
        self,
        context: ContextLike | None = None,
        *,
        sample_rate: int | None = None,
        bpm: float | None = None,
        beats_per_bar: int | None = None,
        offset: float | None = None,
        start: float = 0.0,
        duration: float | None = None,
        description: str | None = None,
        continuation: ContextLike | None = None,
        seed: int | None = None,
        variations: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        advance: float | None = None,
        lookahead: float | None = None,
        on_audio: Callable[[np.ndarray], None] | None = None,
        on_progress: Progress | None = None,
    ) -> Stem | list[Stem]:
        """Generate a stem that fits a context, at the context's rate and exactly as long.

        The same seed and settings generate the same stem as `stage generate`. Sampling settings that are left out are
        the model's own.

        Args:
            context: an audio file; or an array `[frames]` or `[channels, frames]` of floats, full scale ±1, with its
                `sample_rate`. Leave it out where `bpm` is given.
            sample_rate: Hz of an array.
            bpm: no context but a tempo, 20 to 400 beats a minute: the stem is generated for a metronome.
            beats_per_bar: with `bpm`; 4 if left out.
            offset: with `bpm`: seconds of the first downbeat; 0 if left out.
            start: seconds of the context to skip.
            duration: seconds to generate; the whole context if left out, 30 s with `bpm`.
            description: text such as "Genre: Rock. Mood: happy.", for a model that takes one.
            continuation: the beginning of the stem, to go on from: a file, or an array at `sample_rate`.
            seed: 0 or more; fixes the stem. Random if left out: see `Stem.seed`.
            variations: generate so many takes, with the seeds `seed`, `seed + 1`, …, and return a list of them.
            guidance: how closely to follow context and description; 1 is off.
            temperature: of the sampling; 0 takes the likeliest tokens.
            top_k: sample from so many likeliest tokens; 0 is all.
            top_p: sample from the likeliest tokens up to this probability; 1 is all.
            advance: share of the model's window by which it moves over a longer context.
            lookahead: share of the window, at its end, that the model sees and the next window generates.
            on_audio: called with the first take's audio while it is generated: `[frames]` float32 at the context's
                rate, about 0.3 s each time. It may exceed full scale, and differs from the stem by rounding.
            on_progress: called with the phase ("read" or "generate"), seconds done and seconds in all. An exception
                that it raises ends the work.

        Returns:
            A stem; with `variations` a list of stems.

        Raises:
            UsageError: a value is not possible, or two do not go together; an array without its rate.
            AudioError: a file cannot be read.
            WeightsError: the model returns samples that are no numbers.
            DeviceError: out of memory.
        """
        given: dict[str, float | None] = {
            "guidance": guidance, "temperature": temperature, "top_k": top_k, "top_p": top_p,
            "advance": advance, "lookahead": lookahead,
        }  # fmt: skip
        source = context_of(context, sample_rate, bpm, beats_per_bar, offset, start, duration)
        generation = generation_for(
            self,
            source,
            {name: value for name, value in given.items() if value is not None},
            seed=secrets.randbelow(2**31) if seed is None else seed,
            variations=1 if variations is None else variations,
        )
        beginning = None if continuation is None else given_audio(continuation, sample_rate)
        settings = AccompanySettings(generation, description, beginning)
        stems = accompany(self, source, settings, on_progress or (lambda *_: None), on_audio=on_audio)
        return stems[0] if variations is None else stems

    def encode_description(self, description: str) -> Tensor:
        """Turn a description into the vectors that the language model attends to, `[1, L, D]`.

        Raises:
            UsageError: the model takes no text.
            HubError: its text encoder cannot be fetched.
            WeightsError: its text encoder cannot be used.
        """
        return self.project_text(*self.text_encoder().encode([description]))

    def text_encoder(self) -> TextEncoder:
        """Return the frozen text encoder, on the codec's device; the first call loads it.

        Raises:
            UsageError: the model takes no text.
            HubError: it cannot be fetched.
            WeightsError: it cannot be used.
        """
        if self.text_projection is None or self.config.text_encoder is None:
            raise UsageError(
                "This model takes no description",
                why="it has no text encoder",
                next_step="leave `description` out, or use another `model`",
            )
        if self._text_encoder is None:
            directory = self._text_encoder_directory(self.config.text_encoder)
            encoder = TextEncoder(directory, self.runtime.codec_device)
            width = encoder.dimension
            if width != self.config.lm.text_dimension:
                raise WeightsError(
                    f"The text encoder {directory} is {width} wide, the model expects {self.config.lm.text_dimension}"
                )
            self._text_encoder = encoder
        return self._text_encoder

    def project_text(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Project the text encoder's vectors `[B, L, text dimension]` to `[B, L, D]`; masked ones become zero."""
        if self.text_projection is None:
            raise ValueError("this model has no text projection")
        projected = self.text_projection(vectors.to(self.text_projection.weight.device)) * mask[..., None].to(
            self.text_projection.weight
        )
        return projected.to(self.runtime.device, self.lm.dtype)

    def save_pretrained(self, directory: Path | str) -> None:
        """Write `config.json` and `model.safetensors`, each whole or not at all.

        Raises:
            WeightsError: loading has rounded the weights to int8, or the directory cannot be written.
        """
        if self.runtime.quantized and not self._rounded:
            raise WeightsError(
                "A model that was loaded as int8 cannot be saved",
                why="its weights are rounded",
                next_step="load it with `precision` float32 or bfloat16",
            )
        save_directory(Path(directory), self.config, self._tensors())

    def push_to_hub(self, repository: str, *, private: bool = False) -> str:
        """Save the model and upload it as `org/name`; returns the commit's address.

        Raises:
            HubError: no access, no network, or the Hub refused.
            WeightsError: see `save_pretrained`.
        """
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_directory(Path(folder), repository, private=private)

    # The model as an `Accompanist`: what `core/accompany.py` needs of it.

    @property
    def stem(self) -> str | None:
        """The stem that it generates; None: it was not trained for one."""
        return self.config.stem

    @property
    def channels(self) -> int:
        """Its takes are mono."""
        return 1

    @property
    def context_rate(self) -> int:
        """Hz of the mono context that it reads: the codec's rate."""
        return self.config.codec.sample_rate

    @property
    def levels_contexts(self) -> bool:
        """Whether contexts of an unusual level are brought to a usual one.

        Not for a plain MusicGen: it goes on in the context's own sound, and is to go on at its level.
        """
        return self.config.lm.separator

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the user of each of its takes should know."""
        if self.config.lm.separator:
            return ()
        return (
            "This is a plain MusicGen: it goes on from the context instead of accompanying it, and knows no stems. "
            "Train it for a stem, or import a STAGE checkpoint.",
        )

    @property
    def sampling_names(self) -> tuple[str, ...]:
        """All sampling settings apply to it."""
        return SAMPLING

    def sampling_for(self, *, metronome: bool) -> Mapping[str, float]:
        """Its own sampling settings, for a metronome or for other contexts."""
        return self.config.sampling_for(metronome=metronome)

    def take_rate(self, context_rate: int) -> int:  # noqa: ARG002 - a codec has one rate
        """Hz of the blocks that it generates: the codec's rate."""
        return self.config.codec.sample_rate

    @torch.inference_mode()
    def describe(self, description: str | None) -> Tensor | None:
        """Encode a description, `[1, L, D]`; None for none. Raises as `encode_description`."""
        with memory_errors(self.config, self.runtime):
            return None if description is None else self.encode_description(description)

    @torch.inference_mode()
    def read(
        self,
        blocks: Iterable[np.ndarray],
        *,
        grid: BeatGrid | None = None,  # noqa: ARG002 - it hears the beats itself
        metronome: bool = False,  # noqa: ARG002
    ) -> Tensor:
        """Encode mono audio, blocks `[frames]` at the codec's rate, in pieces.

        Returns:
            Codes `[1, K, T]` on the language model's device.

        Raises:
            DeviceError: out of memory.
        """
        encoder, device = StreamingEncoder(self.codec), self.runtime.codec_device
        codes = []
        with memory_errors(self.config, self.runtime):
            for block in blocks:
                audio = torch.from_numpy(np.ascontiguousarray(block)).to(device)
                codes.append(encoder.push(audio.expand(1, self.config.codec.channels, -1)))
            codes.append(encoder.finish())
            return torch.cat(codes, dim=2).to(self.runtime.device)

    def beats_of(self, context: Tensor) -> HeardBeats | None:  # noqa: ARG002 - it has no idea of beats
        """None: it follows the context, and counts no beats."""
        return None

    @torch.inference_mode()
    def generate(
        self,
        context: Tensor,
        config: GenerationConfig,
        *,
        given: Tensor | None = None,
        continuation: Tensor | None = None,
        live_seconds: float | None = None,
        final: bool = True,
        on_seconds: Callable[[float], None] = lambda _: None,
        sample_rate: int | None = None,  # noqa: ARG002 - a codec has one rate
    ) -> Generator[AudioBlock]:
        """Generate codes, and decode them as they come; `accompany` is what most callers want.

        Args:
            context: codes `[1, K, T]`, as `read` returns them.
            config: guidance, sampling, seed, takes.
            given: the description, as `describe` returns it.
            continuation: codes `[1, K, Tk]` of the stem's beginning.
            live_seconds: about how long live blocks are; None: there are none.
            final: whether there are blocks that are not live.
            on_seconds: called after each step with the seconds generated so far; may raise to stop.
            sample_rate: not needed.

        Yields:
            Blocks of each take, `[1, samples]` at the codec's rate.

        Raises:
            UsageError: the continuation is as long as the context.
            DeviceError: out of memory.
        """
        if continuation is not None and continuation.shape[2] >= context.shape[2]:
            raise UsageError(
                "`continuation` is as long as the context: nothing is left to generate",
                next_step="give a shorter one, or a longer context",
            )
        frame_rate = self.config.codec.frame_rate
        piece, decoders = None, []
        if live_seconds is not None:
            piece = max(1, round(live_seconds * frame_rate))
            # First, and decoded by itself: the rounding of small pieces must not reach the takes.
            decoders.append(_TakeDecoder(self, config.variations, piece, live=True))
        if final:
            decoders.append(_TakeDecoder(self, config.variations, PIECE_FRAMES))
        with memory_errors(self.config, self.runtime):
            parts = generate_song(
                self.lm,
                context,
                config,
                window=self.config.window_frames,
                continuation=continuation,
                piece=piece,
                text=given,
                on_frames=lambda frames: on_seconds(frames / frame_rate),
            )
            with closing(parts):
                for codes in parts:
                    for decoder in decoders:
                        yield from decoder.push(codes)
            for decoder in decoders:
                yield from decoder.finish()

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """List all tensors; what is kept as int8 as the floats that it stands for."""
        yield from self.state_dict().items()
        for name, module in self.named_modules():
            if isinstance(module, Int8Linear):
                quantized, scales = module.weights
                yield f"{name}.weight", quantized * scales[:, None]

    def _allocate(self) -> None:
        """Make room for all tensors, in the precision and on the device where they are to stay.

        Before the first is read: what reading needs beside them is then freed whole, and leaves no holes between them.
        """
        for module in self.modules():
            if isinstance(module, Int8Linear):
                module.reserve()
        for name, tensor in self.state_dict(keep_vars=True).items():
            in_lm = name.startswith("lm.")
            dtype = self.runtime.dtype if in_lm and tensor.is_floating_point() else tensor.dtype
            device = self.runtime.device if in_lm else self.runtime.codec_device
            # Not Module.to_empty: on meta tensors it makes torch import sympy, which takes a second.
            room = torch.empty(tensor.shape, dtype=dtype, device=device)
            path, _, leaf = name.rpartition(".")
            is_parameter = isinstance(tensor, nn.Parameter)
            setattr(self.get_submodule(path), leaf, nn.Parameter(room, requires_grad=False) if is_parameter else room)

    def _keep(self, name: str, tensor: Tensor) -> None:
        """Take over one tensor."""
        check_finite(name, tensor)
        path, _, leaf = name.rpartition(".")
        module = self.get_submodule(path)
        if isinstance(module, Int8Linear):
            module.keep(tensor)
            return
        getattr(module, leaf).copy_(tensor)

    def _text_encoder_directory(self, name: str) -> Path:
        inside = self.directory / name if self.directory is not None else Path(name)
        return inside if inside.is_dir() else resolve(name, offline=self.offline)


class _TakeDecoder:
    """Decodes the codes of all takes as they come."""

    def __init__(self, model: StageModel, takes: int, piece_frames: int, *, live: bool = False) -> None:
        self._device = model.runtime.codec_device
        self._live = live
        # On a CPU one by one: what the network holds of one piece fits its caches, and that of several does not.
        decoders = takes if self._device.type == "cpu" else 1
        self._decoders = [StreamingDecoder(model.codec, piece_frames=piece_frames) for _ in range(decoders)]

    def push(self, codes: Tensor) -> Iterator[AudioBlock]:
        """Take the next codes, `[takes, K, t]`."""
        parts = codes.to(self._device).chunk(len(self._decoders))
        return self._blocks([decoder.push(part) for decoder, part in zip(self._decoders, parts, strict=True)])

    def finish(self) -> Iterator[AudioBlock]:
        """End the codes."""
        return self._blocks([decoder.finish() for decoder in self._decoders])

    def _blocks(self, parts: list[Tensor]) -> Iterator[AudioBlock]:
        audio = torch.cat(parts)
        mono = audio.mean(dim=1) if audio.shape[1] > 1 else audio[:, 0]
        if mono.shape[1]:
            for take, samples in enumerate(mono.float().cpu().numpy()):
                yield AudioBlock(take, samples[None], self._live)


def runtime_for(config: StageConfig, device: str, precision: str, *, rounded: bool = False) -> Runtime:
    """Choose device and precision for a model, whose weights may be stored as int8; see `core/precision.py`."""
    lm = config.lm
    widths = (lm.dimension, lm.feed_forward, lm.codebooks * lm.codebook_size)
    return choose_runtime(
        device,
        precision,
        parameters=lm.parameters,
        multiple_of_32=all(width % 32 == 0 for width in widths),
        rounded=rounded,
    )


@contextmanager
def memory_errors(config: StageConfig, runtime: Runtime) -> Generator[None]:
    """Turn running out of memory, in whichever way a device says it, into a DeviceError with what would fit."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(config, runtime) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # torch's allocator for the CPU
            raise
        raise _out_of_memory(config, runtime) from error


def _out_of_memory(config: StageConfig, runtime: Runtime) -> DeviceError:
    """Make the error for a device whose memory is too small, with what would fit."""
    sizes = ", ".join(
        f"{precision} {config.lm.parameters * width / 1e9:.1f} GB" for precision, width in BYTES_PER_WEIGHT.items()
    )
    smaller = "a smaller `model`" if runtime.quantized else "`precision` int8 on `device` cpu, or a smaller `model`"
    return DeviceError(
        f"Out of memory on {runtime.device}",
        why=f"this model's weights alone need: {sizes}",
        next_step=f"try {smaller}, or fewer `variations`",
    )
