"""The most that this machine can do with the service's own parts: its decode threads and its engine, and no HTTP.

A process of its own, so that nothing else of the benchmark runs in it: `python -m benchmarks.ceiling` says that it is
ready, then reads a number of seconds from each line and answers with a line of JSON.
"""

from __future__ import annotations

import itertools
import json
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.servers import ROOT

_PLAIN_BATCH: Final = 8


class Ceiling:
    """The process, seen from the outside. It sleeps until it is asked."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.ceiling"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.engine: str = self._answer()["engine"]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def measure(self, seconds: float) -> dict[str, float]:
        """Images a second: ``rate`` the service's way, ``plain`` with torchvision's decoder and one batch at a time.

        ``decode`` and ``infer`` are seconds of one image alone on the idle machine.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        answer: dict[str, float] = self._answer()
        return answer

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the ceiling's process ended")
        return json.loads(line)


def main() -> None:
    """Measure as often as asked: full batches of predictions, as many side by side as the service hands to the engine.

    The plain way is what one would write first: a decoder at hand, and one batch of eight at a time.
    """
    import numpy as np
    import torch
    from torchvision.io import decode_jpeg
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

    from benchmarks.engine import load_engine
    from benchmarks.photographs import photographs
    from pellucid.decode.image import decode
    from pellucid.engine import Engine
    from pellucid.runtime import cores
    from pellucid.types import Batch, InputPixels, Plan, Upload
    from service.config import Settings
    from service.dispatch.worker import SPARE

    settings = Settings()
    engine, spec = load_engine(settings)
    one_at_a_time, _ = load_engine(settings, slots=1)
    uploads = [Upload(data) for data in photographs()]
    plan = Plan(top_k=5)
    size = settings.max_batch or engine.paying_batch
    decoders = settings.decode_threads or max(2, cores.available())

    def pixels(number: int) -> InputPixels:
        return decode(uploads[number % len(uploads)], spec.preprocess, settings.max_megapixels * 10**6).pixels

    buffers = [torch.frombuffer(bytearray(upload.data), dtype=torch.uint8) for upload in uploads]
    sizes, interpolation = spec.preprocess, InterpolationMode(spec.preprocess.interpolation)

    def plain_pixels(number: int) -> InputPixels:
        """What one would write by hand: torchvision's decoder and its resize of bytes."""
        image = decode_jpeg(buffers[number % len(buffers)])
        image = transforms.resize(image, [sizes.resize], interpolation=interpolation, antialias=True)
        taken: InputPixels = transforms.center_crop(image, list(sizes.size)).permute(1, 2, 0).contiguous().numpy()
        return taken

    def infer(images: list[InputPixels], engine: Engine = engine) -> None:
        engine.run(Batch(np.stack(images), (plan,) * len(images)))

    def throughput(
        seconds: float, source: Callable[[int], InputPixels], engine: Engine, size: int, side_by_side: int
    ) -> float:
        ready: queue.Queue[InputPixels] = queue.Queue(2 * size * side_by_side)
        over, emptying = threading.Event(), threading.Event()
        finished: list[float] = []

        def decoding(first: int) -> None:
            torch.set_num_threads(1)
            for number in itertools.count(first, decoders):
                if emptying.is_set():
                    return
                ready.put(source(number))

        def inferring() -> None:
            while not over.is_set():
                infer([ready.get() for _ in range(size)], engine)
                finished.append(time.perf_counter())

        runners = [threading.Thread(target=inferring) for _ in range(side_by_side)]
        feeders = [threading.Thread(target=decoding, args=(first,)) for first in range(decoders)]
        for thread in (*runners, *feeders):
            thread.start()
        begin = time.perf_counter() + min(1.0, seconds / 4)
        time.sleep(begin + seconds - time.perf_counter())
        over.set()
        for thread in runners:  # which finish their batches
            thread.join()
        emptying.set()
        while any(thread.is_alive() for thread in feeders):  # they may wait for room
            with suppress(queue.Empty):
                ready.get(timeout=0.01)
        counted = [moment for moment in finished if begin <= moment < begin + seconds]
        return len(counted) * size / seconds

    def alone(work: Callable[[int], Any]) -> float:
        times = []
        for number in range(3 * len(uploads)):
            started = time.perf_counter()
            work(number)
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    images = [pixels(number) for number in range(len(uploads))]
    for _ in range(3):
        infer(images[:size])
        infer(images[:1])
        infer(images[:_PLAIN_BATCH], one_at_a_time)
    print(json.dumps({"engine": engine.info.description}), flush=True)
    for line in sys.stdin:
        queued = SPARE if engine.queues(engine.lane(plan)) else 0
        rate = throughput(float(line), pixels, engine, size, engine.slots + queued)
        plain = throughput(float(line), plain_pixels, one_at_a_time, _PLAIN_BATCH, 1)
        torch.set_num_threads(1)
        decode_s = alone(pixels)
        infer_s = alone(lambda number: infer([images[number % len(images)]]))
        print(json.dumps({"rate": rate, "plain": plain, "decode": decode_s, "infer": infer_s}), flush=True)


if __name__ == "__main__":
    main()
