"""Gradients that all arrive, also those of parameters that a pass does not use.

A pass in which no item has a description uses no weight that reads one. Processes that share gradients wait for each
of them. DDP can search the graph for such parameters, in each pass; FSDP2 cannot at all.

The processes of a run, their devices and precision: Accelerate on torch.distributed, for one process or many.

One run writes one folder.

Ctrl-C and SIGTERM while a run goes: the first one is a wish, the next one an order.

The numbers of a step, brought together over passes and processes, and from the device in one transfer.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from stage_cli.core.files import display_name, lock_file
from stage_cli.core.machine import STOP_SIGNALS
from stage_cli.core.precision import choose_device, training_precision
from stage_cli.core.training.settings import RunConfig
from stage_cli.errors import Cancelled, StageError, UsageError


class UnusedParameters(nn.Module):
    """Calls a module, and ties its trainable parameters to the loss, without changing a gradient.

    Those that are not used then report that they have none, which DDP takes for zero.

    Args:
        module: `forward(inputs)` returns a dictionary with "loss".
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        """Return what the module returns."""
        outputs = self.module(inputs)
        parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        return {**outputs, "loss": _Tie.apply(outputs["loss"], *parameters)}


def give_zeros(unit: nn.Module, units: Sequence[nn.Module]) -> None:
    """Let the trainable parameters that a unit does not use have zero gradients, for FSDP2; call it before sharding.

    Inside its forward pass, and nowhere else, a unit's parameters are whole.

    Args:
        unit: its `forward` is replaced; it returns a tensor, a tuple that begins with one, or a dictionary
            with "loss".
        units: all of them; the parameters of those inside this one are theirs.
    """
    places = _own_parameters(unit, {id(other) for other in units if other is not unit})
    forward = unit.forward

    def tied(*arguments: Any, **options: Any) -> Any:
        outputs = forward(*arguments, **options)
        parameters = [getattr(module, name) for module, name in places]
        if isinstance(outputs, Mapping):
            return {**outputs, "loss": outputs["loss"] + _Zero.apply(outputs["loss"], *parameters)}
        first, *rest = outputs if isinstance(outputs, tuple) else (outputs,)
        tied_first = first + _Zero.apply(first, *parameters)  # a sum: FSDP2 wants no views
        return (tied_first, *rest) if isinstance(outputs, tuple) else tied_first

    unit.forward = tied


def _own_parameters(module: nn.Module, others: set[int]) -> list[tuple[nn.Module, str]]:
    found = [(module, name) for name, parameter in module.named_parameters(recurse=False) if parameter.requires_grad]
    for child in module.children():
        if id(child) not in others:
            found += _own_parameters(child, others)
    return found


class _Tie(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, *parameters: Tensor) -> Tensor:
        ctx.count = len(parameters)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # ty: ignore[incompatible-method-override]
        return (gradient, *[None] * ctx.count)


class _Zero(torch.autograd.Function):
    """A scalar zero of an output's kind, as if it was computed of the parameters."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, *parameters: Tensor) -> Tensor:
        ctx.kinds = [(parameter.shape, parameter.dtype, parameter.device) for parameter in parameters]
        return output.new_zeros(())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # ty: ignore[incompatible-method-override]
        del gradient
        return (None, *(torch.zeros(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.kinds))


_ACCELERATES = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


class Processes:
    """The processes of a run, seen from one of them; made by `joined`.

    Attributes:
        device: of this process.
        precision: of the forward pass: "float32", "bfloat16" or "float16".
        count: of all processes.
        number: of this one, from 0; 0 is the main process.
        scaler: scales the loss in float16; None in other precisions.
    """

    def __init__(self, accelerator: Any, precision: str) -> None:
        self._accelerator = accelerator
        self.device: torch.device = accelerator.device
        self.precision = precision
        self.count: int = accelerator.num_processes
        self.number: int = accelerator.process_index
        self.scaler: Any = accelerator.scaler

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and tells what happens."""
        return self.number == 0

    def prepare(self, module: nn.Module, run: RunConfig, units: Sequence[str]) -> nn.Module:
        """Place a module and let the processes train it together; the module itself is changed, and usually wrapped.

        Args:
            module: to be trained.
            run: precision, sharding, compile.
            units: class names of its repeated parts.
        """
        parts = [part for part in module.modules() if type(part).__name__ in units]
        if run.compile:
            for part in parts or [module]:
                part.compile()
        if run.sharding == "ddp":
            return self._accelerator.prepare_model(module if self.count == 1 else UnusedParameters(module))
        module = self._accelerator.prepare_model(module, evaluation_mode=True)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(self.device.type, (self.count,))
        half = {"bfloat16": torch.bfloat16}.get(self.precision)
        # Weights and their sums over processes stay float32.
        policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for part in [*parts, module]:
            give_zeros(part, parts)
        for part in [*parts, module]:
            fully_shard(part, mesh=mesh, mp_policy=policy)
        return module

    @contextmanager
    def accumulating(self, module: nn.Module, *, last: bool) -> Generator[None]:
        """Let gradients stay in this process, but for the `last` pass of a step."""
        if hasattr(module, "set_requires_gradient_sync"):  # FSDP2
            module.set_requires_gradient_sync(last)  # ty: ignore[not-callable]
            yield
            return
        with contextlib.nullcontext() if last else self._accelerator.no_sync(module):
            yield

    def backward(self, loss: Tensor) -> None:
        """Compute gradients, scaled in float16."""
        self._accelerator.backward(loss)

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context of a forward pass in the run's precision."""
        return self._accelerator.autocast()

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes; it goes by the way of the run's device."""
        if self.count == 1:
            return values
        moved = values.to(self.device, copy=True)
        torch.distributed.all_reduce(moved)
        return moved.to(values.device)

    def gather(self, values: Iterable[Any]) -> list[Any]:
        """Return small plain objects of all processes, process after process."""
        if self.count == 1:
            return list(values)
        gathered: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(gathered, list(values))
        return [value for part in gathered for value in part]

    def only_main(self, action: Callable[[], object]) -> None:
        """Let the main process do something while the others wait; if it fails, it fails on all of them.

        Raises:
            StageError: what the action raised.
        """
        failure: StageError | None = None
        if self.is_main:
            try:
                action()
            except StageError as error:
                failure = error
        failure = self.gather([failure])[0]
        if failure is not None:
            raise failure

    def wait(self) -> None:
        """Wait for all processes."""
        self._accelerator.wait_for_everyone()


