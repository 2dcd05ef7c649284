"""Networks as torch modules. Only compiling and training need this package.

- catalog: loads a network and its spec by name; registered as the entry point pellucid.networks
- sources: networks of torchvision, timm and checkpoints, one module each
- lite0: the default network
- attention: Pellucid's channel-attention gate
- insert: inserts gates into a network by layer name
- training: trains and checks gates; in the repository only, not in the wheel
"""
