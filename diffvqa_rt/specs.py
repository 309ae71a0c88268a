"""The contracts of the engines and of the served models: names, dtypes and shapes, for export, runtime and server.

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

DType = Literal["float32", "int64", "float64", "int32", "uint8", "bool"]
"""Engines have the first two at their borders; the rest is what else crosses gRPC."""

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
    """A tensor at a border. A dimension that is a string is dynamic, and means that everywhere."""

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
                TensorSpec("step", "int64", (1,)),  # Triton server knows no scalars
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


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One served model's border. Its shapes are whole: Triton server adds no axis of its own to them.

    Attributes:
        name: of the stage, or `diffvqa` for the ensemble of them.
        inputs, outputs: the tensors; `videos` is any number, and crops of one video are rows of it.
        optional: the inputs that a request may leave out.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    optional: frozenset[str] = frozenset()


Form = Literal["embedded", "production"]
"""Who plays a server's engines: our own processes behind Triton server's Python backend, on any Linux machine; or its
TensorRT or ONNX Runtime backend on a GPU, with its DALI backend before them."""


def served_specs(config: DiffVQAConfig, form: Form) -> dict[str, ModelSpec]:
    """The served models of a network, in the order in which a video passes them; the ensemble `diffvqa` last.

    An engine's served model has its engine's tensors. In the embedded form `frames` are pixels (uint8), which each
    engine's process normalises, since they cross between processes several times; and `denoise` plays all K steps. In
    the production form it plays all but the last by `unet_controller`, and the last is a step of the ensemble.
    """
    engines = engine_specs(config)
    both_views = len(VIEWS) * config.frames
    is_embedded = form == "embedded"

    def served(spec: TensorSpec) -> TensorSpec:
        shape = tuple(both_views if size == "frames" else size for size in spec.shape)
        return TensorSpec(spec.name, "uint8" if is_embedded and spec.name == "frames" else spec.dtype, shape)

    def engine_model(name: str) -> ModelSpec:
        # The ONNX Runtime backend wants outputs exactly as they are in the file, dynamic axes too.
        outputs = engines[name].outputs
        return ModelSpec(
            name, tuple(map(served, engines[name].inputs)), tuple(map(served, outputs)) if is_embedded else outputs
        )

    vae_encoder, unet_controller, head = (engine_model(name) for name in engines)
    z, _, step = unet_controller.inputs
    _, *features = unet_controller.outputs
    request = (
        TensorSpec("video", "uint8", ("bytes",)),
        TensorSpec("seed", "int64", (1,)),
        TensorSpec("crops", "int32", (1,)),
        TensorSpec("keep_interlaced", "bool", (1,)),
    )
    facts = (
        TensorSpec("timestamps_seconds", "float64", (config.frames,)),
        # JSON in UTF-8: `VideoInfo` with the warnings, and `ModelFacts`. Bytes, since text needs NumPy's objects on the
        # server's side.
        TensorSpec("video_info", "uint8", ("video_info_bytes",)),
        TensorSpec("model", "uint8", ("model_bytes",)),
    )
    # What the system's monotonic clock showed: received, decoded, views made; started, denoised.
    marks = (TensorSpec("preprocess_marks", "float64", (3,)), TensorSpec("denoise_marks", "float64", (2,)))
    # `denoise` ends between two steps where the client's time, which began when the video was received, is over.
    arrival = frozenset({marks[0].name})
    stage_seconds = TensorSpec("stage_seconds", "float64", (5,))
    optional = frozenset({"seed", "crops", "keep_interlaced"})
    preprocess = ModelSpec("preprocess", request, (*vae_encoder.inputs, *facts, marks[0]), optional)
    score = head.outputs[0]
    # The score passes through it: Triton server leaves out a step whose outputs nobody asks for.
    metrics = ModelSpec("metrics", (TensorSpec("head_score", score.dtype, score.shape), *marks), (score, stage_seconds))
    ensemble = ModelSpec("diffvqa", request, (*head.outputs, *facts, stage_seconds), optional)
    if is_embedded:
        z0_hat = TensorSpec("z0_hat", z.dtype, z.shape)
        denoise = ModelSpec("denoise", (*vae_encoder.outputs, marks[0]), (z0_hat, *features, marks[1]), arrival)
        models = [preprocess, vae_encoder, denoise, head, metrics, ensemble]
    else:
        device_decoding = (  # what a `DecodingPlan` says
            TensorSpec("video", "uint8", ("crops", "bytes")),
            TensorSpec("frame_numbers", "int32", ("crops", config.frames)),
            TensorSpec("rgb_matrix", "float32", ("crops", 3, 3)),
            TensorSpec("orientation", "int32", ("crops", 2)),
            TensorSpec("region", "float32", ("crops", 4)),
        )
        dali = ModelSpec("dali", device_decoding, vae_encoder.inputs)
        last_step = TensorSpec("last_step", step.dtype, step.shape)
        z0 = TensorSpec("z0", z.dtype, z.shape)
        denoise = ModelSpec("denoise", (z0, marks[0]), (z, last_step, marks[1]), arrival)
        models = [dali, preprocess, vae_encoder, denoise, unet_controller, head, metrics, ensemble]
    return {model.name: model for model in models}
