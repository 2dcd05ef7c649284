"""Chooses the runtime, the device and the precision."""

from __future__ import annotations

import ctypes
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, get_args

from pellucid.network.file import CompiledNetwork
from pellucid.runtime.base import Runtime

EngineName = Literal["auto", "torch", "openvino"]
PrecisionName = Literal["auto", "fp32", "bf16"]
ENGINES: Final = get_args(EngineName)
PRECISIONS: Final = get_args(PrecisionName)


def create(
    network: CompiledNetwork,
    *,
    engine: EngineName = "auto",
    device: str = "auto",
    precision: PrecisionName = "auto",
    threads: int,
    cache: Path | None = None,
    slots: int | None = None,
) -> Runtime:
    """Create the runtime for these settings.

    ``engine``, ``device``, ``precision``: the settings PELLUCID_ENGINE, PELLUCID_DEVICE and PELLUCID_PRECISION.
    The precision ``auto`` is bfloat16 where the processor gains by it, but fp32 for pixels of the depth float32, since
    bfloat16 has 8 significant bits. ``cache`` is the folder for compiled models. ``slots`` is the number of parallel
    passes, by default up to the runtime.

    Raises ValueError if the runtime is not available here.
    """
    for what, given, allowed in (("engine", engine, ENGINES), ("precision", precision, PRECISIONS)):
        if given not in allowed:
            raise ValueError(f"{what} must be {', '.join(allowed[:-1])} or {allowed[-1]}, not {given!r}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, not {device!r}")
    if precision == "auto" and network.model.preprocess.depth == "float32":
        precision = "fp32"
    on_cuda = device.startswith("cuda") or (device == "auto" and engine != "openvino" and _has_cuda())
    installed = find_spec("openvino") is not None
    if engine == "openvino" and (on_cuda or not installed):
        missing = f"it runs on the CPU, not on {device}" if installed else "install it with pip install 'pellucid[cpu]'"
        raise ValueError(f"there is no OpenVINO engine: {missing}")
    missing = ""
    if installed and not on_cuda and engine != "torch":
        from pellucid.runtime.aten_to_openvino import unsupported
        from pellucid.runtime.openvino_runtime import OpenVINORuntime, has_bf16

        missing = ", ".join(unsupported(network.graph.nodes.values()))
        if missing and engine == "openvino":
            raise ValueError(f"OpenVINO can't run {network.model.name}: it has no operation for {missing}")
    if installed and not on_cuda and engine != "torch" and not missing:
        bf16 = precision == "bf16" or (precision == "auto" and has_bf16())
        return OpenVINORuntime(network, bf16=bf16, threads=threads, cache=cache, slots=slots)
    if find_spec("torch") is None:
        if missing:
            raise ValueError(
                f"OpenVINO has no operation for {missing}, so {network.model.name} needs torch: "
                "pip install 'pellucid[torch]'"
            )
        raise ValueError(
            "there is no torch engine: install it with pip install 'pellucid[torch]', or OpenVINO with 'pellucid[cpu]'"
        )
    from pellucid.runtime import torch_runtime

    chosen = torch_runtime.pick_device(device)
    bf16 = precision == "bf16" or (precision == "auto" and torch_runtime.gains_by_bf16(chosen))
    return torch_runtime.TorchRuntime(network, chosen, bf16=bf16, threads=threads, slots=slots)


def _has_cuda() -> bool:
    """Whether there is a CUDA device. Asks the driver, because importing torch takes seconds."""
    if find_spec("torch") is None:
        return False
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
