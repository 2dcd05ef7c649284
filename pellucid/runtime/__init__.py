"""Runs the graph of a compiled network. Each runtime is one module that implements the protocol in ``base``."""

import sys

# ``import openvino`` reports itself to Google Analytics, from a forked process, unless this package is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
