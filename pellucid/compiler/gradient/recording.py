"""Records the ATen operations that a function runs, below autograd, and rewrites operations by rules.

A recording follows some tensors. A value that depends on none of them, such as a fixed mask, is recorded as a constant.
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

# Operations that return the same numbers.
_SAME: Final = {
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh.default,
    aten.lift_fresh_copy.default,
    aten.clone.default,
    aten.contiguous.default,
}
# Operations that read only the shape and dtype of a tensor.
_OF_SHAPE: Final = {
    *(aten.zeros_like.default, aten.ones_like.default, aten.full_like.default, aten.empty_like.default),
    *(aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.new_empty.default),
}
# Operations that autograd runs when a part of a tensor was written to.
_OF_MEMORY: Final = {aten.as_strided.default, aten.new_empty_strided.default}
# View of a part -> operation that replaces that part.
_PARTS: Final = {aten.slice.Tensor: aten.slice_scatter.default, aten.select.int: aten.select_scatter.default}


class TracingError(ValueError):
    """The operations of a network can't be recorded as one graph. The message says why."""


@dataclass(frozen=True, slots=True)
class Value:
    """A followed tensor of a recording."""

    number: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One operation. In its arguments a Value stands for a followed tensor, and a Tensor is a constant.

    ``many``: the operation returns several tensors.
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
    """``inputs`` are the followed tensors. An output is a Value, or a Tensor if it is constant."""

    inputs: tuple[Value, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Any, ...]


def recording(
    function: Callable[..., Iterable[Tensor]],
    inputs: Iterable[Tensor],
    followed: Iterable[Tensor],
    rules: Mapping[Any, Callable[..., Any]],
) -> Recording:
    """Record what ``function`` does with its ``inputs``. The recording's inputs are these, then ``followed``.

    ``rules`` maps an operation to a function that computes the same by other operations. If it returns NotImplemented,
    the operation itself is recorded. Raises TracingError, and any error of ``function``.
    """
    inputs = list(inputs)
    recorder = _Recorder(rules)
    values = tuple(recorder.follow(tensor) for tensor in (*inputs, *followed))
    with recorder:
        outputs = function(*inputs)
    return Recording(values, tuple(recorder.steps), tuple(recorder.leaf(output) for output in outputs))


def each_leaf(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """Apply ``leaf`` to every item of nested lists and tuples. Lists become tuples."""
    if not isinstance(value, (list, tuple)):
        return leaf(value)
    return tuple([each_leaf(each, leaf) if isinstance(each, (list, tuple)) else leaf(each) for each in value])


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, rules: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self._rules = rules
        self._count = 0
        self._values: Any = WeakTensorKeyDictionary()
        self._wholes: Any = WeakTensorKeyDictionary()  # a view -> its base, and the operation that made it

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: to skip torch's compiler, torch would first load it."""
        return False

    def follow(self, tensor: Tensor) -> Value:
        """Give a tensor a new Value."""
        value = self._values[tensor] = Value(self._count, tuple(tensor.shape))
        self._count += 1
        return value

    def leaf(self, value: Any) -> Any:
        """The Value of a followed tensor; anything else unchanged."""
        return self._values.get(value, value) if isinstance(value, Tensor) else value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        named = each_leaf((*args, *kwargs.values()), self.leaf)
        if not _has_value(named) or func in _OF_SHAPE:
            return func(*args, **kwargs)
        if func in _SAME:
            same = func(*args, **kwargs)
            self._values[same] = self._values[args[0]]
            return same
        if func._schema.is_mutable:
            return self._write(func, args, kwargs)
        rule = self._rules.get(func) or (func.decompose if _is_composite(func) else None)
        if rule is not None:
            with self:
                result = rule(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if func in _OF_MEMORY:
            raise TracingError(f"it writes to a part of a tensor, or reads a tensor by its order in memory ({func})")
        if torch.Tag.data_dependent_output in func.tags:
            raise TracingError(f"it reads numbers that depend on the pixels ({func})")
        result = func(*args, **kwargs)
        many = not isinstance(result, Tensor)
        results = tuple(self.follow(part) for part in (result if many else (result,)) if isinstance(part, Tensor))
        held = each_leaf(named, _snapshot)
        options = dict(zip(kwargs, held[len(args) :], strict=True))
        self.steps.append(Step(func, held[: len(args)], options, results, many))
        if func in _PARTS:
            self._wholes[result] = args[0], func, args[1:], kwargs
        return result

    def _write(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Record an operation that writes to its first argument as one whose result replaces that argument."""
        target = args[0]
        with self:
            new = _written(func, args, kwargs)
        result = func(*args, **kwargs)
        self._replace(target, new)
        return result

    def _replace(self, target: Tensor, new: Tensor) -> None:
        whole = self._wholes.get(target)
        if whole is not None:
            base, func, rest, kwargs = whole
            with self:
                self._replace(base, _PARTS[func](base, new, *rest, **kwargs))
        elif target._is_view() or target.untyped_storage().nbytes() != target.numel() * target.element_size():
            raise TracingError("it writes to a part of a tensor")
        if new in self._values:
            self._values[target] = self._values[new]
        else:
            self._values.pop(target, None)


def _snapshot(leaf: Any) -> Any:
    """A leaf, with a constant copied, because the function may write to it later."""
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


@lru_cache(None)
def _is_composite(func: Any) -> bool:
    """Whether torch decomposes the operation when it is called above autograd."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


def _written(func: Any, args: Any, kwargs: Any) -> Tensor:
    """The value that an in-place operation leaves in its first argument, as a new tensor."""
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
    raise TracingError(f"it writes to a tensor ({func})")


def _types(func: Any) -> list[str]:
    return [str(argument.type) for argument in func._schema.arguments]


def _has_value(leaves: Any) -> bool:
    return any(_has_value(each) if isinstance(each, tuple) else isinstance(each, Value) for each in leaves)
