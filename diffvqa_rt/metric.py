"""What a metric is: functions in the fields of a frozen declaration, `Metric`, and what crosses between them.

Nothing here imports torch, and no metric is known here; `diffvqa_rt.metrics` has them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.chain import Chain
from diffvqa_rt.checks import flag
from diffvqa_rt.errors import ScoreWarning
from diffvqa_rt.specs import Arrays, EngineSpec, TensorSpec
from diffvqa_rt.video import VideoInfo
from diffvqa_rt.video.crops import RgbFrame, check_crops, check_seed
from diffvqa_rt.video.plan import DecodingPlan

ResizedBy = Literal["pillow", "dali"]
"""Which library resizes: Pillow, or DALI where DALI also decodes."""


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
        seed: decides where pieces of a frame are cut.
        crops: how many such places are scored.
        keep_interlaced: whether interlaced frames stay combed, as they are stored.
        resized_by: which library resizes.
    """

    seed: int = 0
    crops: int = 1
    keep_interlaced: bool = False
    resized_by: ResizedBy = "pillow"

    def __post_init__(self) -> None:
        """Makes plain numbers of NumPy's. Raises ValueError where one is out of range."""
        object.__setattr__(self, "seed", check_seed(self.seed))
        object.__setattr__(self, "crops", check_crops(self.crops))
        object.__setattr__(self, "keep_interlaced", flag("keep_interlaced", self.keep_interlaced))


@dataclass(frozen=True, kw_only=True, slots=True)
class DevicePreparation:
    """`Metric.prepare` by DALI on a GPU, from the encoded video, for a server in the production form.

    Attributes:
        inputs: what the graph takes of one row; the leading axis is the rows.
        rows: those inputs by name, a row at a time, of a planned video.
        write_model: writes the graph for Triton server's DALI backend.
    """

    inputs: Callable[[Any], tuple[TensorSpec, ...]]
    rows: Callable[[Any, DecodingPlan, Request], list[dict[str, NDArray]]]
    write_model: Callable[[Any, Path], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A metric, without torch.

    Attributes:
        name: one spelling for folder, `--metric`, manifest and server.
        title: the name that people know it by.
        config_from_dict: the inverse of `Config.as_dict`; raises ValueError for anything else.
        presets: the named networks.
        frames: how many frames of a source it looks at, at the centres of as many equal spans.
        inputs: the tensors that `prepare` makes, whole shapes but for the leading axis, the rows.
        prepare: those tensors of a source's frames; rows of one source are all alike to the engines.
        warnings: what the reader of a score should know of how this network sees such a source.
        engines: the borders of the engines by name, in the order in which a source passes them.
        chains: what runs, by name; under the metric's own name the one that gives all there is.
        choose: the name of the chain that a request takes.
        score: the score, [rows], from the chain's outputs that are one number a row.
        on_device: how a GPU prepares the same; None where it cannot.
    """

    name: str
    title: str
    config_from_dict: Callable[[dict[str, Any]], Any]
    presets: Mapping[str, Any]
    frames: Callable[[Any], int]
    inputs: Callable[[Any], tuple[TensorSpec, ...]]
    prepare: Callable[[Any, Sequence[RgbFrame], Request], dict[str, NDArray]]
    warnings: Callable[[Any, VideoInfo], tuple[ScoreWarning, ...]]
    engines: Callable[[Any], dict[str, EngineSpec]]
    chains: Callable[[Any], Mapping[str, Chain]]
    choose: Callable[[Request], str]
    score: Callable[[Any, Arrays], NDArray[np.float32]]
    on_device: DevicePreparation | None = None

    def chain(self, config: Any) -> Chain:
        """The chain that gives all there is."""
        return self.chains(config)[self.name]

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
