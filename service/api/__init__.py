"""HTTP. A request comes in here and its reply goes out here; neither torch nor the maths of an explanation is known.

- context: around every request; handler: the flow that all POST routes share, in these steps:
- intake: body -> uploads; options: what a caller may choose; plan: options -> Plan and Look
- pipeline: one upload -> its result; reply: Outcome -> JSON or a picture
- predict, explain, system: the routers, by what a caller wants
- schemas, problems, documented: the contract as the OpenAPI document states it; redoc: one of its two pages
"""
