"""`vae_encoder`: the views of a video to their latents."""

from torch import Tensor

from diffvqa_export.stage import ExportStage, Tolerance, random_frames
from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig


def example_inputs(config: DiffVQAConfig) -> tuple[Tensor, ...]:
    return (random_frames((3, config.view_size, config.view_size), 2),)


STAGE = ExportStage(
    name="vae_encoder",
    tolerances={
        "fp32": Tolerance(relative=1e-5, reason="sums of up to 9 · 512 products, in another order, 20 layers deep"),
        "fp16": Tolerance(relative=1e-2, reason="20 layers that round to 11 bits"),
        "bf16": Tolerance(relative=6e-2, reason="20 layers that round to 8 bits"),
    },
    example_inputs=example_inputs,
)
