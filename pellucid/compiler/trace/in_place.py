"""Replaces in-place operations of a traced network, so that later operations never change a layer's value."""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

_AUGMENTED = {
    operator.iadd: operator.add,
    operator.imul: operator.mul,
    operator.isub: operator.sub,
    operator.itruediv: operator.truediv,
}
# torch refuses some views of tensors in channels-last memory format. A reshape copies them and has the same numbers.
_COPIES_OF_VIEWS = {"view": "reshape", "view_as": "reshape_as"}


def setitem(value: Tensor, index: Any, part: Any) -> Tensor:
    """A copy of ``value`` with ``part`` at ``index``."""
    chosen = [*index] if isinstance(index, tuple) else [index]
    if any(isinstance(each, (Tensor, list, bool)) or each is None for each in chosen):
        value = value.clone()
        value[index] = part
        return value
    if any(each is Ellipsis for each in chosen):
        at = next(number for number, each in enumerate(chosen) if each is Ellipsis)
        chosen[at : at + 1] = [slice(None)] * (value.ndim - len(chosen) + 1)
    return _put(value, chosen, part, 0)


def _put(value: Tensor, index: list[Any], part: Any, dim: int) -> Tensor:
    """``setitem`` for numbers and slices, without in-place writes, here or in the backward pass."""
    if not index:
        return torch.as_tensor(part, dtype=value.dtype, device=value.device).expand(value.shape)
    first, *rest = index
    if first == slice(None):
        return _put(value, rest, part, dim + 1)
    if isinstance(first, slice):
        inner = value[(slice(None),) * dim + (first,)]
        chosen = range(value.shape[dim])[first]
        return torch.slice_scatter(
            value, _put(inner, rest, part, dim + 1), dim, chosen.start, max(chosen.stop, chosen.start), chosen.step
        )
    return torch.select_scatter(value, _put(value.select(dim, first), rest, part, dim), dim, first)


def overwritten(node: fx.Node, root: nn.Module) -> fx.Node | None:
    """The value that the operation overwrites with its result, or None if it returns a new value."""
    target: Any = node.kwargs.get("out") or (node.args[0] if node.args else node.kwargs.get("input"))
    return target if isinstance(target, fx.Node) and _is_in_place(node, root) else None


def _is_in_place(node: fx.Node, root: nn.Module) -> bool:
    if node.op == "call_module":
        return getattr(root.get_submodule(str(node.target)), "inplace", False) is True
    if node.op == "call_method":
        return _ends_in_place(str(node.target))
    return (
        bool(node.kwargs.get("inplace") or node.kwargs.get("out"))
        or node.target in _AUGMENTED
        or node.target is setitem
        or _ends_in_place(str(getattr(node.target, "__name__", "")))
    )


def _ends_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def out_of_place(module: fx.GraphModule) -> None:
    """Replace in-place operations by out-of-place ones, and views by reshapes.

    Nodes that read an overwritten value afterwards then read the operation's result, as in the network. Raises
    ValueError if an operation has no out-of-place form.
    """
    graph = module.graph
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        before = overwritten(node, module)
        if before is not None:
            for user in [user for user in before.users if order[user] > order[node]]:
                user.replace_input_with(before, node)
    for node in graph.nodes:
        _replace(node)
    for path in {str(node.target) for node in graph.nodes if node.op == "call_module"}:
        part = module.get_submodule(path)
        if getattr(part, "inplace", False) is True:
            part = copy.copy(part)  # the network itself stays as it is
            part.inplace = False  # type: ignore[assignment]  # a flag, whatever nn.Module.__setattr__ admits
            module.set_submodule(path, part)
    module.recompile()


def _replace(node: fx.Node) -> None:
    """Replace one operation by its out-of-place form."""
    if node.kwargs.get("inplace"):
        node.update_kwarg("inplace", False)
    node.kwargs = {name: value for name, value in node.kwargs.items() if name != "out"}
    if node.target in ("as_strided", torch.as_strided):
        raise ValueError("as_strided depends on the memory format, which differs when the network is served")
    if node.op == "call_method" and isinstance(node.target, str):
        converts_dtype = any(isinstance(entry, torch.dtype) for entry in (*node.args, *node.kwargs.values()))
        node.target = node.target if converts_dtype else _COPIES_OF_VIEWS.get(node.target, node.target)
        if _ends_in_place(node.target):
            node.target = node.target[:-1]
    elif node.op == "call_function":
        name = str(getattr(node.target, "__name__", ""))
        if node.target in _AUGMENTED:
            node.target = _AUGMENTED[node.target]
        elif _ends_in_place(name):  # torch.relu_, functional.leaky_relu_
            function = getattr(torch, name[:-1], None) or getattr(F, name[:-1], None)
            if function is None:
                raise ValueError(f"{name} overwrites its input")
            node.target = function
