"""Networks as torch modules. Only compiling and training need this package; it knows nothing of HTTP or the service.

- catalog: name -> network and spec, which ``pellucid.open`` and the service find by the entry point pellucid.networks
- sources: torchvision, timm and checkpoints, one module each
- weights: files of weights, verified and loaded strictly
- lite0: the default network
- attention: the channel-attention gate that Pellucid defines
- insert: gates put into a network by layer name, and their weights as a file
- training: pictures, damage and the recipe
- train_gates: command: a folder of labelled pictures in, gate weights out
- check_gates: command: what the gates change, and how much of it needs the picture
"""
