"""A replica's metrics in Ray's: its agent on each node offers them to Prometheus, by replica."""

from __future__ import annotations

import threading
import time
from typing import Final

from prometheus_client import CollectorRegistry
from ray.serve.metrics import Gauge

# Ray's agents are read every ten seconds by default.
_EVERY_S: Final = 5.0


def export(registry: CollectorRegistry) -> None:
    """Copy every sample into Ray's metrics now and then, for as long as the process lives.

    Behind a proxy that chooses a replica, ``/metrics`` would be another one's each time. Counters and histograms become
    gauges of the same value and labels, which ``rate`` and ``histogram_quantile`` don't mind.
    """
    gauges: dict[str, Gauge] = {}

    def copy() -> None:
        while True:
            for family in registry.collect():
                for sample in family.samples:
                    if sample.name not in gauges:
                        gauges[sample.name] = Gauge(sample.name, family.documentation, tuple(sample.labels))
                    gauges[sample.name].set(sample.value, dict(sample.labels))
            time.sleep(_EVERY_S)

    threading.Thread(target=copy, name="metrics", daemon=True).start()
