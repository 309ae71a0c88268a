"""`unet_controller`: one denoising step, with the sampler, the noise, the timesteps and the null text folded in."""

import torch
from torch import Tensor

from diffvqa_export.stage import ExportStage, Tolerance, random_frames
from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig


def example_inputs(config: DiffVQAConfig) -> tuple[Tensor, ...]:
    z, z0 = (random_frames(config.latent_shape, 2) for _ in range(2))
    return z, z0, torch.tensor([1])


STAGE = ExportStage(
    name="unet_controller",
    tolerances={
        "fp32": Tolerance(
            relative=1e-3, reason="rounding of ε (1e-6), which the cosine schedule's first step multiplies by 3,493"
        ),
        # Half precision's errors times 3,493 end at the latents' clamp.
        "fp16": Tolerance(relative=3e-2, reason="100 layers that round to 11 bits"),
        "bf16": Tolerance(relative=2e-1, reason="100 layers that round to 8 bits"),
    },
    example_inputs=example_inputs,
)
