"""The networks: definitions, weights and traced graphs. Nothing here knows of HTTP, requests or the service.

- spec: what a network expects and offers, as frozen data (no torch)
- attention: channel-attention gates, their definition and how they are found
- tracing: torch.fx with known shapes: any batch, one input size
- layout: where a value keeps its channels and positions, and how it is seen as a map
- heads: global average pooling and a linear classifier, recognised
- stages: an early, a middle and a late layer
- graph: a network traced once: names of layers, taps, and the cut into trunk and head
- weights: files of weights, verified and loaded strictly
- insert: gates put into a network by layer name, and their weights as a file
- lite0: the default network
- sources: torchvision, timm and files, one module each
- catalog: name -> network and spec
- training: pictures, damage and the recipe; nothing that serves imports it
- train_gates: command: a folder of labelled pictures in, gate weights out
- check_gates: command: what the gates change, and how much of it needs the picture
"""
