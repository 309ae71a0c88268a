"""`head`: the last step's features and the frames to the score."""

from torch import Tensor

from diffvqa_export.precision import PRECISIONS
from diffvqa_export.stage import ExportStage, Tolerance, random_frames
from diffvqa_rt.metrics.diffvqa.config import VIEWS, DiffVQAConfig


def example_inputs(config: DiffVQAConfig) -> tuple[Tensor, ...]:
    count = len(VIEWS) * config.frames
    shapes = (config.latent_shape, *config.feature_shapes, (3, config.view_size, config.view_size))
    return tuple(random_frames(shape, count) for shape in shapes)


STAGE = ExportStage(
    name="head",
    # In float32 whatever the rest runs in (`precision`).
    tolerances=dict.fromkeys(
        PRECISIONS, Tolerance(relative=1e-4, reason="sums in another order, over thousands of scan steps")
    ),
    example_inputs=example_inputs,
)
