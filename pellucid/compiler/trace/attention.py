"""Finds self-attention between all tokens in a traced network, and writes torch's fused attention out.

A fused call has no node for the attention matrix. Written as products and a softmax, it computes the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from pellucid.compiler.trace.layout import operation
from pellucid.network.layout import Layout

# Operations that do not change the matrix between the softmax and the product.
_SAME: Final = {"dropout", "identity", "contiguous", "to", "type_as", "clone"}
_PRODUCTS: Final = {"matmul", "bmm"}
_FUSED: Final = {"scaled_dot_product_attention", "multiheadattention"}
# The key in a node's ``meta`` for the path of the module that computes a matrix, if the node has no name of its own.
OWNER: Final = "owner"


@dataclass(frozen=True, slots=True)
class FoundAttention:
    """The attention ``matrix`` ``[B, heads, N, N]``, or ``[B, N, N]``, after the softmax: one row for each query.

    Of the N tokens, the first ``extra`` are not positions; the others are those of the ``grid`` (height, width).
    """

    matrix: fx.Node
    heads: int
    extra: int
    grid: tuple[int, int]


def write_out(
    module: fx.GraphModule, owner: Callable[[fx.Node], str], moved: Callable[[fx.Node, fx.Node], None]
) -> None:
    """Replace fused attention by products and a softmax, except where the call has an unusual form.

    ``owner(node)`` is the path of the module that runs a node. ``moved(old, new)`` is called for each replaced value.
    """
    graph = module.graph
    graph.eliminate_dead_code()  # of the two results of nn.MultiheadAttention, the second is seldom read
    for node in [*graph.nodes]:
        with graph.inserting_before(node):
            if node.op == "call_function" and node.target is F.scaled_dot_product_attention:
                if (given := _arguments(node)) is not None:
                    _replace(node, _attended(graph, *given, owner(node)), moved)
            elif node.op == "call_module" and (attention := _plain_self_attention(node, module)) is not None:
                tokens = _multi_head(graph, attention, node)
                for user in [*node.users]:
                    _replace(user, tokens, moved)
                graph.erase_node(node)
    module.recompile()


def _replace(node: fx.Node, found: fx.Node, moved: Callable[[fx.Node, fx.Node], None]) -> None:
    found.meta = {**node.meta}
    node.replace_all_uses_with(found)
    moved(node, found)
    node.graph.erase_node(node)


def _arguments(node: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node, Any, float] | None:
    """Query, key, value, mask and scale of a fused call; None if it has a form that is not written out."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    given: dict[str, Any] = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    query, key, value = (given[name] for name in names[:3])
    unusual = given.get("dropout_p") or given.get("is_causal") or given.get("enable_gqa")
    if unusual or not all(isinstance(each, fx.Node) and "shape" in each.meta for each in (query, key)):
        return None
    scale = given.get("scale")
    return (
        *(query, key, value, given.get("attn_mask")),
        1 / math.sqrt(query.meta["shape"][-1]) if scale is None else scale,
    )


def _attended(
    graph: fx.Graph, query: fx.Node, key: fx.Node, value: fx.Node, mask: Any, scale: float, owner: str
) -> fx.Node:
    """softmax(q k^T scale + mask) v."""
    half = math.sqrt(abs(scale))  # both factors get the root, as in torch's own formula
    shape = (*query.meta["shape"][:-1], key.meta["shape"][-2])
    query = graph.call_function(torch.mul, (query, math.copysign(half, scale)))
    key = graph.call_function(torch.mul, (graph.call_method("transpose", (key, -2, -1)), half))
    scores = graph.call_function(torch.matmul, (query, key))
    if mask is not None:
        scores = graph.call_function(_masked, (scores, mask))
    matrix = graph.call_method("softmax", (scores, -1))
    matrix.meta.update(shape=shape, owner=owner)
    return graph.call_function(torch.matmul, (matrix, value))


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(mask.logical_not(), -math.inf) if mask.dtype == torch.bool else scores + mask


