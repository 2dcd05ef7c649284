"""One request from top to bottom, whatever route or protocol it came by. Neither torch nor the maths of an explanation
is known here.

- serve: the flow; body: bytes -> uploads and options; pellucid.parts: options -> Plan, outcomes -> JSON
- run: one upload -> its outcome; forms, reply: outcome -> JSON, a picture or numbers
- disconnect: bodies that come late, and callers who leave; trust_trials: a map's trials; provenance: what computed it
"""
