"""One request with images from top to bottom, for every route and protocol. Nothing here loads torch or explains.

- serve: the flow; bodies: bytes -> images and options; one_pass: one image -> its outcome; networks: what is served
- reply: outcomes -> JSON, a picture or numbers; provenance: what computed a reply
- disconnect: cancels the work of a client that leaves; trust_trials: scores a map's perturbations
"""
