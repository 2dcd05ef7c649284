"""The heat-map methods, one function each.

A method is a function of an Evidence, of a Probe if it needs more than one gradient, or of an Attended if it reads
attention, and returns maps ``[K, h, w]``.
To add a method, write such a function with its ``@method`` declaration above it.

Symbols in the docstrings: A is the activation at the layer ``[C, h, w]``, and p its positions. y_k is the explained
scalar: the logit of class k before the softmax, or its difference from the logits of a contrast.
"""

from importlib import import_module

from pellucid.explain.methods.registry import (
    METHODS,
    AttentionMethod,
    Method,
    ProbingMethod,
    attends,
    choices,
    costly,
    differentiated,
    explained,
    offered,
)

__all__ = [
    "METHODS",
    "AttentionMethod",
    "Method",
    "ProbingMethod",
    "attends",
    "choices",
    "costly",
    "differentiated",
    "explained",
    "offered",
]

# METHODS has this order. As imports, a formatter would sort them.
for _module in ("gradient", "attention", "score_and_ablation", "sampling"):
    import_module(f"{__name__}.{_module}")
