"""One request from top to bottom, whatever route or protocol it came by. Neither torch nor the maths of an explanation
is known here.

- serve: the flow; served: the networks by name; bodies: bytes -> uploads and options
- run: one upload -> its outcome; reply: outcomes -> JSON, a picture or numbers
- disconnect: clients that leave; trust_trials: a map's trials; provenance: what computed a reply
"""
