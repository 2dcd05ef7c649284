"""Reads networks from files of other formats as torch modules."""

import pellucid.runtime  # noqa: F401  # before OpenVINO: it reports nothing then
