"""One request with images from top to bottom, for every route and protocol. Nothing here loads torch or explains.

- serve: the flow, cancelled if the client leaves; bodies: bytes -> images and options; one_pass: one image -> outcome
- networks: what is served; reply: outcomes -> JSON, a picture or numbers; provenance: what computed a reply
- tiles: the jobs of one image in tiles; trust_trials: scores a map's perturbations
"""
