"""The data types that pass from stage to stage: plain data and numpy arrays, no torch, no HTTP.

Shapes: B images in a batch, K targets, C channels, H x W the network's input, h x w a layer's map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float32]
Integers = NDArray[np.intp]
Pixels = NDArray[np.uint8]
# The pixels of a network: uint8, or float32 where its PreprocessSpec has that depth.
InputPixels = NDArray[np.uint8 | np.float32]
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the upright source picture; x1 and y1 are exclusive


@dataclass(frozen=True, slots=True)
class Upload:
    """One uploaded picture: its bytes, and the filename that the client gave."""

    data: bytes
    filename: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """One picture that was sent as the network's input. ``pixels`` is ``[H, W, C]``, and needs no decoding."""

    pixels: InputPixels


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Facts about an upload. Format and size are None if it is not decoded. The size is that of the upright picture."""

    filename: str | None
    sha256: str
    format: str | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Tiling:
    """The tiles of a picture of ``size``: each of the size ``tile``, its top left at a (row, column) of ``corners``.

    Sizes are (height, width) in pixels.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    corners: tuple[tuple[int, int], ...] = ((0, 0),)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A picture that is ready for the network. ``pixels`` ``[H, W, C]`` shows the ``box`` of the source.

    ``picture`` is the whole upright source ``[height, width, 3]`` as 8-bit RGB, scaled down to the requested size. It
    is None if no overlay is drawn. ``tiling``: how the network sees the pixels, unless it sees them at once.
    """

    info: ImageInfo
    pixels: InputPixels
    box: Box
    picture: Pixels | None = None
    tiling: Tiling | None = None

    @property
    def seen_size(self) -> tuple[int, int]:
        """(height, width) of what the network sees at once."""
        return self.tiling.tile if self.tiling else (self.pixels.shape[0], self.pixels.shape[1])

    @property
    def tiles(self) -> list[InputPixels]:
        """What the network sees at once: all pixels, or those of each tile."""
        if self.tiling is None:
            return [self.pixels]
        height, width = self.tiling.tile
        return [self.pixels[top : top + height, left : left + width] for top, left in self.tiling.corners]

    @property
    def tile_boxes(self) -> list[Box]:
        """The box of each tile in pixels of the source; none without a tiling."""
        if self.tiling is None:
            return []
        (height, width), (rows, columns) = self.tiling.tile, self.tiling.size
        x0, y0, x1, y1 = self.box
        across, down = (x1 - x0) / columns, (y1 - y0) / rows
        return [
            (
                x0 + round(left * across),
                y0 + round(top * down),
                x0 + round((left + width) * across),
                y0 + round((top + height) * down),
            )
            for top, left in self.tiling.corners
        ]


@dataclass(frozen=True, slots=True)
class Tap:
    """A request for feature maps: these ``channels``, or the ``count`` strongest if ``channels`` is empty.

    ``layer`` names a layer. With ``gate=True``, it names a gate, and the request is for the maps before it, after it,
    and their difference. The strongest channels of a gate are those that it changed most.
    """

    layer: str
    channels: tuple[int, ...] = ()
    count: int = 16
    gate: bool = False


Needs = Literal[
    "activation",
    "gradient",
    "gradients",
    "forwards",
    "position forwards",
    "network forwards",
    "attention",
    "attention gradient",
]


# The methods of the last two kinds, by name. Their maps are as fine as the tokens.
OF_ATTENTION: Final = ("attention-rollout", "legrad")
# The name of a method that chooses its layers.
BEST: Final = "best"


# The unit of maps that are weighted means of activations: they do not grow with the score.
ACTIVATION_UNITS: Final = "units of the activation"


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """The declaration of a heat-map method.

    ``needs`` is what the method computes besides the prediction's forward pass:

    - ``activation``: nothing
    - ``gradient``: one backward pass from the logits to the layer for each class. None at a layer that is followed by
      global average pooling and a linear classifier only, where the gradient has a closed form.
    - ``gradients``: ``Plan.samples`` such passes
    - ``forwards``: one pass of the network behind the layer for each channel
    - ``position forwards``: one pass of the network behind the layer for each position
    - ``network forwards``: one pass of the whole network for each channel
    - ``attention``: nothing. It reads the attention between tokens, so it is offered where a network has that.
    - ``attention gradient``: one backward pass from the scores of each attention's block for each class

    ``at_layers`` and ``at_pixels``: where the method is offered. If both are true, the default is the pixels.
    ``signed``: the maps have evidence against the class as well. ``of_class``: the maps depend on the class.
    ``unit``: that of the maps' values. Empty: that of the explained score, such as logits. ``stands_for``: the map that
    the name is short for. Such a name is no method of a MapSpec.
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
    unit: str = ""
    stands_for: MapSpec | None = None

    @property
    def of_attention(self) -> bool:
        """Whether it reads the attention between tokens. Its map is that of the tokens, at no layer."""
        return self.needs in ("attention", "attention gradient")


