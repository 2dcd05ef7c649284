"""The service's own engine and settings in this process, as the service makes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.photographs import photographs
from pellucid.decode.image import decode
from pellucid.engine import Engine
from pellucid.network import names
from pellucid.network.file import load
from pellucid.network.spec import ModelSpec
from pellucid.runtime import choose, cores
from pellucid.types import Pixels, Upload
from service.config import Settings


def load_engine(settings: Settings, slots: int | None = None) -> tuple[Engine, ModelSpec]:
    """The engine that the service would use with these settings, or one of so many ``slots``."""
    cache = Path(settings.cache_dir).expanduser() if settings.cache_dir else None
    network = load(names.find(settings.model, cache))
    runtime = choose.create(
        network,
        engine=settings.engine,
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads or cores.available(),
        slots=slots,
        cache=cache,
    )
    return Engine(network, runtime), network.model


def inputs(spec: ModelSpec) -> Pixels:
    """The photographs as the network takes them ``[12, H, W, 3]``."""
    return np.stack([decode(Upload(data), spec.preprocess, 10**8).pixels for data in photographs()])
