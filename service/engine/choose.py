"""Which engine, on which device, in which precision."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from pellucid.network.spec import ModelSpec
from service.engine.torch_engine import TorchEngine


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU. Raises ValueError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no device {name}: {torch.cuda.device_count()} CUDA devices were found")
    return device


def create(
    net: nn.Module,
    spec: ModelSpec,
    *,
    engine: str,
    device: str,
    precision: str,
    threads: int,
    cache: Path | None,
    slots: int | None = None,
) -> TorchEngine:
    """The engine that the settings ask for; see service.config. Raises ValueError for one that can't be had here."""
    chosen = pick_device(device)
    installed = find_spec("openvino") is not None
    if engine == "openvino" and not (installed and chosen.type == "cpu"):
        missing = f"it runs on the CPU, not on {chosen}" if installed else "install it with pip install 'pellucid[cpu]'"
        raise ValueError(f"there is no OpenVINO engine: {missing}")
    if engine == "torch" or not installed or chosen.type != "cpu":
        bf16 = precision == "bf16" or (precision == "auto" and _pays(chosen))
        return TorchEngine(net, spec, chosen, bf16=bf16, threads=threads, slots=slots)
    from service.engine.openvino_engine import OpenVINOEngine, has_bf16  # an optional package

    bf16 = precision == "bf16" or (precision == "auto" and has_bf16())
    return OpenVINOEngine(net, spec, bf16=bf16, threads=threads, cache=cache, slots=slots)


def _pays(device: torch.device) -> bool:
    """Whether torch is faster in bfloat16 here: on CUDA devices and CPUs that compute in it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
