"""The declaration of DiffV²IQA."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.chain import Call, Chain, Loop
from diffvqa_rt.errors import ScoreWarning
from diffvqa_rt.metric import Metric, Request
from diffvqa_rt.metrics.diffv2iqa.config import DiffV2IQAConfig
from diffvqa_rt.metrics.diffv2iqa.engines import engine_specs
from diffvqa_rt.metrics.diffv2iqa.presets import PRESETS
from diffvqa_rt.metrics.diffv2iqa.views import cut_views, view_regions
from diffvqa_rt.specs import Arrays, TensorSpec
from diffvqa_rt.video import VideoInfo
from diffvqa_rt.video.crops import Region, RgbFrame, scaling_warnings

_CROPS_OF_A_STILL = 5  # D3: a crop of 224×224 pixels shows 0.4 % of a photograph of 12 megapixels


def _crops(config: DiffV2IQAConfig, frames: int) -> int:
    return _CROPS_OF_A_STILL if frames == 1 and config.view == "crop" else 1


def _inputs(config: DiffV2IQAConfig) -> tuple[TensorSpec, ...]:
    return (TensorSpec("x", "uint8", ("videos", 3, config.view_size, config.view_size)),)


def _prepare(
    config: DiffV2IQAConfig, frames: Sequence[RgbFrame], request: Request
) -> tuple[dict[str, NDArray], tuple[Region, ...]]:
    views = cut_views(config, frames, request)
    height, width, _ = frames[0].shape
    return {"x": views}, view_regions(config, width, height, request)


def _warnings(config: DiffV2IQAConfig, info: VideoInfo) -> tuple[ScoreWarning, ...]:
    return scaling_warnings(info.width, info.height, config.view_size)


def _chain(config: DiffV2IQAConfig) -> Chain:
    steps = config.sampler.steps
    # A turn ends with steps − 1 − turn of them left.
    first, second = (steps - 1 - left for left in config.kept)
    return (
        Loop(
            stage="restore",
            engine="restoration_step",
            count=steps,
            inputs=("x",),
            carry={"y": "y_next"},
            start={"y": "x"},  # which step 0 does not read: it makes its own y from the noise table
            keep={"y_0": ("y_next", steps - 1), "y_t1": ("y_next", first), "y_t2": ("y_next", second)},
        ),
        Call(
            engine="quality_branches",
            inputs=("x", "y_0", "y_t1", "y_t2"),
            outputs=("view_scores", "branch_scores", "patch_scores", "patch_weights"),
        ),
    )


def _results(config: DiffV2IQAConfig) -> tuple[TensorSpec, ...]:
    crops, curve = ("videos",), ("videos", "frames")
    maps = (*curve, len(config.branch_names), config.grid, config.grid)
    return (
        TensorSpec("score", "float32", crops),
        TensorSpec("frame_scores", "float32", curve),
        TensorSpec("frame_weights", "float32", curve),
        *(TensorSpec(name, "float32", crops) for name in config.branch_names),
        TensorSpec("patch_scores", "float32", maps),
        TensorSpec("patch_weights", "float32", maps),
    )


def _finish(config: DiffV2IQAConfig, outputs: Arrays, frames: int) -> dict[str, NDArray]:
    """Means over the frames, each of which was scored alone (D33); parts are shares of the score, in its unit."""

    def by_frame(name: str) -> NDArray[np.float32]:
        values = np.asarray(outputs[name])
        return values.reshape(-1, frames, *values.shape[1:])

    curve, branches = by_frame("view_scores"), by_frame("branch_scores")
    low, high = config.score_range
    shares = (np.float32(high - low) * branches).mean(axis=1)
    return {
        "score": curve.mean(axis=1),
        "frame_scores": curve,
        "frame_weights": np.full_like(curve, 1 / frames),
        **{name: np.ascontiguousarray(shares[:, index]) for index, name in enumerate(config.branch_names)},
        "patch_scores": by_frame("patch_scores"),
        "patch_weights": by_frame("patch_weights"),
    }


METRIC = Metric(
    name="diffv2iqa",
    title="DiffV²IQA",
    config_from_dict=DiffV2IQAConfig.from_dict,
    presets=PRESETS,
    is_temporal=False,
    options=frozenset({"crops", "frames", "patch_maps"}),
    frames=lambda config: config.frames,
    crops=_crops,
    inputs=_inputs,
    prepare=_prepare,
    warnings=_warnings,
    engines=engine_specs,
    chains=lambda config: {"diffv2iqa": _chain(config)},
    choose=lambda request: "diffv2iqa",
    results=lambda config, chain: _results(config),
    finish=_finish,
    with_steps=DiffV2IQAConfig.with_steps,
)
