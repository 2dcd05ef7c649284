"""Networks as torch modules. Only compiling and training need this package.

- catalog: loads a network and its spec by name; registered as the entry point pellucid.networks
- sources: networks of torchvision, timm and checkpoints, one module each
- weights: verifies weights files and loads them strictly
- lite0: the default network
- attention: Pellucid's channel-attention gate
- insert: inserts gates into a network by layer name
- training: pictures, corruptions and the recipe
- train_gates: the command that trains gates on a folder of labelled pictures
- check_gates: the command that compares a network with and without its gates
"""
