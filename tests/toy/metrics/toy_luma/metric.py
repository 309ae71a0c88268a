"""The declaration of the toy metric."""

from collections.abc import Sequence

import numpy as np
from diffvqa_rt.metrics.toy_luma.config import FIVE, SIZE, TURNS, ToyLumaConfig
from numpy.typing import NDArray
from PIL import Image

from diffvqa_rt.chain import STEP, Call, Chain, Loop
from diffvqa_rt.errors import ScoreWarning
from diffvqa_rt.metric import Metric, Request
from diffvqa_rt.specs import Arrays, EngineSpec, PixelScale, TensorSpec
from diffvqa_rt.video import VideoInfo
from diffvqa_rt.video.crops import Region, RgbFrame, crop_places, crop_region, crop_regions

PIXELS = PixelScale(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def _inputs(config: ToyLumaConfig) -> tuple[TensorSpec, ...]:
    return (TensorSpec("pictures", "uint8", ("videos", config.frames, 3, SIZE, SIZE)),)


def _prepare(
    config: ToyLumaConfig, frames: Sequence[RgbFrame], request: Request
) -> tuple[dict[str, NDArray], tuple[Region, ...]]:
    places = crop_places(request.seed, request.settled_crops)
    pictures = [[_picture(frame, place) for frame in frames] for place in places]
    height, width, _ = frames[0].shape
    return {"pictures": np.array(pictures).transpose(0, 1, 4, 2, 3)}, crop_regions(width, height, SIZE, places)


def _picture(frame: RgbFrame, place: NDArray[np.float64]) -> NDArray[np.uint8]:
    image = Image.fromarray(frame)
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=crop_region(*image.size, SIZE, place)))


def _warnings(config: ToyLumaConfig, info: VideoInfo) -> tuple[ScoreWarning, ...]:
    return (ScoreWarning("toy", "this score is a toy's"),)


def _engines(config: ToyLumaConfig) -> dict[str, EngineSpec]:
    numbers, curve = ("videos",), ("videos", config.frames)
    specs = (
        EngineSpec(
            "luma",
            inputs=(TensorSpec("pictures", "float32", ("videos", config.frames, 3, SIZE, SIZE)),),
            outputs=(TensorSpec("luma", "float32", numbers), TensorSpec("frame_luma", "float32", curve)),
            is_per_frame=False,
            pixels={"pictures": PIXELS},
        ),
        EngineSpec(
            "adapting_step",
            inputs=(
                TensorSpec("level", "float32", numbers),
                TensorSpec("curve", "float32", curve),
                TensorSpec("frame_luma", "float32", curve),
                TensorSpec(STEP, "int64", (1,)),
            ),
            outputs=(TensorSpec("level_next", "float32", numbers), TensorSpec("curve_next", "float32", curve)),
            is_per_frame=False,
        ),
    )
    return {spec.name: spec for spec in specs}


def _chain(config: ToyLumaConfig) -> Chain:
    last = TURNS - 1
    return (
        Call(engine="luma", inputs=("pictures",), outputs=("luma", "frame_luma")),
        Loop(
            stage="adapt",
            engine="adapting_step",
            count=TURNS,
            inputs=("frame_luma",),
            carry={"level": "level_next", "curve": "curve_next"},
            start={"level": "luma", "curve": "frame_luma"},
            keep={
                "glance": ("level_next", 0),
                "score": ("level_next", last),
                "frame_scores": ("curve_next", last),
            },
        ),
    )


def _results(config: ToyLumaConfig) -> tuple[TensorSpec, ...]:
    numbers, curve = ("videos",), ("videos", config.frames)
    return (
        TensorSpec("score", "float32", numbers),
        TensorSpec("frame_scores", "float32", curve),
        TensorSpec("glance", "float32", numbers),
    )


def _finish(config: ToyLumaConfig, outputs: Arrays, frames: int) -> dict[str, NDArray]:
    assert np.shape(outputs["frame_scores"])[1] == frames == config.frames
    return {**outputs, "score": np.asarray((outputs["glance"] + 3 * outputs["score"]) / 4)}


METRIC = Metric(
    name="toy_luma",
    title="Toy luma",
    config_from_dict=ToyLumaConfig.from_dict,
    presets={FIVE.name: FIVE},
    is_temporal=True,
    options=frozenset({"crops"}),
    frames=lambda config: config.frames,
    crops=lambda config, frames: 1,
    inputs=_inputs,
    prepare=_prepare,
    warnings=_warnings,
    engines=_engines,
    chains=lambda config: {"toy_luma": _chain(config)},
    choose=lambda request: "toy_luma",
    results=lambda config, chain: _results(config),
    finish=_finish,
)
