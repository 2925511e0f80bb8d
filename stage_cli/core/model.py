"""StageModel: codec + text + language model, loaded tensor by tensor onto one device in one precision."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from stage_cli.core.codec.config import make_codec
from stage_cli.core.lm.linear import Int8Linear
from stage_cli.core.lm.transformer import LanguageModel
from stage_cli.core.model_config import StageConfig
from stage_cli.core.precision import BYTES_PER_WEIGHT, Runtime, choose_runtime
from stage_cli.core.text import TextEncoder
from stage_cli.core.weights.checkpoint import own_shapes, plan_directory
from stage_cli.core.weights.formats import Plan
from stage_cli.core.weights.hub import push_directory, resolve
from stage_cli.core.weights.saving import save_directory
from stage_cli.core.weights.tensors import check_finite
from stage_cli.errors import DeviceError, UsageError, WeightsError


class StageModel(nn.Module):
    """A model that writes stems.

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
                next_step="leave --description out, or use another --model",
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
                next_step="load it with precision float32 or bfloat16",
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
    smaller = "a smaller --model" if runtime.quantized else "--precision int8 --device cpu, or a smaller --model"
    return DeviceError(
        f"Out of memory on {runtime.device}",
        why=f"this model's weights alone need: {sizes}",
        next_step=f"try {smaller}, or fewer --variations",
    )
