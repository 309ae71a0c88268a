"""The smallest network that has every part, for tests that train."""

import dataclasses

from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.metrics.diffvqa.presets import TINY

SMALLEST: DiffVQAConfig = dataclasses.replace(
    TINY,
    frames=2,
    view_size=64,
    vae=dataclasses.replace(TINY.vae, channels=(8, 8, 8, 8)),
    unet=dataclasses.replace(TINY.unet, channels=(8, 8, 8, 8), attention_heads=(1, 1, 1, 1)),
    sampler=dataclasses.replace(TINY.sampler, steps=2),
    head=dataclasses.replace(
        TINY.head,
        feature_channels=8,
        fused_channels=8,
        mlp_width=8,
        tcab=dataclasses.replace(TINY.head.tcab, width=16, depth=1),
    ),
)
