"""Pellucid over HTTP: what a convolutional network sees in an image, and why. The library is the package pellucid.

::

    bytes -> pellucid.decode -> DecodedImage -> Job(pixels, Plan, deadline) -> dispatch -> Batch(pixels, plans)
          -> pellucid.engine -> Outcome -> pellucid.parts, pellucid.render -> result -> api -> response

- api: takes a request in and sends its reply out; dispatch: who is let in, what runs next, the threads that run it
- telemetry: log, metrics, traces; commands: the command line; scale: replicas of Ray Serve
- app: joins them
"""
