"""The processes of a run, their devices and precision: Accelerate on torch.distributed, for one process or many."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stage_cli.core.precision import choose_device, training_precision
from stage_cli.core.training.config.sections import RunConfig
from stage_cli.core.training.engine.all_used import AllUsed, give_zeros
from stage_cli.errors import StageError, UsageError

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
            return self._accelerator.prepare_model(module if self.count == 1 else AllUsed(module))
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
                next_step="see what that process says, then go on with --resume",
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
