"""Records the ATen operations that a function runs, below autograd, with those of gradients taken apart.

What is computed from nothing that is followed, such as a mask of ones and zeros, is a constant, not an operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

aten = torch.ops.aten

# What hands on the same numbers.
_SAME: Final = {
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh.default,
    aten.lift_fresh_copy.default,
    aten.clone.default,
    aten.contiguous.default,
}
# What takes of a tensor that is followed its shape and type alone.
_OF_SHAPE: Final = {
    *(aten.zeros_like.default, aten.ones_like.default, aten.full_like.default, aten.empty_like.default),
    *(aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.new_empty.default),
}
# What autograd does where a part of a tensor was written into.
_OF_MEMORY: Final = {aten.as_strided.default, aten.new_empty_strided.default}
# The views of a part, and what puts another part in its place.
_PARTS: Final = {aten.slice.Tensor: aten.slice_scatter.default, aten.select.int: aten.select_scatter.default}


class TracingError(ValueError):
    """The operations of a network can't be recorded as one graph. The message says why."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of a recording."""

    number: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One operation. In its arguments a Value stands for what is followed; a tensor is a constant. ``many``: it returns
    several tensors.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[Value, ...]
    many: bool

    @property
    def name(self) -> str:
        """``aten.NAME.OVERLOAD``."""
        return str(self.target)


@dataclass(frozen=True, slots=True)
class Recording:
    """``inputs`` are what is followed. ``outputs``: a Value, or a tensor where it is a constant."""

    inputs: tuple[Value, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Any, ...]


def recording(
    function: Callable[..., Iterable[Tensor]],
    inputs: Iterable[Tensor],
    followed: Iterable[Tensor],
    rules: Mapping[Any, Callable[..., Any]],
) -> Recording:
    """What ``function`` does with its ``inputs``. These and ``followed``, in that order, are the recording's inputs.

    ``rules``: operations in terms of others; one that returns NotImplemented leaves its operation as it is.
    Raises TracingError, and whatever the function raises.
    """
    inputs = list(inputs)
    recorder = _Recorder(rules)
    values = tuple(recorder.follow(each) for each in (*inputs, *followed))
    with recorder:
        found = function(*inputs)
    return Recording(values, tuple(recorder.steps), tuple(recorder.leaf(each) for each in found))


def each_leaf(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """``value`` with ``leaf`` applied to everything in it that is no list or tuple."""
    return tuple(each_leaf(each, leaf) for each in value) if isinstance(value, (list, tuple)) else leaf(value)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, rules: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self._rules = rules
        self._count = 0
        self._values: Any = WeakTensorKeyDictionary()
        self._wholes: Any = WeakTensorKeyDictionary()  # a part -> what it is a view of, and by which operation

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """To skip torch's compiler, torch would load it."""
        return False

    def follow(self, tensor: Tensor) -> Value:
        """Give a tensor a Value of its own."""
        value = self._values[tensor] = Value(self._count, tuple(tensor.shape))
        self._count += 1
        return value

    def leaf(self, value: Any) -> Any:
        """The Value of a tensor that is followed; all else as it is."""
        return self._values.get(value, value) if isinstance(value, Tensor) else value

    def _kept(self, value: Any) -> Any:
        """The same, with constants as they are now: they may be written into later."""
        found = self.leaf(value)
        return found.clone() if isinstance(found, Tensor) else found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        named = each_leaf((*args, *kwargs.values()), self.leaf)
        if not _has_value(named) or func in _OF_SHAPE:
            return func(*args, **kwargs)
        if func in _SAME:
            found = func(*args, **kwargs)
            self._values[found] = self._values[args[0]]
            return found
        if func._schema.is_mutable:
            return self._write(func, args, kwargs)
        rule = self._rules.get(func) or (func.decompose if _is_composite(func) else None)
        if rule is not None:
            with self:
                found = rule(*args, **kwargs)
            if found is not NotImplemented:
                return found
        if func in _OF_MEMORY:
            raise TracingError(f"it writes into a part of a tensor, or reads one in the order of its memory ({func})")
        if torch.Tag.data_dependent_output in func.tags:
            raise TracingError(f"it asks for numbers that depend on the pixels ({func})")
        found = func(*args, **kwargs)
        many = not isinstance(found, Tensor)
        results = tuple(self.follow(each) for each in (found if many else (found,)) if isinstance(each, Tensor))
        options = {key: each_leaf(value, self._kept) for key, value in kwargs.items()}
        self.steps.append(Step(func, each_leaf(args, self._kept), options, results, many))
        if func in _PARTS:
            self._wholes[found] = args[0], func, args[1:], kwargs
        return found

    def _write(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation that writes into its first argument: the new numbers, under the old one's name."""
        target = args[0]
        with self:
            new = _written(func, args, kwargs)
        found = func(*args, **kwargs)
        self._replace(target, new)
        return found

    def _replace(self, target: Tensor, new: Tensor) -> None:
        whole = self._wholes.get(target)
        if whole is not None:
            base, func, rest, kwargs = whole
            with self:
                self._replace(base, _PARTS[func](base, new, *rest, **kwargs))
        elif target._is_view() or target.untyped_storage().nbytes() != target.numel() * target.element_size():
            raise TracingError("it writes into a part of a tensor")
        if new in self._values:
            self._values[target] = self._values[new]
        else:
            self._values.pop(target, None)


@lru_cache(None)
def _is_composite(func: Any) -> bool:
    """Whether torch itself takes the operation apart, were it called from above autograd."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


def _written(func: Any, args: Any, kwargs: Any) -> Tensor:
    """What an operation leaves in its first argument, as a new tensor."""
    name = func._schema.name.removeprefix("aten::")
    if name in ("zero_", "fill_"):
        number = 0 if name == "zero_" else args[1]
        return number.expand(args[0].shape) if isinstance(number, Tensor) else torch.full_like(args[0], number)
    if name == "copy_":
        copied: Tensor = args[1].to(args[0].dtype).expand(args[0].shape)
        return copied
    plain = getattr(aten, name.removesuffix("_"), None)
    for overload in plain.overloads() if plain is not None and name.endswith("_") else ():
        other = getattr(plain, overload)
        if _types(other) == _types(func):
            return other(*args, **kwargs)  # type: ignore[no-any-return]
    raise TracingError(f"it writes into a tensor ({func})")


def _types(func: Any) -> list[str]:
    return [str(argument.type) for argument in func._schema.arguments]


def _has_value(leaves: Any) -> bool:
    return any(_has_value(each) if isinstance(each, tuple) else isinstance(each, Value) for each in leaves)
