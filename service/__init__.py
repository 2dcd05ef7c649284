"""Pellucid over HTTP: what a convolutional network sees in an image, and why. The library is the package pellucid.

::

    bytes -> pellucid.decode -> DecodedImage -> Job(pixels, Plan, deadline) -> dispatch -> Batch(pixels, plans)
          -> pellucid.engine -> Outcome -> pellucid.parts, pellucid.render -> flow.reply -> response

- http: the wire, access, errors as replies; flow: one request from top to bottom; routes, protocols: what is answered
- dispatch: admission, forecasts, batches, and the threads that run them
- telemetry: log, metrics, traces; commands: the command line; scale: replicas of Ray Serve
- loading: the networks of the settings; app: builds the service from all of these
"""
