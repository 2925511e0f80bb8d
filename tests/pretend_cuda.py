"""A CUDA device that is not there: what the code does for one, run with real numbers on the CPU.

A tensor "on" it wraps one on the CPU. As on a real one, operations refuse tensors of two devices, and numbers come
back only by copies and by asking for them, both of which are counted. A graph records the operations of its capture
with the very memory that they used, does none of them, and refuses what a real capture refuses: to ask for a number,
to copy between host and device, results whose size depends on numbers.

It says nothing of what depends on the kernels: their speed, their rounding, their limits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

DEVICE = torch.device("cuda", 0)

_aten = torch.ops.aten
_ASKS = {_aten._local_scalar_dense.default, _aten.equal.default, _aten.is_nonzero.default}
_SIZE_DEPENDS_ON_NUMBERS = {"aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim"}
# Indices may lie on the host, and what is copied may come from there.
_MIXES_DEVICES = {"aten::copy_", "aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}


def _lstm_cell(
    inputs: Tensor, hidden: Tensor, cell: Tensor, bias: Tensor | None = None, hidden_bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    gates = inputs + hidden if bias is None else inputs + hidden + bias + hidden_bias
    i, f, g, o = gates.chunk(4, dim=1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell, gates


def _attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, lse: bool, p: float = 0.0, causal: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    seen, _ = _aten._scaled_dot_product_attention_math(q, k, v, bias, p, causal)
    return seen, seen.new_empty(0), torch.zeros(()), torch.zeros(())


# What torch has for CUDA only.
_FORMULAS = {
    _aten._thnn_fused_lstm_cell.default: _lstm_cell,
    _aten._scaled_dot_product_efficient_attention.default: _attention,
}


class OnDevice(Tensor):
    """A tensor that says it is on the device; `held` holds its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, real: Tensor) -> OnDevice:
        made = Tensor._make_wrapper_subclass(
            cls,
            real.shape,
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            layout=real.layout,
            device=DEVICE,
            requires_grad=False,
        )
        made.held = real
        return made

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{self.held!r} on the pretended {DEVICE}"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Tape:
    """The operations of one capture."""

    def __init__(self) -> None:
        self._operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []
        self._own: set[int] = set()
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self.replays = 0

    @property
    def names(self) -> Counter[str]:
        """How often which operation is in it; views are none."""
        return Counter(func._schema.name for func, *_ in self._operations)

    def shapes(self, name: str) -> list[list[tuple[int, ...]]]:
        """Shapes of the tensors that are given to each operation of a name."""
        given = (_tensors((args, kwargs)) for func, args, kwargs, _ in self._operations if func._schema.name == name)
        return [[tuple(tensor.shape) for tensor in tensors] for tensors in given]

    def check(self, func: Any, tensors: list[Tensor], kwargs: dict[str, Any]) -> None:
        """Refuse what a capture refuses."""
        name = func._schema.name
        kinds = {type(tensor) is OnDevice for tensor in tensors}
        if kwargs.get("device") is not None and tensors:
            kinds.add(torch.device(kwargs["device"]).type == "cuda")
        copies = name in ("aten::copy_", "aten::_to_copy") and len(kinds) > 1
        if func in _ASKS or name in _SIZE_DEPENDS_ON_NUMBERS or copies:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")

    def write(self, written: list[Tensor]) -> None:
        """Remember what lies where an operation is going to write."""
        for tensor in written:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._own:
                self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))

    def add(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], results: list[Tensor]) -> None:
        """Add an operation that made `results`."""
        given = {_memory(tensor) for tensor in _tensors((args, kwargs))}
        fresh = [tensor for tensor in results if _memory(tensor) not in given]
        if fresh or _writes(func):
            self._operations.append((func, args, kwargs, fresh))
        self._own |= {_memory(tensor) for tensor in fresh}

    def end(self) -> None:
        """Undo what was done: a capture does nothing."""
        for storage, before in self._before.values():
            storage.copy_(before)

    def replay(self) -> None:
        """Do it all, in the same memory."""
        self.replays += 1
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            for func, args, kwargs, fresh in self._operations:
                found = _FORMULAS.get(func, func)(*args, **kwargs)
                if len(fresh) == 1 and isinstance(found, Tensor):
                    fresh[0].copy_(found)
                elif fresh:
                    results = _tensors(found)
                    for place, result in zip(fresh, results, strict=True):
                        place.copy_(result)


