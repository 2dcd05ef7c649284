"""The networks: definitions, weights and traced graphs. Nothing here knows of HTTP, requests or the service.

- spec: what a network expects and offers, as frozen data (no torch)
- attention: channel-attention gates, their definition and how they are found
- graph: a network traced once: names of layers, taps, and the cut into trunk and head
- weights: files of weights, verified and loaded strictly
- lite0: the default network
- catalog: name -> network and spec
"""
