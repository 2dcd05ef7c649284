"""The methods of making heat maps, one function each.

Each is a function ``[K, h, w]`` of an Evidence, or of a Probe where it needs more passes than one. Symbols: A the
activation at the layer ``[C, h, w]``, p its positions, y_k the scalar that is explained: the logit of class k (no
softmax), or that less the logits of others. A new method is such a function, with its declaration above it.
"""

from importlib import import_module

from pellucid.explain.methods.registry import METHODS, Method, ProbingMethod, costly, differentiated, explained

__all__ = ["METHODS", "Method", "ProbingMethod", "costly", "differentiated", "explained"]

for _module in ("gradient", "forwards", "sampling"):  # the order of METHODS, which import statements would sort
    import_module(f"{__name__}.{_module}")
