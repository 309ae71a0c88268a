"""The declaration of DiffVQA."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.chain import Call, Chain, Loop
from diffvqa_rt.errors import ScoreWarning
from diffvqa_rt.metric import DevicePreparation, Metric, Request
from diffvqa_rt.metrics.diffvqa.config import VIEWS, DiffVQAConfig
from diffvqa_rt.metrics.diffvqa.device import device_inputs, device_tensors
from diffvqa_rt.metrics.diffvqa.engines import FEATURES, engine_specs
from diffvqa_rt.metrics.diffvqa.presets import PRESETS
from diffvqa_rt.metrics.diffvqa.views import cut_views_at
from diffvqa_rt.specs import Arrays, TensorSpec
from diffvqa_rt.video import VideoInfo
from diffvqa_rt.video.crops import Region, RgbFrame, crop_places, crop_regions, scaling_warnings
from diffvqa_rt.video.plan import DecodingPlan, middle_frame
from diffvqa_rt.video.texture import texture_places

if TYPE_CHECKING:
    from diffvqa_rt.metrics.diffvqa.dali import DaliViews

# A thread takes address space, which is limited where a video is decoded, and a video has eight frames.
_DALI_THREADS = 4


def _inputs(config: DiffVQAConfig) -> tuple[TensorSpec, ...]:
    size = config.view_size
    return (TensorSpec("frames", "uint8", ("videos", len(VIEWS) * config.frames, 3, size, size)),)


def _prepare(
    config: DiffVQAConfig, frames: Sequence[RgbFrame], request: Request
) -> tuple[dict[str, NDArray], tuple[Region, ...]]:
    size = config.view_size
    places = _places(config, request, lambda: frames[len(frames) // 2])
    if request.resized_by == "dali":
        views = _dali_views(size).cut(frames, places)
    else:
        views = cut_views_at(frames, size, places)
    height, width, _ = frames[0].shape
    return {"frames": views}, crop_regions(width, height, size, places)


def _places(config: DiffVQAConfig, request: Request, middle: Callable[[], RgbFrame]) -> NDArray[np.float64]:
    """The places of the crops; only texture has to see the `middle` one of the sampled frames."""
    if config.crop_placement == "texture":
        return texture_places(middle(), config.view_size, request.settled_crops)
    return crop_places(request.seed, request.settled_crops)


@cache
def _dali_views(size: int) -> "DaliViews":
    from diffvqa_rt.metrics.diffvqa.dali import DaliViews  # DALI, which only the production form needs

    return DaliViews(size, threads=_DALI_THREADS)


def _warnings(config: DiffVQAConfig, info: VideoInfo) -> tuple[ScoreWarning, ...]:
    return scaling_warnings(info.width, info.height, config.view_size)


def _chain(config: DiffVQAConfig) -> Chain:
    last = config.sampler.steps - 1
    return (
        Call(engine="vae_encoder", inputs=("frames",), outputs=("z0",)),
        Loop(
            stage="denoise",
            engine="unet_controller",
            count=config.sampler.steps,
            inputs=("z0",),
            carry={"z": "z_next"},
            start={"z": "z0"},  # which step 0 does not read: it makes its own z from z0 and the noise table
            keep={"z0_hat": ("z_next", last), **{name: (name, last) for name in FEATURES}},
        ),
        Call(
            engine="head",
            inputs=("z0_hat", *FEATURES, "frames"),
            outputs=("score", "frame_scores", "frame_weights"),
        ),
    )


def _results(config: DiffVQAConfig) -> tuple[TensorSpec, ...]:
    return engine_specs(config)["head"].outputs


def _finish(config: DiffVQAConfig, outputs: Arrays, frames: int) -> dict[str, NDArray]:
    return {spec.name: np.asarray(outputs[spec.name]) for spec in _results(config)}


def _device_regions(config: DiffVQAConfig, plan: DecodingPlan, request: Request) -> tuple[Region, ...]:
    places = _places(config, request, lambda: middle_frame(plan))
    return crop_regions(plan.info.width, plan.info.height, config.view_size, places)


def _write_device_model(config: DiffVQAConfig, path: Path) -> None:
    from diffvqa_rt.metrics.diffvqa.dali import write_model  # DALI, as above

    write_model(path, config.view_size)


METRIC = Metric(
    name="diffvqa",
    title="DiffVQA",
    config_from_dict=DiffVQAConfig.from_dict,
    presets=PRESETS,
    is_temporal=True,
    options=frozenset({"crops"}),
    frames=lambda config: config.frames,
    crops=lambda config, frames: config.crops,
    inputs=_inputs,
    prepare=_prepare,
    warnings=_warnings,
    engines=engine_specs,
    chains=lambda config: {"diffvqa": _chain(config)},
    choose=lambda request: "diffvqa",
    results=lambda config, chain: _results(config),
    finish=_finish,
    with_steps=DiffVQAConfig.with_steps,
    on_device=DevicePreparation(
        inputs=device_tensors,
        crop_regions=_device_regions,
        rows=lambda config, plan, regions: device_inputs(plan, regions),
        write_model=_write_device_model,
    ),
)
