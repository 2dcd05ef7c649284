"""The nouns that pass from stage to stage. Plain data: numpy arrays, no torch, no HTTP.

Shapes: B images in a batch, K targets, C channels, H and W the network's input, h and w a layer's map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.intp]
Pixels = NDArray[np.uint8]
Levels = NDArray[np.uint16]
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the upright source picture; x1 and y1 lie outside


@dataclass(frozen=True, slots=True)
class Upload:
    """One picture as it came: the bytes and what the sender called them."""

    data: bytes
    filename: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """One picture that came as the network takes it: ``pixels`` is ``[H, W, 3]``, RGB; nothing is left to decode."""

    pixels: Pixels


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What is known of an upload.

    Format and size are None while it has not been decoded; sizes are of the upright picture.
    """

    filename: str | None
    sha256: str
    format: str | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A picture ready for the network: ``pixels`` is ``[H, W, 3]``, RGB, and shows what lies in ``box`` of the source.

    ``picture`` is the whole upright source ``[height, width, 3]``, scaled down where it is larger than wanted, or None
    where nothing is to be drawn over it.
    """

    info: ImageInfo
    pixels: Pixels
    box: Box
    picture: Pixels | None = None


@dataclass(frozen=True, slots=True)
class Tap:
    """Feature maps that are wanted: these ``channels``, or the ``count`` strongest where none are named.

    ``layer`` is a layer, or, with ``gate``, a gate, of which the maps before it, after it, and their difference are
    wanted; the strongest channels are then those that it changed most.
    """

    layer: str
    channels: tuple[int, ...] = ()
    count: int = 16
    gate: bool = False


Needs = Literal["activation", "gradient", "gradients", "forwards", "network forwards"]


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """A method of making heat maps, as callers may choose it.

    ``needs``, beyond the pass that predicts: ``activation``, nothing; ``gradient``, one backward pass for each class
    from the logits to the layer (at a layer before global pooling and a linear classifier none: it is known);
    ``gradients``, so many of them as ``samples``; ``forwards``, a pass behind the layer for each of its channels;
    ``network forwards``, a pass of the whole network for each of them.
    ``at_pixels`` and ``at_layers`` say where it is offered: where both, its default are the pixels. ``signed`` maps
    hold evidence against the class as well; one that is not ``of_class`` is the same for every class.
    """

    name: str
    title: str
    needs: Needs
    formula: str
    paper: str
    at_layers: bool = True
    at_pixels: bool = False
    signed: bool = True
    of_class: bool = True


Fusion = Literal["mean", "max", "product"]


@dataclass(frozen=True, slots=True)
class Heat:
    """A heat map that is wanted of each target: by this method, at this layer, or at several, fused into one."""

    method: str
    layers: tuple[str, ...]
    fuse: Fusion = "mean"


@dataclass(frozen=True, slots=True)
class Contrast:
    """What speaks for a class and not for others: y - weight * mean of the logits of ``against`` in place of y."""

    against: tuple[int, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of the activation at the plan's layer: ``channels`` and their factors; all ``others`` have one as well.

    ``ranked`` asks for each channel what muting it alone would do; ``gate`` names the gate that ends at the layer.
    """

    channels: tuple[tuple[int, float], ...] = ()
    others: float = 1.0
    gate: str = ""
    ranked: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What to compute for one image in one forward pass. ``layer`` None means that nothing is explained at a layer.

    ``layer`` is where the importance of channels is told, and where Grad-CAM is taken if ``heats`` names no maps.
    ``targets`` are class indices; empty means the class with the largest logit. ``samples`` is how many gradients the
    methods take that need several. ``effects`` asks what each gate's channels did for the first target, ``restore``
    names gates of which that is measured, channel by channel. ``scored`` are classes whose scores are wanted besides
    the ``top_k``, ``random_heads`` asks for as many maps of each target that need one gradient or none, ``edit`` for
    what a change of the layer's channels would do. ``reproducible`` asks that no bit depend on what else runs: a batch
    of its own, by one thread.
    """

    top_k: int = 1
    gates: bool = False
    effects: bool = False
    restore: tuple[str, ...] = ()
    taps: tuple[Tap, ...] = ()
    layer: str | None = None
    targets: tuple[int, ...] = ()
    heats: tuple[Heat, ...] = ()
    contrast: Contrast | None = None
    samples: int = 32
    reproducible: bool = False
    scored: tuple[int, ...] = ()
    random_heads: int = 0
    edit: Edit | None = None

    @property
    def predicts_alone(self) -> bool:
        """Whether nothing is computed beside predictions."""
        return self.layer is None and not (self.gates or self.taps or self.heats or self.edit)

    @property
    def wanted(self) -> tuple[Heat, ...]:
        """The heat maps that are wanted, in the order of the reply."""
        if self.edit is not None:  # which has maps of its own
            return ()
        return self.heats or ((Heat("grad-cam", (self.layer,)),) if self.layer is not None else ())


@dataclass(frozen=True, slots=True)
class Batch:
    """``pixels`` is ``[B, H, W, 3]``; ``plans`` has one plan for each image.

    ``void``, where it is not empty, tells of each image whether nobody waits for it any more: what takes long stops
    then. To be asked at any time; cheap.
    """

    pixels: Pixels
    plans: tuple[Plan, ...]
    void: tuple[Callable[[], bool], ...] = ()

    def singles(self) -> Iterator[Batch]:
        """Each image as a batch of its own."""
        for i, plan in enumerate(self.plans):
            yield Batch(self.pixels[i : i + 1], (plan,), self.void[i : i + 1])


@dataclass(frozen=True, slots=True)
class Prediction:
    """A class with its softmax probability and its logit."""

    index: int
    probability: float
    logit: float


@dataclass(frozen=True, slots=True)
class GateReading:
    """The weight ``[C]`` by which a channel-attention gate multiplied each channel for this image.

    ``ascending`` ``[C]``: the channels, that of the least weight first.
    ``effects`` ``[C]``: the logit's gradient by the gated activation times that activation, summed over positions.
    ``restored`` ``[C]``: the logit with that channel's weight set to 1, less the logit as it is. None where not asked
    for.
    """

    layer: str
    type: str
    weights: Floats
    ascending: Integers
    effects: Floats | None = None
    restored: Floats | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Evidence for one class at one layer, or at several, fused as ``fuse`` says.

    ``heat`` ``[h, w]`` is as the method defines it, before any ReLU or scaling; a fused one lies in 0 to 1.
    ``randomised`` ``[n, h, w]`` are the maps that heads with random weights would have; None where not asked for, or
    where the method has passes of its own.
    """

    target: Prediction
    layers: tuple[str, ...]
    method: str
    heat: Floats
    fuse: Fusion | None = None
    contrast: Contrast | None = None
    randomised: Floats | None = None

    @property
    def layer(self) -> str:
        """The layer, or the layers with a plus between them."""
        return " + ".join(self.layers)


