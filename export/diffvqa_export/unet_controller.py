"""`unet_controller`: one denoising step, with the sampler, the noise, the timesteps and the null text folded in."""

import torch
from torch import Tensor

from diffvqa_export.stage import ExportStage, Tolerance, random_frames
from diffvqa_rt.config import DiffVQAConfig


def example_inputs(config: DiffVQAConfig) -> tuple[Tensor, ...]:
    z, z0 = (random_frames(config.latent_shape, 2) for _ in range(2))
    return z, z0, torch.tensor(1)


STAGE = ExportStage(
    name="unet_controller",
    tolerance=Tolerance(
        relative=1e-3,
        reason="float32 rounding of ε (1e-6), which the cosine schedule's first step multiplies by up to 3,493",
    ),
    example_inputs=example_inputs,
)
