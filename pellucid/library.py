"""``pellucid.open``: runs a compiled network in this process, with the interface of the HTTP client."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, Unpack

import numpy as np
from pydantic import ValidationError

from pellucid.atlas import file as atlas_file
from pellucid.atlas.file import Atlas
from pellucid.client import options as asked
from pellucid.client.calls import pair, require_one
from pellucid.client.figure import Figure, FigureRoute, FigureType, remembering
from pellucid.client.heat_maps import HeatMaps, read_npz
from pellucid.client.images import ImageSource, as_option, read
from pellucid.client.sync import Explainer
from pellucid.decode.image import decode
from pellucid.decode.region import placed, size_of
from pellucid.engine import Engine
from pellucid.errors import InferenceFailed, InvalidOption, UnknownName, UnsupportedMediaType
from pellucid.explain import tiles
from pellucid.explain.methods import choices
from pellucid.network import names
from pellucid.network.file import CompiledNetwork, load
from pellucid.network.spec import ModelSpec, NetworkSpec, Sizes
from pellucid.parts import compare, result
from pellucid.parts.attention import AttentionOptions
from pellucid.parts.channels import ChannelOptions
from pellucid.parts.compare import CompareOptions, Kind, SideOutcome
from pellucid.parts.explain import ExplainOptions
from pellucid.parts.feature_maps import FeatureMapOptions
from pellucid.parts.figures import figure
from pellucid.parts.figures.figure import FigureOptions
from pellucid.parts.grad_cam import GradCamOptions
from pellucid.parts.option_types import Analysis, Options, invalid
from pellucid.parts.predictions import PredictOptions
from pellucid.parts.targets import liken
from pellucid.parts.trust import Trusted, measure, perturbations_of, scores_of, scoring_plan
from pellucid.parts.what_if import WhatIfOptions
from pellucid.runtime import choose, cores
from pellucid.schemas import Comparison, Result
from pellucid.types import Batch, DecodedImage, MethodSpec, Outcome, Plan, Upload

Given = TypeVar("Given", bound=Options)
_OPTIONS: Final[dict[str, type[Options]]] = {
    "predict": PredictOptions,
    "attention": AttentionOptions,
    "feature-maps": FeatureMapOptions,
    "grad-cam": GradCamOptions,
    "explain": ExplainOptions,
    "what-if": WhatIfOptions,
    "channels": ChannelOptions,
}
_MOST_PIXELS: Final = 64_000_000


def open(  # as in PIL, zarr and h5py
    network: str | Path | CompiledNetwork,
    *,
    engine: choose.EngineName = "auto",
    device: str = "auto",
    precision: choose.PrecisionName = "auto",
    threads: int = 0,
    cache: str | Path | None = None,
    max_pixels: int = _MOST_PIXELS,
    atlas: str | Path | None = None,
) -> Network:
    """Open a compiled network.

    ``network`` is the path of a compiled network (``pets.pellucid``), a name (``lite0``, ``torchvision:resnet18``,
    ``timm:seresnet18``), or the result of ``pellucid.compile``. A name is compiled on first use, which needs torch. The
    compiled file is kept in the folder ``cache``, by default ``~/.cache/pellucid``.

    ``engine`` is auto, openvino or torch. ``device`` is auto, cpu, cuda or cuda:N. ``precision`` is auto (bfloat16 if
    the processor supports it), fp32 or bf16. ``threads`` is the number of threads, or 0 for one per core. Pictures of
    more than ``max_pixels`` pixels are refused. ``atlas`` is the file of the network's atlas (``pellucid atlas``).

    Raises NetworkNameError, NetworkFileError, AtlasError, and ValueError for an engine or device that is not available.
    """
    folder = Path(cache).expanduser() if cache is not None else names.CACHE.expanduser()
    compiled = network if isinstance(network, CompiledNetwork) else load(names.find(str(network), folder))
    runtime = choose.create(
        compiled,
        engine=engine,
        device=device,
        precision=precision,
        threads=threads or cores.available(),
        cache=folder,
        slots=1,
    )
    read_atlas = None if atlas is None else atlas_file.read(Path(atlas), compiled)
    return Network(compiled, Engine(compiled, runtime), max_pixels, read_atlas)


@dataclass(frozen=True, repr=False)
class Network(Explainer):
    """An open network. It has the methods, options (``pellucid.client.options``) and return types of the HTTP client.

    An image is a path, a file's bytes, a Pillow image or an array (``pellucid.client.images``). Every method raises a
    subclass of PellucidError if it can't answer (``InvalidOption``, ``UnknownName``, ``UndecodableImage``, ...), and
    OSError for a file that can't be read.
    """

    compiled: CompiledNetwork
    engine: Engine
    max_pixels: int = _MOST_PIXELS
    atlas: Atlas | None = None

    def __repr__(self) -> str:
        """One line: the compiled network, and what runs it."""
        return f"{repr(self.compiled)[:-1]}, {self.engine.info.description}>"

    @property
    def spec(self) -> ModelSpec:
        """The name, the labels and the preprocessing."""
        return self.compiled.model

    @property
    def sizes(self) -> Sizes:
        """The sizes of pixels on which the network runs."""
        return self.compiled.sizes

    @property
    def network(self) -> NetworkSpec:
        """Layers, gates and defaults, by name."""
        return self.compiled.spec

    @property
    def methods(self) -> Sequence[MethodSpec]:
        """The heat map methods, and ``best``."""
        return choices(self.network, self.spec.output)

    def heat_maps(self, image: ImageSource, **given: Unpack[asked.GradCamOptions]) -> HeatMaps:
        """The maps of ``grad_cam`` as arrays, in full precision."""
        options = self._options(GradCamOptions, given)
        plan = self._plan(options)
        result.require_one_size(plan)
        decoded, outcome = self._analyze(image, plan, options, options.picture_side)
        return read_npz(result.npz(decoded, outcome, None))

    def compare(
        self,
        image: ImageSource,
        other: ImageSource | None = None,
        *,
        against: Network | None = None,
        **given: Unpack[asked.CompareOptions],
    ) -> Comparison:
        """Compare two classes (two of ``target``), two pictures (``other``), or two networks (``against``)."""
        images = pair(image, other)
        uploads = [*map(_upload, images)]
        kind, seen, wanted = self._compared(uploads, against, given, None)
        answer = compare.comparison_json(kind, self._models(against, seen), seen, wanted)
        found = Comparison.model_validate_json(result.as_json(answer))
        figure = partial(self.figure, against=against)
        return remembering(found, "compare", images, [each.data for each in uploads], given, figure)

    def figure(
        self,
        image: ImageSource,
        other: ImageSource | None = None,
        *,
        route: FigureRoute = "explain",
        against: Network | None = None,
        media_type: FigureType = "image/png",
        **given: Any,
    ) -> Figure:
        """The answer of ``explain``, ``what-if`` or ``compare`` as one figure, with the options of that method."""
        require_one(route, other)
        side = figure.SOURCE_SIDE
        if route == "compare":
            kind, seen, wanted = self._compared(pair(image, other), against, given, side)
            sheet = compare.comparison_sheet(kind, self._models(against, seen), seen, wanted, self.methods)
            drawn = figure.drawn(sheet, wanted.theme, media_type)
        else:
            kinds: dict[str, type[FigureOptions]] = {"explain": ExplainOptions, "what-if": WhatIfOptions}
            options = self._options(kinds[route], given).as_picture()
            options.require_room(self._plan(options))
            drawn = options.figure(self._analysis(image, options, side, media_type))
        return Figure(drawn.data, media_type)

    def _models(self, against: Network | None, seen: Sequence[Any]) -> list[ModelSpec]:
        return [self.spec, (against or self).spec][: len(seen)]

    def _compared(
        self, images: Sequence[ImageSource | Upload], against: Network | None, given: Any, side: int | None
    ) -> tuple[Kind, list[SideOutcome], CompareOptions]:
        """The sides of a comparison. ``side``: the longer side of the pictures that are kept to be drawn."""
        if "against_model" in given:
            raise InvalidOption("against_model: Give the other network itself as `against`.")
        wanted = self._options(CompareOptions, given)
        if against is not None:
            wanted = wanted.model_copy(update={"against_model": against.spec.name})
        kind = compare.kind_of(wanted, len(images))
        networks = (self, against or self)
        seen: list[SideOutcome] = []
        for number, (name, _, plan) in enumerate(compare.sides(kind, *networks, wanted)):
            network = networks[number]
            if self.spec.output.kind == "embedding":
                plan = liken(plan, self._embedded(images[1 - number], wanted))
            elif seen and not wanted.target:
                found = seen[0][1].explanations[0].target.index
                with compare.naming(name):
                    plan = replace(plan, targets=(compare.counterpart(found, self.spec, network.spec),))
            seen.append(network._analyze(images[min(number, len(images) - 1)], plan, wanted, side))
        return kind, seen, wanted

    # -- one picture, from its source to its result

    def _result(self, route: str, image: ImageSource, options: Mapping[str, Any]) -> Result:
        wanted, upload = self._options(_OPTIONS[route], options), _upload(image)
        analysis = self._analysis(upload, wanted, wanted.picture_side)
        found = wanted.entry(analysis)
        answer = {"image": result.image_info(analysis.image.info), **found}
        answered = Result.model_validate_json(result.as_json(answer))
        return remembering(answered, route, [image], [upload.data], options, self.figure)

    def _analysis(
        self, image: ImageSource | Upload, options: Options, side: int | None, media_type: str = "image/png"
    ) -> Analysis:
        plan = self._plan(options)
        decoded, outcome = self._analyze(image, plan, options, side)
        tried: tuple[Trusted, ...] = ()
        if options.design is not None:
            perturbations = perturbations_of(decoded, outcome, self.spec.preprocess, options.design)
            scoring = scoring_plan(plan, outcome, size_of(decoded, self.spec))
            pictures = (replace(decoded, pixels=perturbations.picture(n)) for n in range(len(perturbations)))
            scores = [scores_of(tiles.scores(self._run(each, scoring), scoring), plan) for each in pictures]
            tried = measure(perturbations, np.array(scores), outcome, self.spec.output, 0.0, len(decoded.tiles))
        return Analysis(decoded, outcome, self.spec, tried, media_type, self.methods, self.atlas)

    def _plan(self, options: Options) -> Plan:
        """The plan of the options, with the embedding of their reference."""
        plan, reference = options.plan(self, 1), getattr(options, "reference", None)
        if reference is None or self.spec.output.kind != "embedding":
            return plan
        return liken(plan, self._embedded(b64decode(reference), options))

    def _embedded(self, image: ImageSource | Upload, options: Options) -> Outcome:
        return self._analyze(image, Plan(reproducible=options.provenance), options, None)[1]

    def _analyze(
        self, image: ImageSource | Upload, plan: Plan, options: Options, side: int | None
    ) -> tuple[DecodedImage, Outcome]:
        upload = image if isinstance(image, Upload) else _upload(image)
        view = options.seen(self.spec, self.sizes)
        decoded = decode(upload, self.spec.preprocess, self.max_pixels, side, view=view)
        plan = placed(plan, decoded, self.spec)
        if decoded.tiling is None:
            return decoded, self._run(decoded, plan)[0]
        if tiles.needs_class(plan):
            plan = tiles.with_class(plan, self._run(decoded, tiles.predicting(plan)))
        outcomes = self._run(decoded, tiles.of_tile(plan, self.network, self.spec, decoded.tiling))
        return decoded, tiles.merged(outcomes, plan, decoded.tiling, self.spec.output)

    def _run(self, image: DecodedImage, plan: Plan) -> list[Outcome]:
        """The outcome of the image, or of each of its tiles."""
        seen = image.tiles
        outcomes = self.engine.run(Batch(np.stack(seen), (plan,) * len(seen)))
        for outcome in outcomes:
            if outcome.fault:
                raise InferenceFailed(outcome.fault)
        return outcomes

    def _options(self, kind: type[Given], given: Any) -> Given:
        try:
            given = {name: as_option(name, value) for name, value in given.items() if value is not None}
            found = kind.model_validate(given)
        except ValidationError as error:
            raise invalid(error.errors(include_url=False, include_context=False)) from None
        except (TypeError, ValueError) as error:
            raise InvalidOption(str(error)) from None
        if found.model not in (None, self.spec.name):
            raise UnknownName.among("model", str(found.model), [self.spec.name])
        return found


def _upload(image: ImageSource) -> Upload:
    try:
        name, data = read(image)
    except (TypeError, ValueError) as error:
        raise UnsupportedMediaType(str(error)) from None
    return Upload(data, name)
