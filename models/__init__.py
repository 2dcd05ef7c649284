"""The networks: their definition, weights and traced graph. Nothing here knows of HTTP, requests or the service.

    spec       what a network expects and offers, as frozen data (no torch)
    attention  channel-attention gates: definition and detection
    graph      a network traced once: names of layers, taps, and the cut into trunk and head
    weights    files of weights, verified and loaded strictly
    lite0      the default network
    catalog    name -> network and spec
"""
