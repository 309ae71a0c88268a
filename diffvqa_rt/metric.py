"""What a metric is: functions in the fields of a frozen declaration, `Metric`, and what crosses between them.

Nothing here imports torch, and no metric is known here; `diffvqa_rt.metrics` has them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from numpy.typing import NDArray

from diffvqa_rt.chain import Chain, Loop
from diffvqa_rt.checks import flag, whole
from diffvqa_rt.errors import InputError, ScoreWarning
from diffvqa_rt.specs import Arrays, EngineSpec, TensorSpec
from diffvqa_rt.video import VideoInfo
from diffvqa_rt.video.crops import Region, RgbFrame, check_crops, check_seed
from diffvqa_rt.video.plan import DecodingPlan

Option = Literal["crops", "frames", "patch_maps", "prompt"]
"""What a request may ask of some metrics only."""

STANDARD_RESULTS = ("score", "frame_scores", "frame_weights", "patch_scores", "patch_weights")
"""The names in `Metric.results` that mean the same for every metric; other names are parts of the score."""

RAW_PART = "raw_"
"""The start of a result's name that is a part in the network's own unit."""

ResizedBy = Literal["pillow", "dali"]
"""Which library resizes: Pillow, or DALI where DALI also decodes."""


MAX_FRAMES = 2**12
"""The most frames of a video that a request may have scored."""

PREPARATION = ("decode", "views")
"""The stages before the chain's: from the file to frames, and from frames to what the engines take."""


class Config(Protocol):
    """A network's description: frozen, checked, and its own way to JSON and back."""

    @property
    def name(self) -> str: ...
    @property
    def score_range(self) -> tuple[float, float]: ...
    def as_dict(self) -> dict[str, Any]: ...
    def describe(self) -> str:
        """A few words for a person: what the network takes, and what it does to it."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request for the score of each source, checked.

    Attributes:
        seed: decides where pieces of a frame are cut, where the network draws their places.
        crops: how many such places are scored; the metric's own number by default.
        frames: how many frames of a video are scored; the metric's own number by default.
        patch_maps: whether the result has the scores and weights of every patch.
        prompt: the text that the video was made from.
        keep_interlaced: whether interlaced frames stay combed, as they are stored.
        resized_by: which library resizes.
    """

    seed: int = 0
    crops: int | None = None
    frames: int | None = None
    patch_maps: bool = False
    prompt: str | None = None
    keep_interlaced: bool = False
    resized_by: ResizedBy = "pillow"

    def __post_init__(self) -> None:
        """Makes plain numbers of NumPy's. Raises ValueError where one is out of range."""
        object.__setattr__(self, "seed", check_seed(self.seed))
        if self.crops is not None:
            object.__setattr__(self, "crops", check_crops(self.crops))
        if self.frames is not None:
            object.__setattr__(self, "frames", whole("frames", self.frames, 1, MAX_FRAMES, error=InputError))
        object.__setattr__(self, "patch_maps", flag("patch_maps", self.patch_maps))
        if self.prompt is not None:
            check_prompt(self.prompt)
        object.__setattr__(self, "keep_interlaced", flag("keep_interlaced", self.keep_interlaced))

    @property
    def settled_crops(self) -> int:
        """The number of crops, which `Metric.settle` settles before a metric prepares."""
        assert self.crops is not None
        return self.crops


def check_prompt(prompt: object) -> None:
    """Raises InputError where a prompt is no text, or says nothing."""
    if not isinstance(prompt, str):
        raise InputError(f"prompt is a {type(prompt).__name__}; expected a text")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"prompt is no text in Unicode ({error.reason} at {error.start}); write it in UTF-8") from None
    if not prompt.strip():
        raise InputError("prompt is blank; leave it out to score the video alone")


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptFacts:
    """A prompt, its number of tokens, and whether the network read only the first of them."""

    text: str
    tokens: int
    is_truncated: bool


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PreparedPrompt:
    """A prompt as the engines take it.

    Attributes:
        facts: of it.
        arrays: by name, of one row.
        warnings: what the reader of a score should know of how the network reads it.
    """

    facts: PromptFacts
    arrays: dict[str, NDArray]
    warnings: tuple[ScoreWarning, ...] = ()


