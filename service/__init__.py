"""Pellucid: what a convolutional network sees in an image, and why, over HTTP.

::

    bytes -> decode -> DecodedImage -> Job(pixels, Plan, deadline) -> dispatch -> Batch(pixels, plans)
          -> engine -> ForwardRecord(logits, taps, gates, activation at the cut)
          -> explain -> Evidence -> Explanation -> Outcome -> render -> pictures -> api -> response

The folders stand in that order: api takes a request in and sends its reply out, and between lie decode, dispatch,
engine, explain and render. ``app`` joins them.
"""
