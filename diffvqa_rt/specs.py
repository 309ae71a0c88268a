"""The engines' contracts: names, dtypes and shapes. Export, runtime and server all read them from here.

The leading axis of every tensor is the video batch V (`videos`). Axis 1 of the two extractor engines counts frames of
both views, interleaved frame by frame; those engines treat every frame alone, so the axis is dynamic and a runtime may
cut it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.config import VIEWS, DiffVQAConfig

Precision = Literal["fp32", "fp16", "bf16"]
"""What the networks between float32 borders compute in."""

DType = Literal["float32", "int64"]
Dimension = int | str

MANIFEST_NAME = "manifest.json"
FEATURES = ("features_0", "features_1", "features_2", "features_3")


class Array(Protocol):
    """What crosses an engine's border: a NumPy array, or one that the runtime keeps on its device until it is read."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def dtype(self) -> np.dtype: ...
    def __array__(self, dtype: Any = None, /, *, copy: bool | None = None) -> NDArray: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """How many videos at a time an engine takes: `min` … `max`, and `opt`, the number that it is tuned for."""

    min: ClassVar[int] = 1  # a single video can always be scored
    opt: int = 1
    max: int = 4

    def __post_init__(self) -> None:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"profile is {self.opt}, {self.max} videos; expected 1 ≤ opt ≤ max")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor at an engine's border. A dimension that is a string is dynamic, and means that everywhere."""

    name: str
    dtype: DType
    shape: tuple[Dimension, ...]


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine's border. `is_per_frame`: axis 1 holds frames that do not see each other."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    is_per_frame: bool

    def check_inputs(self, arrays: Mapping[str, Array]) -> None:
        """Raises ValueError where the arrays are not this engine's inputs: by name, dtype, rank or fixed dimension."""
        names = [spec.name for spec in self.inputs]
        if set(arrays) != set(names):
            raise ValueError(f"{self.name} takes {', '.join(names)}; got {', '.join(arrays) or 'nothing'}")
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            array = arrays[spec.name]
            fits = array.dtype == np.dtype(spec.dtype) and array.ndim == len(spec.shape)
            for size, dimension in zip(array.shape, spec.shape, strict=False):
                fits = fits and size == (sizes.setdefault(dimension, size) if isinstance(dimension, str) else dimension)
            if not fits:
                raise ValueError(
                    f"{self.name} takes {spec.name} as {spec.dtype} {spec.shape}; got {array.dtype} {array.shape}"
                )


def engine_specs(config: DiffVQAConfig) -> dict[str, EngineSpec]:
    """The three engines of a network, in the order in which a video passes them."""
    both_views = len(VIEWS) * config.frames
    image = (3, config.view_size, config.view_size)

    def frames(name: str, shape: tuple[int, ...], count: Dimension) -> TensorSpec:
        return TensorSpec(name, "float32", ("videos", count, *shape))

    def features(count: Dimension) -> tuple[TensorSpec, ...]:
        return tuple(frames(name, shape, count) for name, shape in zip(FEATURES, config.feature_shapes, strict=True))

    latent, any_count = config.latent_shape, "frames"
    specs = (
        EngineSpec(
            "vae_encoder",
            inputs=(frames("frames", image, any_count),),
            outputs=(frames("z0", latent, any_count),),
            is_per_frame=True,
        ),
        EngineSpec(
            "unet_controller",
            inputs=(
                frames("z", latent, any_count),
                frames("z0", latent, any_count),
                TensorSpec("step", "int64", ()),
            ),
            outputs=(frames("z_next", latent, any_count), *features(any_count)),
            is_per_frame=True,
        ),
        EngineSpec(
            "head",
            inputs=(
                frames("z0_hat", latent, both_views),
                *features(both_views),
                frames("frames", image, both_views),
            ),
            outputs=(
                TensorSpec("score", "float32", ("videos",)),
                TensorSpec("frame_scores", "float32", ("videos", config.frames)),
                TensorSpec("frame_weights", "float32", ("videos", config.frames)),
            ),
            is_per_frame=False,
        ),
    )
    return {spec.name: spec for spec in specs}
