"""Compares a network with and without gates: ``python -m models.training.check_gates --data FOLDER``.

The folder holds labelled pictures, ``[source/]CCCC/name.jpg``. The command prints a table for the plain network, for
the network with each file of gates, and for the first file's gates frozen at their mean weights. The frozen gates show
how much of the gain depends on the picture. All networks see the same pixels.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pellucid.compiler.trace.gates import names_without_gates
from pellucid.compiler.trace.graph import TracedNetwork
from pellucid.compiler.weights import read_state
from pellucid.network.spec import PreprocessSpec

from .. import catalog
from ..attention import ChannelAttention
from ..insert import gates_of, load_gates, with_gates
from ..lite0 import GATED_LAYERS
from .corruptions import HELD_OUT, TRAINED, Picture
from .pictures import Labelled, centre_crop, find_pictures, random_crop, to_pixels
from .recipe import frozen

CORRUPTIONS = TRAINED | HELD_OUT
# One of each of ImageNet-C's four families, then two that are not used in training.
SIX = ("noise", "blur", "fog", "jpeg", "impulse", "motion")
BATCH = 25


@dataclass(frozen=True, slots=True)
class Answers:
    """One network's answers under one condition: the top class ``[N]``, and each gate's weights ``[N, C]``."""

    top1: Tensor
    gates: dict[str, Tensor]


def freeze_gates(gated: nn.Module, means: Mapping[str, Tensor]) -> nn.Module:
    """A copy whose gates have constant weights ``means`` ``[C]``, by their last bias b: g = 2 sigmoid(b + b)."""
    fixed = copy.deepcopy(gated)
    name = names_without_gates(fixed)
    for path, layer in gates_of(fixed):
        mean = means[name(f"{path}.gate")]
        gate = ChannelAttention(len(mean))  # its last layer is zero except for the bias
        nn.init.zeros_(gate.squeeze.weight)
        gate.excite.bias.data = torch.logit(mean / 2) / 2
        layer.gate = gate
    return fixed


class Examination:
    """The pictures under every condition, ``clean`` first.

    With several ``views`` each picture counts several times: its centre crop, then random crops. That reduces the
    variance for few pictures, though less than more pictures would.
    """

    def __init__(
        self,
        pictures: list[Labelled],
        conditions: tuple[str, ...],
        preprocess: PreprocessSpec,
        dtype: torch.dtype,
        views: int = 1,
    ) -> None:
        self.conditions = ("clean", *conditions)
        self.labels = torch.tensor([picture.label for picture in pictures] * views)
        self.views = views
        self._centres = len(pictures)
        self._pictures = list(enumerate(pictures * views))
        self._preprocess = preprocess
        self._dtype = dtype

    def _show(self, condition: str) -> Iterator[Tensor]:
        """Yield batches of pixels. A view's crop and corruption depend only on its number and the condition."""
        for start in range(0, len(self._pictures), BATCH):
            batch = []
            for number, picture in self._pictures[start : start + BATCH]:
                crop = self._crop(number, picture)
                chance = np.random.default_rng((number, *condition.encode()))
                batch.append(crop if condition == "clean" else CORRUPTIONS[condition](crop, chance.random(), chance))
            yield to_pixels(batch, self._preprocess).to(self._dtype)

    def _crop(self, number: int, picture: Labelled) -> Picture:
        if number < self._centres:
            return centre_crop(picture.path, self._preprocess)
        return random_crop(picture.path, self._preprocess.size[0], np.random.default_rng(number))

    @torch.no_grad()
    def run(self, nets: Mapping[str, nn.Module]) -> dict[str, dict[str, Answers]]:
        """Run the networks. Returns network name -> condition -> answers. All networks see the same pixels."""
        runs, gates = {}, {}
        for name, net in nets.items():
            traced = TracedNetwork(net, self._preprocess.size)
            runs[name] = frozen(traced, [traced.logits, *traced.gates.values()]).to(self._dtype)
            gates[name] = [*traced.gates]
        answers: dict[str, dict[str, Answers]] = {name: {} for name in nets}
        for condition in tqdm(self.conditions, unit="condition"):
            given: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in nets}
            for pixels in self._show(condition):
                for name, run in runs.items():
                    logits, *weights = run(pixels)
                    given[name].append((logits.argmax(1), *(value.flatten(1).float() for value in weights)))
            for name, parts in given.items():
                top1, *weights = (torch.cat(part) for part in zip(*parts, strict=True))
                answers[name][condition] = Answers(top1, dict(zip(gates[name], weights, strict=True)))
        return answers

    def accuracy(self, answers: Answers) -> float:
        """Top-1 accuracy in percent."""
        return 100 * (answers.top1 == self.labels).float().mean().item()

    def bias(self, answers: Answers) -> float:
        """Wrong answers that name a class of this folder, in percent of all answers. High if these classes are
        favoured.
        """
        wrong = answers.top1 != self.labels
        return 100 * (wrong & torch.isin(answers.top1, self.labels)).float().mean().item()


