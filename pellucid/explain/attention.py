"""Gates: their weights, and of a channel gate each channel's effect on the logit, and the logit without the weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pellucid.explain.evidence import ForwardRecord
from pellucid.explain.image_record import ImageRecord
from pellucid.explain.scalars import first_target_row
from pellucid.explain.scores import ascending
from pellucid.network.spec import GateSpec
from pellucid.types import GateReading, SpatialGateReading


def readings(
    record: ForwardRecord, images: Sequence[ImageRecord], gates: Sequence[GateSpec]
) -> list[tuple[GateReading, ...]]:
    """Read each image's gate weights, in the network's order. An image whose plan has no ``gates`` gets ``()``."""
    if not any(image.plan.gates for image in images):
        return [()] * len(images)
    weights = [record.gates[gate.layer].copy() for gate in gates]  # each: B C
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


def spatial_readings(image: ImageRecord, gates: Sequence[GateSpec]) -> tuple[SpatialGateReading, ...]:
    """Read the weights of one image's gates of positions. ``()`` if its plan has no ``gates``."""
    values = image.record.spatial_gates
    return tuple(
        SpatialGateReading(gate.layer, gate.type, values[gate.layer][image.number].copy())
        for gate in (gates if image.plan.gates else ())
    )


def with_effects(image: ImageRecord, gate: GateSpec, reading: GateReading) -> GateReading:
    """Return the reading with the ``effects`` and ``restored`` that the plan requests, for the first target.

    ``effects`` ``[C]``: gradient x activation at the gate's output, summed over positions. For the gated activation
    y = s x, sum_hw (dlogit/dy) y = s dlogit/ds, which includes the response of later gates. ``restored`` ``[C]``: the
    change of the logit if one weight is set to 1, measured by one pass behind the gate for each channel. Raises
    GivenUpError if the caller has left.
    """
    if image.plan.effects:
        gradient = first_target_row(image.plan, image.record.gate_gradients[gate.layer][image.number])
        reading = replace(reading, effects=reading.weights * gradient)
    if gate.layer in image.plan.restore:
        gains = image.uncontrasted_probe(gate.after).replacement_effect(image.map(gate.before))
        reading = replace(reading, restored=gains[:, 0])
    return reading