Fusion = Literal["mean", "max", "product"]


@dataclass(frozen=True, slots=True)
class MapSpec:
    """A request for one heat map of each target: by this method, at one layer, or at several layers that are fused."""

    method: str
    layers: tuple[str, ...]
    fuse: Fusion = "mean"


@dataclass(frozen=True, slots=True)
class Contrast:
    """Explains a class against others: replaces its logit y by y - weight x (mean of the logits of ``against``)."""

    against: tuple[int, ...]
    weight: float = 1.0


RegionKind = Literal["class", "picture", "box", "point", "mask"]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Region:
    """The positions of a dense output that are explained. The explained logit is the mean over them.

    - ``class``: where the target has the largest logit, or all positions if it has it nowhere
    - ``picture``: all positions
    - ``box``: the positions inside of ``at``: x0, y0, x1, y1 in pixels of the upright source picture
    - ``point``: the position of ``at``: x, y in pixels of the source
    - ``mask``: the positions where an image that covers the source picture is bright. ``drawn`` decodes it:
      ``[rows, columns]``, in any resolution.

    ``mask`` ``[h, w]`` are the positions. It is None until they are known. Regions of one kind are equal, because they
    need the same passes.
    """

    kind: RegionKind = "class"
    at: tuple[float, ...] = field(default=(), compare=False)
    drawn: Callable[[], Mask] | None = field(default=None, compare=False, repr=False)
    mask: Mask | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Reference:
    """The embedding ``vector`` ``[dimensions]``, of length 1, of a picture that another one is compared with.

    References are equal, because they need the same passes.
    """

    vector: Floats = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Edit:
    """An edit of the activation at the plan's layer: (channel, factor) pairs, and the factor of all ``others``.

    ``ranked`` requests the effect of muting each channel alone. ``gate`` names the gate whose output is the layer.
    """

    channels: tuple[tuple[int, float], ...] = ()
    others: float = 1.0
    gate: str = ""
    ranked: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What to compute for one image.

    - ``top_k``: the number of predictions
    - ``gates``: the weights of all gates, of channels and of positions. With ``layer``, also the importance of the
      layer's channels.
    - ``effects``: the effect of each gate's channels on the first target, by gradient
    - ``restore``: gates for which the effect of setting each weight to 1 is measured, by one pass for each channel
    - ``taps``: feature maps
    - ``layer``: the layer of the channel importance, of ``edit``, and of Grad-CAM if ``heat_maps`` is empty. None: no
      layer is explained, unless ``heat_maps`` names some.
    - ``targets``: class indices. Empty: the class with the largest logit.
    - ``heat_maps``: heat maps, each for every target
    - ``contrast``: explains the targets against other classes
    - ``direction``: 1 explains what raises the explained scalar, -1 what lowers it
    - ``regions``: for a dense output, the positions that are explained: one for each target, or one for all. Empty:
      where each target has the largest logit.
    - ``reference``: for an embedding, the other picture. The explained scalar is the cosine with it.
    - ``samples``: the number of gradients of methods that average several
    - ``reproducible``: the result must not depend on other work, to the bit. The image runs alone, on one thread.
    - ``scored``: classes whose scores are returned in addition to the predictions
    - ``random_heads``: the number of random heads for the sanity check of each map that needs at most one gradient
    - ``edit``: a what-if edit of the layer's channels
    - ``size``: (height, width) of the pixels, or None for the network's own size
    """

    top_k: int = 1
    gates: bool = False
    effects: bool = False
    restore: tuple[str, ...] = ()
    taps: tuple[Tap, ...] = ()
    layer: str | None = None
    targets: tuple[int, ...] = ()
    heat_maps: tuple[MapSpec, ...] = ()
    contrast: Contrast | None = None
    direction: Literal[1, -1] = 1
    regions: tuple[Region, ...] = ()
    reference: Reference | None = None
    samples: int = 32
    reproducible: bool = False
    scored: tuple[int, ...] = ()
    random_heads: int = 0
    edit: Edit | None = None
    size: tuple[int, int] | None = None

    def region(self, number: int) -> Region:
        """The region of a target, by its number."""
        return self.regions[number if len(self.regions) > 1 else 0] if self.regions else Region()

    @property
    def without_arrays(self) -> Plan:
        """An equal plan without masks and vectors, to be kept as a key."""
        if not self.regions and self.reference is None:
            return self
        reference = None if self.reference is None else Reference(np.empty(0, np.float32))
        return replace(self, regions=tuple(Region(region.kind) for region in self.regions), reference=reference)

    @property
    def changes_the_scalar(self) -> bool:
        """Whether the explained scalars are not the targets' logits themselves."""
        return self.contrast is not None or self.direction < 0

    @property
    def predicts_alone(self) -> bool:
        """Whether the plan requests predictions only."""
        return self.layer is None and not (self.gates or self.taps or self.heat_maps or self.edit)

    @property
    def wanted(self) -> tuple[MapSpec, ...]:
        """The requested heat maps, in the order of the reply."""
        if self.edit is not None:  # an edit makes its own maps
            return ()
        return self.heat_maps or ((MapSpec("grad-cam", (self.layer,)),) if self.layer is not None else ())


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of images: ``pixels`` ``[B, H, W, C]``, and one plan for each image.

    ``void`` is empty, or has a function for each image that returns true once no caller waits for it. Long computations
    call it between their passes, and stop. It is cheap and thread-safe.
    """

    pixels: InputPixels
    plans: tuple[Plan, ...]
    void: tuple[Callable[[], bool], ...] = ()

    def singles(self) -> Iterator[Batch]:
        """Iterate over the images, each as a batch of one."""
        for i, plan in enumerate(self.plans):
            yield Batch(self.pixels[i : i + 1], (plan,), self.void[i : i + 1])


@dataclass(frozen=True, slots=True)
class Prediction:
    """A class or a quantity with its scores.

    ``logit`` is the network's output. For a dense output it is the mean over a region, for an embedding the cosine with
    the reference. ``probability`` is None for a quantity and an embedding. For a dense output it is the mean over the
    region, and ``share`` is the part of the picture where the class has the largest logit, 0 to 1.
    """

    index: int
    probability: float | None
    logit: float
    share: float | None = None


@dataclass(frozen=True, slots=True)
class GateReading:
    """The ``weights`` ``[C]`` by which a channel-attention gate multiplied the channels for one image.

    - ``ascending`` ``[C]``: the channels, sorted by weight, smallest first
    - ``effects`` ``[C]``: the logit's gradient by the gated activation times that activation, summed over positions.
      None if not requested.
    - ``restored`` ``[C]``: the logit with the channel's weight set to 1, minus the unchanged logit. None if not
      requested.
    """

    layer: str
    type: str
    weights: Floats
    ascending: Integers
    effects: Floats | None = None
    restored: Floats | None = None


@dataclass(frozen=True, slots=True)
class SpatialGateReading:
    """The ``weights`` ``[h, w]`` by which a gate multiplied the positions of all channels for one image."""

    layer: str
    type: str
    weights: Floats


@dataclass(frozen=True, slots=True)
class Explanation:
    """A heat map for one class, at one layer, or at several layers fused by ``fuse``.

    ``heat`` ``[h, w]`` is as the method defines it, before any ReLU or scaling. A fused map lies in 0 to 1.
    ``randomised`` ``[n, h, w]`` are the maps of n heads with random weights. It is None if not requested, or if the
    method needs more than one gradient. ``region`` is None unless the output is dense.
    """

    target: Prediction
    layers: tuple[str, ...]
    method: str
    heat: Floats
    fuse: Fusion | None = None
    contrast: Contrast | None = None
    randomised: Floats | None = None
    region: Region | None = None

    @property
    def layer(self) -> str:
        """The layer's name, or the names of all fused layers, joined by " + "."""
        return " + ".join(self.layers)


