"""HTTP. A request comes in here and its reply goes out here; neither torch nor the maths of an explanation is known.

- context: around every request; handler: the flow that all POST routes share, in these steps:
- intake: body -> uploads; pellucid.parts: options -> Plan and JSON
- pipeline: one upload -> its result; forms, reply: Outcome -> JSON, a picture or numbers
- predict, explain, compare, system: the routers; protocols: those of other servers
- problems, documented: the contract as the OpenAPI document states it; redoc: one of its two pages
"""
