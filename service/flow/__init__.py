"""One request with images from top to bottom, for every route and protocol. Nothing here loads torch or explains."""