class PretendedDevice(TorchDispatchMode):
    """The device, as long as the mode is on.

    Attributes:
        tapes: of the captures so far.
        asked: how often a number or a tensor was brought back to the host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tapes: list[Tape] = []
        self.asked = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Deciding(TorchFunctionMode):
    """What torch decides before an operation is one.

    Gives "cuda" its index, for which torch would ask the driver.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = _mapped(self._indexed, (args, kwargs or {}))
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == DEVICE:
            return func(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        if func is torch.nn.functional.scaled_dot_product_attention and args[0].is_cuda:
            return self._attend(*args, **kwargs)
        return func(*args, **kwargs)

    @staticmethod
    def _attend(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """As torch does on CUDA with a mask: one kernel, which wants floats that are added."""
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            nothing = torch.scalar_tensor(-torch.inf, dtype=q.dtype, device=q.device)
            attn_mask = torch.where(attn_mask, 0.0, nothing)
        return _aten._scaled_dot_product_efficient_attention(q, k, v, attn_mask, False, 0.0, is_causal)[0]

    @staticmethod
    def _indexed(x: Any) -> Any:
        return DEVICE if isinstance(x, str | torch.device) and str(x) == "cuda" else x


_now = SimpleNamespace(device=None, tape=None)


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    leaves = _tensors((args, kwargs))
    wrapped = [leaf for leaf in leaves if type(leaf) is OnDevice]
    name, tape = func._schema.name, _now.tape
    asked = kwargs.get("device")
    on_device = bool(wrapped) if asked is None else torch.device(asked).type == "cuda"
    if name == "aten::_pin_memory":
        return args[0].clone()
    if not wrapped and not on_device:
        return func(*args, **kwargs)
    strangers = [leaf for leaf in leaves if type(leaf) is not OnDevice and leaf.dim() > 0]
    if wrapped and strangers and name not in _MIXES_DEVICES:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found cuda:0 and cpu")
    if tape is not None:
        tape.check(func, leaves, kwargs)
    if func in _ASKS or (wrapped and not on_device):
        _now.device.asked += 1
    real_args, real_kwargs = _mapped(_real, (args, kwargs))
    if "device" in real_kwargs and asked is not None:
        real_kwargs["device"] = torch.device("cpu")
    written = _written(func, args, kwargs)
    if tape is not None:
        tape.write([tensor.held for tensor in written if type(tensor) is OnDevice])
    found = _FORMULAS.get(func, func)(*real_args, **real_kwargs)
    if tape is not None:
        tape.add(func, real_args, real_kwargs, _tensors(found))
    if written:
        # Results are the very tensors that were given, in the order in which they were.
        places = {id(_real(tensor)): tensor for tensor in written}
        return _mapped(lambda x: places.get(id(x), _wrap(x, on_device)), found)
    return _mapped(lambda x: _wrap(x, on_device), found)


def _leaves(x: Any) -> Iterator[Any]:
    if isinstance(x, tuple | list):
        for item in x:
            yield from _leaves(item)
    elif isinstance(x, dict):
        yield from _leaves(list(x.values()))
    else:
        yield x


def _tensors(x: Any) -> list[Tensor]:
    return [leaf for leaf in _leaves(x) if isinstance(leaf, Tensor)]


def _mapped(function: Callable[[Any], Any], x: Any) -> Any:
    if isinstance(x, tuple | list):
        return type(x)([_mapped(function, item) for item in x])
    if isinstance(x, dict):
        return {name: _mapped(function, item) for name, item in x.items()}
    return function(x)


def _real(x: Any) -> Any:
    return x.held if type(x) is OnDevice else x


def _wrap(x: Any, on_device: bool) -> Any:
    if not on_device or not isinstance(x, Tensor) or type(x) is OnDevice:
        return x
    # What is to be conjugated or negated at some later time must not be forgotten: the wrapper does not know of it.
    return OnDevice(x.resolve_conj().resolve_neg())


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _writes(func: Any) -> bool:
    return any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments)


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            found += _tensors(given)
    return found


class _Stream:
    def __init__(self, *_: Any, **__: Any) -> None: ...

    def wait_stream(self, other: object) -> None: ...

    def synchronize(self) -> None: ...


class _Event(_Stream):
    def record(self, *_: Any) -> None: ...


class _Graph:
    def __init__(self) -> None:
        self.tape = Tape()

    def pool(self) -> object:
        return self

    def replay(self) -> None:
        self.tape.replay()


@contextmanager
def _capture(graph: _Graph, *_: Any, **__: Any) -> Generator[None]:
    _now.tape = graph.tape
    _now.device.tapes.append(graph.tape)
    try:
        yield
    finally:
        _now.tape = None
        graph.tape.end()


@contextmanager
def _nothing(*_: Any, **__: Any) -> Iterator[None]:
    yield


def _backward(tensor: Tensor, *_: object, **__: object) -> None:
    """Give all parameters that a tensor was made of a gradient; not the true one, for torch's engine wants a driver."""
    waiting, seen = [tensor.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [earlier for earlier, _ in node.next_functions]
        parameter = getattr(node, "variable", None)
        if parameter is not None:
            made_up = torch.full_like(parameter, 1e-3)
            parameter.grad = made_up if parameter.grad is None else parameter.grad + made_up


def _without_gradient(mode: Any) -> None:
    mode.before = torch.is_grad_enabled()
    torch.set_grad_enabled(mode.before and not mode.mode)


def _as_before(mode: Any, *_: object) -> None:
    torch.set_grad_enabled(mode.before)


@contextmanager
def pretended_cuda() -> Generator[PretendedDevice]:
    """Make torch believe in a CUDA device, in this thread; skips the test where there is a real one."""
    if torch.cuda.is_available():
        pytest.skip("there is a real CUDA device")
    device = PretendedDevice()
    replaced: dict[str, Callable[..., Any] | Any] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_name": lambda *_: "a pretended device",
        "is_bf16_supported": lambda *_, **__: True,
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda *_: None,
        "max_memory_allocated": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
        "default_generators": (torch.default_generator,),
        "current_stream": lambda *_: _Stream(),
        "stream": _nothing,
        "device": _nothing,
        "Stream": _Stream,
        "Event": _Event,
        "CUDAGraph": _Graph,
        "graph": _capture,
    }
    torch._C._ensureCUDADeviceGuardSet()  # else torch asks the driver for the current device wherever one is compared
    with ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        stack.enter_context(patch.object(Tensor, "backward", _backward))
        # Tensors of inference mode cannot be wrapped.
        stack.enter_context(patch.object(torch.inference_mode, "__enter__", _without_gradient))
        stack.enter_context(patch.object(torch.inference_mode, "__exit__", _as_before))
        stack.enter_context(patch.object(_now, "device", device))
        stack.callback(torch.backends.cudnn.__setattr__, "enabled", torch.backends.cudnn.enabled)
        torch.backends.cudnn.enabled = False
        # Else parameters keep their type when a module moves, and lose what they hold.
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.enter_context(device)
        stack.enter_context(_Deciding())
        yield device
