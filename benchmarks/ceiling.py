"""The most that this machine can do with the service's own parts: decode threads and one engine, and no HTTP.

A process of its own, so that nothing else of the benchmark runs in it: `python -m benchmarks.ceiling` says that it is
ready, then reads a number of seconds from each line and answers with a line of JSON.
"""

from __future__ import annotations

import json
import queue
import statistics
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

from benchmarks.servers import ROOT


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
        """``rate``: images a second; ``decode`` and ``infer``: seconds of one image alone on the idle machine."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the ceiling's process ended")
        return json.loads(line)


def main() -> None:
    """Measure as often as asked."""
    import numpy as np
    import torch

    from benchmarks.engine import load_engine
    from benchmarks.photographs import photographs
    from service.config import Settings
    from service.decode.image import decode
    from service.engine import cores
    from service.types import Batch, Pixels, Plan, Upload

    settings = Settings()
    engine, spec = load_engine(settings)
    uploads = [Upload(data) for data in photographs()]
    plan = Plan(top_k=5)
    size = settings.max_batch
    decoders = settings.decode_threads or max(2, cores.available())

    def pixels(number: int) -> Pixels:
        return decode(uploads[number % len(uploads)], spec.preprocess, settings.max_megapixels * 10**6).pixels

    def infer(images: list[Pixels]) -> None:
        engine.run(Batch(np.stack(images), (plan,) * len(images)))

    def throughput(seconds: float) -> float:
        ready: queue.Queue[Pixels] = queue.Queue(2 * size)
        stopped = threading.Event()

        def decoding(first: int) -> None:
            torch.set_num_threads(1)
            number = first
            while not stopped.is_set():
                ready.put(pixels(number))
                number += decoders

        threads = [threading.Thread(target=decoding, args=(first,)) for first in range(decoders)]
        for thread in threads:
            thread.start()
        begin, done = time.perf_counter() + min(1.0, seconds / 4), 0
        first = last = 0.0
        while last < begin + seconds:
            infer([ready.get() for _ in range(size)])
            last = time.perf_counter()
            if last < begin:
                first = last
            else:
                done += size
        stopped.set()
        for thread in threads:
            while thread.is_alive():
                try:
                    ready.get(timeout=0.05)
                except queue.Empty:
                    continue
        return done / (last - first)

    def alone(work: Any) -> float:
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
    print(json.dumps({"engine": engine.description}), flush=True)
    for line in sys.stdin:
        rate = throughput(float(line))
        torch.set_num_threads(1)
        decode_s = alone(pixels)
        infer_s = alone(lambda number: infer([images[number % len(images)]]))
        print(json.dumps({"rate": rate, "decode": decode_s, "infer": infer_s}), flush=True)


if __name__ == "__main__":
    main()
