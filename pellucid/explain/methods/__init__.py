"""The methods of making heat maps, one function each, and the registry of them.

Each is a function ``[K, h, w]`` of an Evidence, or of a Probe where it needs more passes than one. Symbols: A the
activation at the layer ``[C, h, w]``, p its positions, y_k the scalar that is explained: the logit of class k (no
softmax), or that less the logits of others. A new method is such a function and an entry here.
"""

from pellucid.explain.methods.registry import METHODS, Method, ProbingMethod, costly, differentiated, explained

__all__ = ["METHODS", "Method", "ProbingMethod", "costly", "differentiated", "explained"]