@contextmanager
def joined(run: RunConfig) -> Generator[Processes]:
    """Join the processes that `torchrun` or `accelerate launch` started; without these, be the only one.

    Accelerate keeps its state for the process; here it ends with the run.

    Raises:
        UsageError: the device cannot do the precision, or the combination is not possible.
        DeviceError: the device is absent.
        StageError: another process has ended while this one waits for it.
    """
    device = choose_device(run.device)
    precision = training_precision(run.precision, device)
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    _check(run, precision, device, several=several)
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    AcceleratorState._reset_state(reset_partial_state=True)
    began = not torch.distributed.is_initialized()
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=_ACCELERATES[precision])
    try:
        yield Processes(accelerator, precision)
        if began and torch.distributed.is_initialized():
            accelerator.wait_for_everyone()
            torch.distributed.destroy_process_group()
    except RuntimeError as error:
        if accelerator.num_processes > 1 and _says_that_another_ended(error):
            raise StageError(
                "another process of this run has ended",
                why="the processes train together, and cannot go on without it",
                next_step="see what that process says, then go on with `resume`",
            ) from None
        raise
    finally:
        accelerator.free_memory()
        AcceleratorState._reset_state(reset_partial_state=True)


def _says_that_another_ended(error: RuntimeError) -> bool:
    text = str(error)
    phrases = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited")
    return isinstance(error, torch.distributed.DistError) or any(phrase in text for phrase in phrases)


def _check(run: RunConfig, precision: str, device: torch.device, *, several: bool) -> None:
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM"):
        if os.environ.get(name, "false").lower() in ("1", "true"):
            raise UsageError(
                f"accelerate was told to use {name.removeprefix('ACCELERATE_USE_')}",
                why="how a run is divided among processes is said by run.sharding",
                next_step="use torchrun, or accelerate launch with --multi_gpu and no settings of its own",
            )
    if precision == "float16" and device.type != "cuda":
        raise UsageError(
            f'run.precision = "float16" is not possible on {device.type}',
            why="its loss scaling needs CUDA",
            next_step='use "bfloat16", "float32" or "auto"',
        )
    if several and device.type == "mps":
        raise UsageError('run.device = "mps" is for one process', next_step='use "cpu", or one process')
    if several and device.index is not None:
        raise UsageError(
            f'run.device = "{run.device}" is for one process', next_step='use "cuda": each process takes one of its own'
        )
    if run.sharding != "fsdp":
        return
    if not several:
        raise UsageError(
            'run.sharding = "fsdp" is for several processes', next_step='start them with torchrun, or use "ddp"'
        )
    if precision == "float16":
        raise UsageError(
            'run.sharding = "fsdp" is not possible with run.precision = "float16"',
            why="the loss scaling would be of each process alone",
            next_step='use "bfloat16"',
        )


_LOCK_FILE = ".lock"


