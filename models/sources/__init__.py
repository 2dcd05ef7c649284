"""Where networks come from, one module each. All offer the same three functions of an architecture's name:

- ``load(name)``: the network with published weights, and its spec
- ``blank(name, classes, arguments, keys)``: the network alone, for a checkpoint that has these keys
- ``preprocess(name)``: the preprocessing that its published weights were trained for
"""