ReadPrompt = Callable[[str], PreparedPrompt]
"""Makes a prompt ready. Raises InputError where it cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptReading:
    """A metric's way to read prompts.

    Attributes:
        inputs: the tensors that it makes of one; the leading axis is the prompts.
        files: config → the files of an engine folder that it takes to read them, by name; their SHA-256.
        open: config, engine folder → the function that reads. Raises EngineMismatchError where a file is not right.
    """

    inputs: Callable[[Any], tuple[TensorSpec, ...]]
    files: Callable[[Any], Mapping[str, str]]
    open: Callable[[Any, Path], ReadPrompt]


@dataclass(frozen=True, kw_only=True, slots=True)
class DevicePreparation:
    """`Metric.prepare` by DALI on a GPU, from the encoded video, for a server in the production form.

    Attributes:
        inputs: what the graph takes of one row; the leading axis is the rows.
        crop_regions: those that `Metric.prepare` gives, of a planned video. Runs in the decoder's process, and raises
            DeviceDecodeError where the host is to decode it all.
        rows: the inputs by name, a row for each of these regions.
        write_model: writes the graph for Triton server's DALI backend.
    """

    inputs: Callable[[Any], tuple[TensorSpec, ...]]
    crop_regions: Callable[[Any, DecodingPlan, Request], tuple[Region, ...]]
    rows: Callable[[Any, DecodingPlan, Sequence[Region]], list[dict[str, NDArray]]]
    write_model: Callable[[Any, Path], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A metric, without torch.

    Attributes:
        name: one spelling for folder, `--metric`, manifest and server.
        title: the name that people know it by.
        config_from_dict: the inverse of `Config.as_dict`; raises ValueError for anything else.
        presets: the named networks.
        is_temporal: whether it sees how a video moves. One that does not sees a video of one frame as a still.
        options: what a request may ask for beside the seed: `crops`, `frames`, `patch_maps`.
        frames: how many frames of a source it looks at, at the centres of as many equal spans.
        crops: config, frames → how many crops, where a request does not say.
        inputs: the tensors that `prepare` makes, whole shapes but for the leading axis, the rows.
        prepare: config, frames, request → those tensors of a source's frames, and the part of the first frame that each
            crop shows. Rows of one source are all alike to the engines. A tensor may have rows of its own number, which
            all sources share then. The request says how many crops.
        warnings: what the reader of a score should know of how this network sees such a source.
        engines: the borders of the engines by name, in the order in which a source passes them.
        chains: what runs, by name; under the metric's own name the one that gives all there is.
        choose: the name of the chain that a request takes.
        results: config, chain → what `finish` gives of its outputs: `score` [crops]; of a metric that scores frames
            `frame_scores` and `frame_weights` [crops, N]; of one that scores patches `patch_scores` and `patch_weights`
            [crops, N, parts, g, g]; and [crops] each part of the score, by its name, in the patches' order, and, where
            a part has a unit of its own in the network, the same after `raw_`.
        finish: config, the chain's outputs for one source, the number of its frames → its results.
        with_steps: config, number → the same network whose loop has so many turns; raises ValueError where it cannot
            have them. None where there is nothing to choose.
        on_device: how a GPU prepares the same; None where it cannot.
        prompts: how it reads a request's prompt; None where it takes none.
    """

    name: str
    title: str
    config_from_dict: Callable[[dict[str, Any]], Any]
    presets: Mapping[str, Any]
    is_temporal: bool
    options: frozenset[Option]
    frames: Callable[[Any], int]
    crops: Callable[[Any, int], int]
    inputs: Callable[[Any], tuple[TensorSpec, ...]]
    prepare: Callable[[Any, Sequence[RgbFrame], Request], tuple[dict[str, NDArray], tuple[Region, ...]]]
    warnings: Callable[[Any, VideoInfo], tuple[ScoreWarning, ...]]
    engines: Callable[[Any], dict[str, EngineSpec]]
    chains: Callable[[Any], Mapping[str, Chain]]
    choose: Callable[[Request], str]
    results: Callable[[Any, str], tuple[TensorSpec, ...]]
    finish: Callable[[Any, Arrays, int], dict[str, NDArray]]
    with_steps: Callable[[Any, int], Any] | None = None
    on_device: DevicePreparation | None = None
    prompts: PromptReading | None = None

    def check(self, request: Request) -> None:
        """Raises InputError where the request asks for what this metric does not have."""
        for option in get_args(Option):
            if option not in self.options and getattr(request, option):
                raise InputError(f"{option} is {getattr(request, option)}; {self.title} does not take it, leave it out")

    def settle(self, config: Any, request: Request, frames: int) -> Request:
        """The request for a source of so many frames, with the number of crops settled."""
        return dataclasses.replace(request, crops=request.crops or self.crops(config, frames))

    def frame_count(self, config: Any, request: Request) -> int:
        """The number of frames that are sampled of a video."""
        return request.frames or self.frames(config)

    def animation_frame_count(self, config: Any, request: Request) -> int:
        """The same of an animated picture: an image metric takes the one at its middle."""
        return self.frame_count(config, request) if self.is_temporal else request.frames or 1

    def most_crops(self, config: Any, request: Request) -> int:
        """The number of crops of a source, or more where that depends on the source."""
        return request.crops or max(self.crops(config, frames) for frames in (1, self.frame_count(config, request)))

    def rows_a_crop(self, config: Any) -> int:
        """The most rows that a crop becomes: one, or one a frame where frames are scored alone."""
        return 1 if self.is_temporal else self.frames(config)

    def part_names(self, config: Any) -> tuple[str, ...]:
        """The parts of the score that have a name."""
        names = (spec.name for spec in self.results(config, self.name))
        return tuple(name for name in names if name not in STANDARD_RESULTS and not name.startswith(RAW_PART))

    def given(self, config: Any) -> tuple[TensorSpec, ...]:
        """The tensors that its chains start from: of the frames, and of the prompt."""
        return (*self.inputs(config), *(self.prompts.inputs(config) if self.prompts else ()))

    def prompt_files(self, config: Any) -> Mapping[str, str]:
        """The files of an engine folder that prompts are read with, by name; their SHA-256."""
        return self.prompts.files(config) if self.prompts else {}

    def chain(self, config: Any) -> Chain:
        """The chain that gives all there is."""
        return self.chains(config)[self.name]

    def steps(self, config: Any) -> int | None:
        """The turns of the network's loop; None where it has none."""
        return next((item.count for item in self.chain(config) if isinstance(item, Loop)), None)

    def network_of_steps(self, config: Any, steps: int) -> Any:
        """The network with so many steps. Raises ValueError where it cannot have them."""
        if self.with_steps is None:
            raise ValueError(f"steps is {steps}; {self.title} has no steps to choose, leave steps out")
        return self.with_steps(config, steps)

    def label(self, config: Any) -> str:
        """The network's name for a person, with its steps where they are not those of the preset so named."""
        steps = self.steps(config)
        preset = self.presets.get(config.name)
        if preset is None or steps is None or steps == self.steps(preset):
            return str(config.name)
        return f"{config.name}, {steps} step{'' if steps == 1 else 's'}"

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that a source's time goes to, in order; the names are the same for every network of the metric."""
        chain = self.chain(next(iter(self.presets.values())))
        return (*PREPARATION, *(item.stage for item in chain))

    def preset_named(self, name: str) -> Any:
        """The preset of that name. Raises ValueError, listing the right names, for any other."""
        try:
            return self.presets[name]
        except KeyError:
            raise ValueError(f"preset is {name!r}; expected one of {', '.join(self.presets)}") from None
