"""What DALI's graph of the two views takes of a planned video, for Triton server's DALI backend; DALI is not needed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.specs import TensorSpec
from diffvqa_rt.video.crops import Region
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


def device_inputs(plan: DecodingPlan, regions: Sequence[Region]) -> list[dict[str, NDArray]]:
    """The inputs, by name, of the graph that `dali.write_model` writes: one row for each crop of a video."""
    shared: dict[str, NDArray] = {
        "video": np.frombuffer(plan.source, np.uint8),
        "frame_numbers": plan.frame_numbers,
        "rgb_matrix": plan.rgb_matrix,
        "orientation": np.array([plan.orientation.rotation_degrees, plan.orientation.is_mirrored], np.int32),
    }
    return [shared | {"region": region_input(region)} for region in regions]


def region_input(region: Region) -> NDArray[np.float32]:
    """Top, left, bottom and right of a crop, as the graph takes them, [4] float32."""
    left, top, right, bottom = region
    return np.array([top, left, bottom, right], np.float32)
