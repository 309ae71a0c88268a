"""`vae_encoder`: the views of a video to their latents."""

from torch import Tensor

from diffvqa_export.stage import ExportStage, Tolerance, random_frames
from diffvqa_rt.config import DiffVQAConfig


def example_inputs(config: DiffVQAConfig) -> tuple[Tensor, ...]:
    return (random_frames((3, config.view_size, config.view_size), 2),)


STAGE = ExportStage(
    name="vae_encoder",
    tolerance=Tolerance(
        relative=1e-4, reason="float32 sums of up to 9 · 512 products, in another order, 20 layers deep"
    ),
    example_inputs=example_inputs,
)