@contextmanager
def locked(directory: Path) -> Generator[None]:
    """Keep other runs out of a folder, which is made; the lock ends with this process, however that ends.

    Where there are no such locks (some network disks) nothing is kept out.

    Raises:
        UsageError: another process holds it.
        StageError: the folder cannot be made.
    """
    path = directory / _LOCK_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    except OSError as error:
        raise StageError(
            f"cannot use the folder {display_name(directory)}",
            why=error.strerror or str(error),
            next_step="choose another run.directory",
        ) from None
    try:
        if not lock_file(handle):
            raise UsageError(
                f"another process is training in {display_name(directory)}",
                next_step="wait for it, or choose another run.directory",
            )
        yield
    finally:
        os.close(handle)


_ONE_WISH = 1.0  # seconds


class StopRequests:
    """Notes the first signal, and lets a later one do what it did before. Use it as a context manager.

    What arrives within a second of the first one is the same wish: terminals and batch systems signal all processes,
    and programs that start others pass their own signals on. Signals that are ignored (`nohup`) stay ignored. Outside
    the main thread nothing is noted: Python allows it only there.

    Args:
        patient: only ever note signals, for processes whose launcher (`torchrun`) kills them if they do not end.

    Attributes:
        number: of the first signal, or None.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.number: int | None = None
        self._patient = patient
        self._noted = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                handler = signal.getsignal(number)
                if handler not in (signal.SIG_IGN, None):
                    self._before[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def check(self) -> None:
        """End work that can be done again, if somebody has asked to stop.

        An exception that the signal itself raises could come in the middle of anything: of an import, say, which leaves
        half a module behind.

        Raises:
            Cancelled: somebody has.
        """
        if self.number is not None:
            raise Cancelled

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.number is None:
            self.number, self._noted = number, time.monotonic()
        elif not self._patient and time.monotonic() - self._noted > _ONE_WISH:
            signal.signal(number, self._before.get(number, signal.SIG_DFL))
            signal.raise_signal(number)


@dataclass(frozen=True)
class StepReport:
    """What all processes know of a step before its gradients are used.

    Attributes:
        numbers: means over the step's micro-batches, by name; "loss" is one of them.
        norm: of the gradients.
        bad_losses: micro-batches whose loss is not finite.
        audio_seconds: of all of them together.
        signal: one that a process was sent, or None.
    """

    numbers: dict[str, float]
    norm: float
    bad_losses: int
    audio_seconds: float
    signal: int | None


class StepNumbers:
    """Collects the numbers of one step on one process; nothing waits for the device before `report`."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sum: Tensor | None = None
        self._passes = 0
        self._audio_seconds = 0.0
        self.finite: list[Tensor] = []

    def add(self, outputs: Mapping[str, Tensor], audio_seconds: float) -> None:
        """Take what the module returned for a micro-batch."""
        numbers = {name: outputs[name].detach() for name in sorted(outputs)}
        self._names = [entry for name, value in numbers.items() for entry in _entries(name, value)]
        flat = torch.cat([value.reshape(-1).float() for value in numbers.values()])
        self._sum = flat if self._sum is None else self._sum + flat
        self.finite.append(torch.isfinite(numbers["loss"]).reshape(1))
        self._passes += 1
        self._audio_seconds += audio_seconds

    def report(self, processes: Processes, norm: Tensor, signal: int | None) -> StepReport:
        """Sum over the processes; every process has the same report, but for rounding none."""
        if self._sum is None:
            raise ValueError("a step without a micro-batch")
        device = self._sum.device
        known = [self._audio_seconds, *(float(signal == number) for number in STOP_SIGNALS)]
        bad = (~torch.cat(self.finite)).sum().reshape(1).float()
        summed = processes.sum(torch.cat([torch.tensor(known, device=device), bad, self._sum]))
        audio_seconds, *rest, norm_value = torch.cat([summed, norm.reshape(1).float()]).tolist()
        stops, (bad_losses, *sums) = rest[: len(STOP_SIGNALS)], rest[len(STOP_SIGNALS) :]
        passes = self._passes * processes.count
        return StepReport(
            numbers={name: value / passes for name, value in zip(self._names, sums, strict=True)},
            norm=norm_value,
            bad_losses=round(bad_losses),
            audio_seconds=audio_seconds,
            signal=next((number for number, stop in zip(STOP_SIGNALS, stops, strict=True) if stop), None),
        )


def _entries(name: str, value: Tensor) -> list[str]:
    """Name the numbers of an output: codebook_losses → loss/codebook_1, …; others of a vector → name/1, …."""
    if value.ndim == 0:
        return [name]
    stem = f"loss/{name.removesuffix('_losses')}_" if name.endswith("_losses") else f"{name}/"
    return [f"{stem}{number}" for number in range(1, value.numel() + 1)]
