"""Channel-attention gates: their weights, each channel's effect by gradient, and the effect of undoing the weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pellucid.explain.evidence import ForwardRecord, first_alone
from pellucid.explain.image_record import ImageRecord
from pellucid.explain.scores import ascending
from pellucid.network.spec import GateSpec
from pellucid.types import GateReading


def readings(
    record: ForwardRecord, images: Sequence[ImageRecord], gates: Sequence[GateSpec]
) -> list[tuple[GateReading, ...]]:
    """Each image's gates with their weights, in the network's order. Empty if its plan does not ask for gates."""
    if not any(image.plan.gates for image in images):
        return [()] * len(images)
    weights = [record.gates[gate.layer].copy() for gate in gates]  # B C each
    orders = [ascending(values) for values in weights]
    return [
        tuple(
            GateReading(gate.layer, gate.type, values[image.number], order[image.number])
            for gate, values, order in zip(gates, weights, orders, strict=True)
        )
        if image.plan.gates
        else ()
        for image in images
    ]


def measured(image: ImageRecord, gate: GateSpec, reading: GateReading) -> GateReading:
    """The reading with the effects and restored channels that the plan asks for, both for the first target.

    ``effects``: gradient x activation behind the gate, summed over positions. With y = s x the gated activation,
    sum_hw (dlogit/dy) y = s dlogit/ds: the weight times the logit's gradient by it, with the response of
    later gates. ``restored``: a pass behind the gate for each channel. Raises GivenUpError.
    """
    if image.plan.effects:
        gradient = first_alone(image.plan, image.record.gate_gradients[gate.layer][image.number])
        reading = replace(reading, effects=reading.weights * gradient)
    if gate.layer in image.plan.restore:
        gains = image.own_probe(gate.after).replaced(image.map(gate.before))
        reading = replace(reading, restored=gains[:, 0])
    return reading
