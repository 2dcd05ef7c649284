"""Sources of networks, one module each. Each source of architectures has these functions:

- ``load(name)``: the network with published weights, and its spec (not in ``lite_source``; alone in ``hf_source``)
- ``blank(name, classes, arguments, keys)``: the network with random weights, for a checkpoint with these keys
- ``preprocess(name)``: the preprocessing of its published weights
"""