def _plain_self_attention(node: fx.Node, root: nn.Module) -> nn.MultiheadAttention | None:
    """The module of a call that is self-attention without masks, whose matrix the network does not read; or None."""
    module = root.get_submodule(str(node.target))
    if type(module) is not nn.MultiheadAttention or len(node.args) != 3 or len({*node.args}) != 1:
        return None
    plain = module.batch_first and module._qkv_same_embed_dim and module.bias_k is None and not module.add_zero_attn
    masks = {*node.kwargs} - {"need_weights", "average_attn_weights"}
    reads_tokens = all(operation(user, root) == "getitem" and user.args[1] == 0 for user in node.users)
    return module if plain and reads_tokens and not masks and not module._forward_hooks else None


def _multi_head(graph: fx.Graph, module: nn.MultiheadAttention, node: fx.Node) -> fx.Node:
    tokens, heads = node.args[0], module.num_heads
    assert isinstance(tokens, fx.Node)

    def linear(value: fx.Node, weight: str, bias: str, has_bias: bool) -> fx.Node:
        names = [weight, bias] if has_bias else [weight]
        return graph.call_function(F.linear, (value, *(graph.get_attr(f"{node.target}.{name}") for name in names)))

    merged = linear(tokens, "in_proj_weight", "in_proj_bias", module.in_proj_bias is not None)
    parts = graph.call_method("chunk", (merged, 3, -1))
    batch, count, _ = tokens.meta["shape"]

    def side(number: int) -> fx.Node:
        part = graph.call_method("unflatten", (graph.call_function(_item, (parts, number)), -1, (heads, -1)))
        by_heads = graph.call_method("transpose", (part, 1, 2))  # B heads N d
        by_heads.meta["shape"] = (batch, heads, count, module.head_dim)
        return by_heads

    scale = 1 / math.sqrt(module.head_dim)
    mixed = _attended(graph, side(0), side(1), side(2), None, scale, str(node.target))
    joined = graph.call_method("flatten", (graph.call_method("transpose", (mixed, 1, 2)), 2))
    return linear(joined, "out_proj.weight", "out_proj.bias", module.out_proj.bias is not None)


def _item(parts: tuple[Tensor, ...], number: int) -> Tensor:
    return parts[number]


def find_attentions(graph: fx.Graph, root: nn.Module, layouts: Mapping[fx.Node, Layout]) -> list[FoundAttention]:
    """The self-attentions between all tokens, in order. Empty if the network has attention of another kind as well.

    Such an attention is a softmax over the last axis of ``[B, heads, N, N]`` that is multiplied with values of N
    tokens. Attention in windows, between channels, to fewer keys, or from a class token alone is of another kind.
    All must have the same tokens.
    """
    found: list[FoundAttention] = []
    for node in graph.nodes:
        name = operation(node, root)
        values = _multiplied(node, root) if name == "softmax" else None
        attention = _between_tokens(node, values, layouts) if values is not None else None
        if attention is not None:
            found.append(attention)
        elif values is not None or name in _FUSED:
            return []
    return found if len({(each.extra, each.grid) for each in found}) == 1 else []


def _multiplied(node: fx.Node, root: nn.Module) -> fx.Node | None:
    """The value that a matrix is multiplied with, or None if it is no factor on the left of a product."""
    waiting = [node]
    while waiting:
        matrix = waiting.pop()
        for user in matrix.users:
            name = operation(user, root)
            if name in _PRODUCTS and user.args[0] is matrix and isinstance(user.args[1], fx.Node):
                return user.args[1]
            waiting += [user] if name in _SAME else []
    return None


def _between_tokens(matrix: fx.Node, values: fx.Node, layouts: Mapping[fx.Node, Layout]) -> FoundAttention | None:
    shape = matrix.meta.get("shape", ())
    layout = _nearest(values, layouts)
    if len(shape) not in (3, 4) or shape[-1] != shape[-2] or layout is None:
        return None
    tokens = layout.extra + layout.height * layout.width
    if shape[-1] != tokens or values.meta.get("shape", (tokens, 0))[-2] != tokens:
        return None
    heads = shape[1] if len(shape) == 4 else 1
    return FoundAttention(matrix, heads, layout.extra, (layout.height, layout.width))


def _nearest(node: fx.Node, layouts: Mapping[fx.Node, Layout]) -> Layout | None:
    """The layout of the nearest value that ``node`` is computed from and that has one."""
    waiting = [node]
    while waiting:
        source = waiting.pop(0)
        if source in layouts:
            return layouts[source]
        waiting += source.all_input_nodes
    return None