@dataclass(frozen=True, slots=True)
class Importance:
    """Grad-CAM's weight of each channel ``[C]`` of a layer: the mean over positions of the logit's gradient by it."""

    target: Prediction
    layer: str
    weights: Floats


@dataclass(frozen=True, slots=True)
class FeatureMaps:
    """Some channels of a layer: ``values`` ``[n, h, w]`` in the order of ``channels``, with statistics ``[n]``.

    ``shape`` is the layer's (channels, height, width). ``zeros`` is the share of positions that are exactly zero.
    ``side`` is the side of a gate, or None for a layer.
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
    """Four measures of how much each channel ``[C]`` of a layer matters for one class.

    - ``muted``: the logit with that channel set to zero, minus the unchanged logit. Both are measured.
    - ``gradient_weights``: Grad-CAM's weights
    - ``gradient_activation``: gradient times activation, summed over positions
    - ``gate_weights``: the weights of the gate whose output is the layer. None if there is no gate.
    """

    muted: Floats
    gradient_weights: Floats
    gradient_activation: Floats
    gate_weights: Floats | None


@dataclass(frozen=True, slots=True)
class TargetMap:
    """A class's scores and its map ``[h, w]``."""

    target: Prediction
    heat: Floats


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The result of the network behind a layer, for the activation before and after an edit.

    ``before`` and ``after`` are the most probable classes. ``targets`` has each target (before, after). ``ranking`` is
    for the first target, or None if not requested.
    """

    layer: str
    edit: Edit
    before: tuple[Prediction, ...]
    after: tuple[Prediction, ...]
    targets: tuple[tuple[TargetMap, TargetMap], ...]
    ranking: ChannelRanking | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a plan for one image.

    - ``infer_s``, ``explain_s``: seconds of the whole batch in the forward pass and in its explanations
    - ``waited_s``: seconds that the whole batch was queued inside the engine
    - ``given_up``: the outcome is incomplete, because no caller waits for it any more
    - ``fault``: why the numbers are invalid. Empty if they are valid.
    - ``scored``: the scores of the classes in ``Plan.scored``
    - ``embedding``: the output ``[dimensions]`` of a network whose output is an embedding, else None
    - ``segmentation``: for a dense output, the class with the largest logit at each position ``[h, w]``, else None. If
      there is a single class, 1 where its logit is positive, and 0 elsewhere.
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
    embedding: Floats | None = None
    segmentation: NDArray[np.uint8] | None = None
    spatial_gates: tuple[SpatialGateReading, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """An outcome from the worker, with the seconds that its image was queued and the size of its batch."""

    outcome: Outcome
    queue_s: float
    batch_size: int


@dataclass(eq=False, slots=True, weakref_slot=True)
class Job:
    """One image in the worker's queue. ``deadline`` and ``submitted`` are in ``time.monotonic`` seconds.

    For ``void``, see Batch.
    """

    pixels: InputPixels
    plan: Plan
    lane: str
    deadline: float
    submitted: float
    future: Future[Finished]
    void: Callable[[], bool] = lambda: False
