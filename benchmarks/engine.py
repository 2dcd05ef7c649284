"""The service's own engine and settings in this process, as the service makes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.photographs import photographs
from models import catalog
from pellucid.decode.image import decode
from pellucid.network.spec import ModelSpec
from pellucid.types import Pixels, Upload
from service.config import Settings
from service.engine import cores
from service.engine.choose import create
from service.engine.torch_engine import TorchEngine


def load_engine(settings: Settings, slots: int | None = None) -> tuple[TorchEngine, ModelSpec]:
    """The engine that the service would use with these settings, or one of so many ``slots``."""
    net, spec = catalog.load(settings.model)
    engine = create(
        net,
        spec,
        engine=settings.engine,
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads or cores.available(),
        slots=slots,
        cache=Path(settings.cache_dir).expanduser() if settings.cache_dir else None,
    )
    return engine, spec


def inputs(spec: ModelSpec) -> Pixels:
    """The photographs as the network takes them ``[12, H, W, 3]``."""
    return np.stack([decode(Upload(data), spec.preprocess, 10**8).pixels for data in photographs()])
