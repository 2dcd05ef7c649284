"""Networks as torch modules. Only compiling and training need this package; it knows nothing of HTTP or the service.

- catalog: name -> network and spec, which ``pellucid.open`` and the service find by the entry point pellucid.networks
- sources: torchvision, timm and checkpoints, one module each
- lite0: the default network
- attention: the channel-attention gate that Pellucid defines
- insert: gates put into a network by layer name, and their weights as a file
- training: gates are trained and checked here. In the repository alone, not in the wheel
"""
