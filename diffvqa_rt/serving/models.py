"""The served models of a network: names, dtypes and shapes."""

from dataclasses import dataclass
from typing import Literal

from diffvqa_rt.metrics.diffvqa.config import VIEWS, DiffVQAConfig
from diffvqa_rt.metrics.diffvqa.engines import engine_specs
from diffvqa_rt.specs import TensorSpec


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