@dataclass(frozen=True, slots=True)
class Importance:
    """Grad-CAM's weight of each channel ``[C]`` of a layer: the mean over positions of the logit's gradient by it."""

    target: Prediction
    layer: str
    weights: Floats


@dataclass(frozen=True, slots=True)
class FeatureMaps:
    """Some channels of a layer: ``values`` ``[n, h, w]`` in the order of ``channels``, with each channel's statistics
    ``[n]``.

    ``shape`` is the layer's own (channels, height, width); ``zeros`` is the share of positions that are exactly zero.
    ``side`` says on which side of a gate they are, None for a layer's own.
    """

    layer: str
    shape: tuple[int, int, int]
    channels: tuple[int, ...]
    values: Floats
    mean: Floats
    max: Floats
    zeros: Floats
    side: Literal["before", "after", "difference"] | None = None


@dataclass(frozen=True, slots=True)
class ChannelRanking:
    """Of each channel ``[C]``, for one class.

    ``muted``: the logit with that channel alone at zero, less the logit as it is, both measured; ``gradient_weights``:
    Grad-CAM's; ``gradient_activation``: gradient times activation, summed over positions; ``gate_weights``: of the gate
    that ends there, None where none does.
    """

    muted: Floats
    gradient_weights: Floats
    gradient_activation: Floats
    gate_weights: Floats | None


@dataclass(frozen=True, slots=True)
class Seen:
    """A class's scores and its map ``[h, w]``."""

    target: Prediction
    heat: Floats


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What the head makes of the activation as it is, and as edited.

    ``before`` and ``after`` are the most probable classes; ``targets`` has each target before and after. ``ranking`` is
    of the first target, None where not asked for.
    """

    layer: str
    edit: Edit
    before: tuple[Prediction, ...]
    after: tuple[Prediction, ...]
    targets: tuple[tuple[Seen, Seen], ...]
    ranking: ChannelRanking | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one forward pass found in one image. ``infer_s`` and ``explain_s`` are seconds of the whole batch, as are
    ``waited_s``, in which the engine had it and could not begin.

    ``given_up`` says that it is incomplete, because nobody waited for it any more; ``fault`` why its numbers are no
    answer, empty where they are one. ``scored`` are the classes that the plan names.
    """

    predictions: tuple[Prediction, ...]
    gates: tuple[GateReading, ...]
    explanations: tuple[Explanation, ...]
    maps: tuple[FeatureMaps, ...]
    infer_s: float
    explain_s: float
    given_up: bool = False
    fault: str = ""
    importance: Importance | None = None
    scored: tuple[Prediction, ...] = ()
    what_if: WhatIf | None = None
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Finished:
    """An outcome as the worker hands it back, with the seconds it waited and the size of the batch that it ran in."""

    outcome: Outcome
    queue_s: float
    batch_size: int


@dataclass(eq=False, slots=True, weakref_slot=True)
class Job:
    """One image on its way through the worker. ``deadline`` and ``submitted`` are in ``time.monotonic`` seconds.

    ``void`` as in Batch.
    """

    pixels: Pixels
    plan: Plan
    lane: str
    deadline: float
    submitted: float
    future: Future[Finished]
    void: Callable[[], bool] = lambda: False
