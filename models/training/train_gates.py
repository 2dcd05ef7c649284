"""Train the gates of a frozen network: ``python -m models.training.train_gates --data FOLDER --out gates.safetensors``.

The folder holds labelled pictures, ``[source/]CCCC/name.jpg``, where CCCC is the index of the class. After an
interruption, the same command continues from its checkpoint ``<out>.checkpoint`` and gives the same weights.
"""

from __future__ import annotations

import argparse
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn
from tqdm import tqdm

from pellucid.compiler.trace.graph import TracedNetwork
from pellucid.network.spec import PreprocessSpec

from .. import catalog
from ..insert import gate_state, load_gates, with_gates
from ..lite0 import GATED_LAYERS
from .pictures import Sampler, find_pictures
from .recipe import Batch, Lesson, draw_batch, fold, standardise

WARM_UP = 30
CHECKPOINT_EVERY = 50
STATISTICS_PICTURES = 128


class CheckpointError(Exception):
    """The checkpoint is of a run with other settings. The message lists the differences."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides the weights, except the pictures. ``shares``: the sources' weights, by default equal."""

    layers: tuple[str, ...] = GATED_LAYERS
    seed: int = 0
    steps: int = 600
    batch: int = 32
    side: int = 160
    rate: float = 3e-3
    clean: float = 0.3
    static: bool = False
    shares: dict[str, float] = field(default_factory=dict)


def train(
    net: nn.Module, preprocess: PreprocessSpec, sampler: Sampler, settings: Settings, checkpoint: Path
) -> nn.Module:
    """A copy of ``net`` with trained gates. Resumes from ``checkpoint`` if it exists, and removes it at the end."""
    torch.manual_seed(settings.seed)
    size = (settings.side, settings.side)
    gated = with_gates(net, dict.fromkeys(settings.layers, "channel"), size)
    plain = TracedNetwork(net, size)
    with ThreadPoolExecutor(1) as drawing:  # draws the next batch during a training step

        def draw(step: int, number: int = settings.batch) -> Batch:
            # The seed and the step alone decide the batch, so a resumed run draws the same batches.
            chance = np.random.default_rng((settings.seed, step))
            return draw_batch(sampler, preprocess, settings.side, number, settings.clean, chance)

        standardise(gated, plain, draw(settings.steps, STATISTICS_PICTURES).damaged)
        lesson = Lesson(gated, plain, size, settings.static)
        optimizer = torch.optim.AdamW(lesson.parameters, lr=settings.rate, weight_decay=1e-4)
        start = _resume(checkpoint, gated, optimizer, settings)
        coming = drawing.submit(draw, start)
        bar = tqdm(range(start, settings.steps), initial=start, total=settings.steps, unit="step")
        for step in bar:
            batch = coming.result()
            coming = drawing.submit(draw, step + 1)
            for group in optimizer.param_groups:
                group["lr"] = settings.rate * _schedule(step, settings.steps)
            optimizer.zero_grad()
            loss = lesson.loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(lesson.parameters, 5.0)
            optimizer.step()
            bar.set_postfix(loss=f"{loss.item():.3f}")
            if (step + 1) % CHECKPOINT_EVERY == 0:
                _save(checkpoint, step + 1, gated, optimizer, settings)
    checkpoint.unlink(missing_ok=True)
    fold(gated)
    return gated


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then a half cosine to zero."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / max(1, steps - WARM_UP)))


def _save(path: Path, step: int, gated: nn.Module, optimizer: torch.optim.Optimizer, settings: Settings) -> None:
    state = {
        "step": step,
        "settings": json.dumps(asdict(settings)),
        "gates": gate_state(gated),
        "optimizer": optimizer.state_dict(),
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)  # atomic, so an interrupted run leaves a whole checkpoint


def _resume(path: Path, gated: nn.Module, optimizer: torch.optim.Optimizer, settings: Settings) -> int:
    """Load gates and optimizer from the checkpoint, if it exists. Returns the next step."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    before, now = json.loads(state["settings"]), json.loads(json.dumps(asdict(settings)))
    differing = [f"{key} {before.get(key)} -> {now[key]}" for key in now if before.get(key) != now[key]]
    if differing:
        raise CheckpointError(
            f"{path.name} is of a run with other settings ({', '.join(differing)}): remove it, or use them"
        )
    load_gates(gated, state["gates"], path.name)
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _share(text: str) -> tuple[str, float]:
    source, _, weight = text.rpartition("=")
    return source, float(weight)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "models.training.train_gates", description="Train the channel-attention gates of a network."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of [source/]CCCC/name.jpg")
    parser.add_argument("--out", type=Path, required=True, help="the file of weights to write (safetensors)")
    parser.add_argument("--model", default="lite0-plain", help="a network of the catalogue (%(default)s)")
    parser.add_argument("--layers", nargs="+", default=GATED_LAYERS, help="layers that get a gate behind them")
    parser.add_argument("--share", type=_share, action="append", default=[], metavar="SOURCE=WEIGHT")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Settings.steps, help="(%(default)s)")
    parser.add_argument("--batch", type=int, default=Settings.batch, help="pictures a step (%(default)s)")
    parser.add_argument("--side", type=int, default=Settings.side, help="side of the square crops (%(default)s)")
    parser.add_argument("--rate", type=float, default=Settings.rate, help="the highest learning rate (%(default)s)")
    parser.add_argument("--clean", type=float, default=Settings.clean, help="share of undamaged crops (%(default)s)")
    parser.add_argument(
        "--static", action="store_true", help="train gates that do not depend on the picture, for comparison"
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    if not options.out.parent.is_dir():
        parser.error(f"--out: there is no folder {options.out.parent}")
    torch.set_num_threads(options.threads)
    settings = Settings(
        tuple(options.layers),
        options.seed,
        options.steps,
        options.batch,
        options.side,
        options.rate,
        options.clean,
        options.static,
        dict(options.share),
    )
    net, spec = catalog.load(options.model)
    sampler = Sampler(find_pictures(options.data, "fit"), settings.shares)
    gated = train(net, spec.preprocess, sampler, settings, options.out.with_suffix(".checkpoint"))
    metadata = {"model": options.model, "recipe": json.dumps(asdict(settings))}
    safetensors.torch.save_file(gate_state(gated), options.out, metadata)


if __name__ == "__main__":
    main()