def gates_over_all(answers: Mapping[str, Answers]) -> dict[str, Tensor]:
    """Each gate's weights for every picture under every condition, ``[N x conditions, C]``."""
    given = list(answers.values())
    return {gate: torch.cat([answer.gates[gate] for answer in given]) for gate in given[0].gates}


def report(examination: Examination, answers: Mapping[str, Mapping[str, Answers]]) -> str:
    """Markdown tables: all networks compared with the first, and statistics of the second network's gates."""
    plain = next(iter(answers))
    head = [*answers, *(f"{name} - {plain}" for name in answers if name != plain)]
    lines = [
        f"{len(examination.labels) // examination.views} pictures, views of each {examination.views}, top-1 in percent",
        "",
        _row("condition", head),
        _row("---", ["---:"] * len(head)),
    ]

    def row(title: str, figures: dict[str, float]) -> str:
        changes = [f"{figures[name] - figures[plain]:+.1f}" for name in answers if name != plain]
        return _row(title, [*(f"{figure:.1f}" for figure in figures.values()), *changes])

    table = {
        condition: {name: examination.accuracy(given[condition]) for name, given in answers.items()}
        for condition in examination.conditions
    }
    for condition, figures in table.items():
        lines.append(row(f"{condition} (never trained on)" if condition in HELD_OUT else condition, figures))
    damaged = examination.conditions[1:]
    lines.append(
        row("mean of the damaged", {name: sum(table[c][name] for c in damaged) / len(damaged) for name in answers})
    )
    biases = {
        name: sum(examination.bias(given[c]) for c in examination.conditions) / len(examination.conditions)
        for name, given in answers.items()
    }
    lines.append(row("class bias: wrong, but a class of this folder", biases))

    lines += ["", "Gates over all pictures and conditions", "", _row("gate", GATE_COLUMNS), _row("---", ["---:"] * 5)]
    gated = list(answers)[1]
    for gate, weights in gates_over_all(answers[gated]).items():
        statistics = weights.std(0).mean(), weights.mean(), weights.min(), weights.max()
        lines.append(_row(gate, [str(weights.shape[1]), *(f"{value:.3f}" for value in statistics)]))
    return "\n".join(lines)


GATE_COLUMNS = ("channels", "spread: deviation, mean over channels", "mean", "least", "greatest")


def _row(title: str, cells: Iterable[str]) -> str:
    return f"| {' | '.join((title, *cells))} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "models.training.check_gates", description="Compare a network with and without its gates."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of [source/]CCCC/name.jpg")
    parser.add_argument(
        "--part", choices=("all", "fit", "dev"), default="all", help="the part of a training folder (%(default)s)"
    )
    parser.add_argument(
        "--gates",
        type=Path,
        nargs="+",
        default=[catalog.LITE0_GATES],
        help="files of gate weights (the default network's)",
    )
    parser.add_argument("--model", default="lite0-plain", help="a network of the catalogue (%(default)s)")
    parser.add_argument("--layers", nargs="+", default=GATED_LAYERS, help="the layers that have a gate")
    parser.add_argument("--conditions", nargs="+", choices=CORRUPTIONS, default=SIX, help="(%(default)s)")
    parser.add_argument("--views", type=int, default=1, help="crops per picture; the first is the centre")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 instead of float32")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    net, spec = catalog.load(options.model)
    gated = {}
    for path in options.gates:
        gated[path.stem] = with_gates(net, dict.fromkeys(options.layers, "channel"), spec.preprocess.size)
        load_gates(gated[path.stem], read_state(path), path.name)
    pictures = find_pictures(options.data, options.part)
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    examination = Examination(pictures, tuple(options.conditions), spec.preprocess, dtype, options.views)
    answers = examination.run({options.model: net} | gated)
    first = next(iter(gated))
    means = {gate: weights.mean(0) for gate, weights in gates_over_all(answers[first]).items()}
    answers |= examination.run({f"{first} frozen at its mean": freeze_gates(gated[first], means)})
    print(report(examination, answers))  # noqa: T201  the table is what the command is for


if __name__ == "__main__":
    main()
