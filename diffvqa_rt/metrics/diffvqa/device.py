"""What DALI's graph of the two views takes of a planned video, for Triton server's DALI backend; DALI is not needed."""

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.metrics.diffvqa.views import check_numbers
from diffvqa_rt.specs import TensorSpec
from diffvqa_rt.video.crops import crop_places, crop_region
from diffvqa_rt.video.plan import DecodingPlan


def device_tensors(config: DiffVQAConfig) -> tuple[TensorSpec, ...]:
    """The graph's inputs, a crop a row: what a `DecodingPlan` says."""
    return (
        TensorSpec("video", "uint8", ("crops", "bytes")),
        TensorSpec("frame_numbers", "int32", ("crops", config.frames)),
        TensorSpec("rgb_matrix", "float32", ("crops", 3, 3)),
        TensorSpec("orientation", "int32", ("crops", 2)),
        TensorSpec("region", "float32", ("crops", 4)),
    )


def device_inputs(plan: DecodingPlan, size: int, seed: int = 0, crops: int = 1) -> list[dict[str, NDArray]]:
    """The inputs, by name, of the graph that `dali.write_model` writes: one row for each crop of a video.

    Raises ValueError where the seed or the crops are out of range.
    """
    check_numbers(size, seed, crops)
    shared: dict[str, NDArray] = {
        "video": np.frombuffer(plan.source, np.uint8),
        "frame_numbers": plan.frame_numbers,
        "rgb_matrix": plan.rgb_matrix,
        "orientation": np.array([plan.orientation.rotation_degrees, plan.orientation.is_mirrored], np.int32),
    }
    return [
        shared | {"region": region_input(plan.info.width, plan.info.height, size, place)}
        for place in crop_places(seed, crops)
    ]


def region_input(width: int, height: int, size: int, place: NDArray[np.float64]) -> NDArray[np.float32]:
    """Top, left, bottom and right of a crop, as the graph takes them, [4] float32."""
    left, top, right, bottom = crop_region(width, height, size, place)
    return np.array([top, left, bottom, right], np.float32)
