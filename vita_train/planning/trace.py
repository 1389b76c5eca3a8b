"""Run real code on tensors without contents, and note what it holds, computes and moves.

Floating tensors are torch's fake ones: they have shapes and no memory. Integers and booleans that
are made from plain ones stay plain, because how many positions are supervised or where documents
begin decides shapes. So the very code that trains can be run for a model and a batch of any size on
any machine, in the time that Python takes to get through it.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten
#: Operations that only look at a tensor in another way, or say something of it.
_VIEWS = frozenset(
    {"view", "reshape", "transpose", "permute", "expand", "slice", "select", "detach"}
)


@dataclass(frozen=True)
class Kernel:
    """One kind of call, by what decides how long it takes."""

    name: str
    flops: float
    """Floating-point operations."""
    moved: int
    """Bytes read and written, at least."""
    dtype: torch.dtype


@dataclass
class Ledger:
    """What is held now, and was held at most."""

    kinds: dict[str, int] = field(default_factory=dict)
    """Bytes by kind of what is held now."""
    now: int = 0
    peak: int = 0
    at_peak: dict[str, int] = field(default_factory=dict)
    """Bytes by kind at the moment of the peak."""
    kernels: Counter[Kernel] = field(default_factory=Counter)
    requests: list[tuple[int, int]] = field(default_factory=list)
    """Number of each piece of memory with its bytes when it was asked for, and with 0 when it was
    let go."""

    def add(self, kind: str, size: int) -> None:
        """Count bytes of a kind, or take them off."""
        self.now += size
        self.kinds[kind] = self.kinds.get(kind, 0) + size
        if self.now > self.peak:
            self.peak, self.at_peak = self.now, dict(self.kinds)

    def move(self, kind: str, to: str, size: int) -> None:
        """Count bytes of one kind as another."""
        self.kinds[kind] -= size
        self.kinds[to] = self.kinds.get(to, 0) + size

    def forget_peak(self) -> None:
        """Let the peak begin anew from what is held now."""
        self.peak, self.at_peak = self.now, dict(self.kinds)


@dataclass(eq=False)
class _Held:
    """A storage that something still refers to."""

    kind: str
    size: int
    number: int
    storage: Callable[[], Any] = lambda: None


class Trace(TorchDispatchMode):
    """Runs what happens within on tensors without contents.

    Args:
        rounding: bytes to a multiple of which the allocator rounds each request.
    """

    def __init__(self, rounding: int = 64) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.kind = "activations"
        """What storages that appear now are counted as."""
        self._rounding = rounding
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._held: dict[int, _Held] = {}
        self._number = 0

    def __enter__(self) -> Trace:
        # Objectives import it. Its constants would be made without contents in here, and whoever
        # computes features later in this process would get those
        import torchaudio.compliance.kaldi  # noqa: F401

        self._apply = nn.Module._apply
        nn.Module._apply = _applied  # type: ignore[method-assign]
        self._fake.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._fake.__exit__(*error)
        nn.Module._apply = self._apply  # type: ignore[method-assign]

    @contextmanager
    def counted_as(self, kind: str) -> Iterator[None]:
        """Count what appears within as a kind."""
        before, self.kind = self.kind, kind
        try:
            yield
        finally:
            self.kind = before

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        kwargs = kwargs or {}
        flat, _ = tree_flatten((args, kwargs))
        tensors = [value for value in flat if isinstance(value, Tensor)]
        if func is _aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return _any_value(args[0].dtype)
        if _stays_plain(func, tensors, args, kwargs):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        args, kwargs = _with_places(func, args, kwargs)
        result = _ctc_table(*args) if func is _aten._ctc_loss.Tensor else func(*args, **kwargs)
        made = [value for value in tree_flatten(result)[0] if isinstance(value, Tensor)]
        for tensor in made:
            self._hold(tensor)
        self._count(func, args, kwargs, result, tensors, made)
        return result

    def begin(self) -> None:
        """Take what is held now for the beginning: how it came about is forgotten."""
        self.ledger.requests = [(held.number, held.size) for held in self._held.values()]
        self.ledger.forget_peak()

    def relabel(self, tensor: Tensor, kind: str) -> None:
        """Count what a tensor lies in as another kind from now on."""
        held = self._held.get(tensor.untyped_storage()._cdata)
        if held is not None:
            self.ledger.move(held.kind, kind, held.size)
            held.kind = kind

    def _hold(self, tensor: Tensor) -> None:
        if not isinstance(tensor, FakeTensor):
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        known = self._held.get(key)
        if known is not None and known.storage() is not None:
            return
        size = -(-storage.nbytes() // self._rounding) * self._rounding
        self.ledger.add(self.kind, size)
        self._number += 1
        held = _Held(self.kind, size, self._number)
        self.ledger.requests.append((held.number, size))

        def gone(_: Any) -> None:
            self.ledger.add(held.kind, -held.size)
            self.ledger.requests.append((held.number, 0))
            if self._held.get(key) is held:
                del self._held[key]

        held.storage = weakref.ref(storage, gone)
        self._held[key] = held

    def _count(
        self,
        func: Any,
        args: Any,
        kwargs: Any,
        result: Any,
        read: list[Tensor],
        made: list[Tensor],
    ) -> None:
        packet = func._overloadpacket
        if packet.__name__ in _VIEWS or func.is_view or not made:
            return
        flops = 0.0
        if (formula := flop_registry.get(packet)) is not None:
            flops = float(formula(*args, **kwargs, out_val=result))
        moved = sum(tensor.numel() * tensor.element_size() for tensor in (*read, *made))
        self.ledger.kernels[Kernel(packet.__name__, flops, moved, made[0].dtype)] += 1


def _applied(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
    """Do what ``nn.Module.to`` and its like do, for parameters that cannot change places as torch
    has them do where they are fake."""
    if recurse:
        for child in module.children():
            _applied(child, change)
    with torch.no_grad():
        for name, parameter in module._parameters.items():
            if parameter is not None and (changed := change(parameter)) is not parameter:
                module._parameters[name] = nn.Parameter(changed, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = change(buffer)
    return module


def _any_value(dtype: torch.dtype) -> float | int | bool:
    return True if dtype is torch.bool else 1.0 if dtype.is_floating_point else 1


def _stays_plain(
    func: Any, tensors: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bool:
    """Say whether a call has to do with plain integers alone."""
    if any(isinstance(tensor, FakeTensor) for tensor in tensors):
        return False
    if func is _aten._local_scalar_dense.default:
        return True
    if any(tensor.is_floating_point() or tensor.device.type == "meta" for tensor in tensors):
        return False
    wanted = kwargs.get("dtype")
    if wanted is not None:
        return not (wanted.is_floating_point or wanted.is_complex)
    if tensors:
        return True
    if func is _aten.full.default:
        return isinstance(args[1], int)
    return func in (_aten.arange.default, _aten.arange.start, _aten.arange.start_step)


def _with_places(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Turn plain masks that choose positions into the numbers of these, which have a shape."""
    if func not in (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default):
        return args, kwargs
    indices: list[Any] = []
    for index in args[1]:
        plain = isinstance(index, Tensor) and not isinstance(index, FakeTensor)
        if plain and index.dtype is torch.bool:
            with unset_fake_temporarily():
                indices += index.nonzero().unbind(1)
        else:
            indices.append(index)
    return (args[0], indices, *args[2:]), kwargs


def _ctc_table(scores: Tensor, targets: Tensor, lengths: Tensor, units: Tensor, *rest: Any) -> Any:
    """Return what CTC gives for scores (T, A, units): a loss for each clip, and a table of all
    frames by all units and the blanks around them."""
    frames, clips, _ = scores.shape
    with unset_fake_temporarily():
        states = 2 * int(units.max()) + 1
    return scores.new_empty(clips), scores.new_empty(clips, frames, states)
