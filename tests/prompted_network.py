"""A small AIGC-VQA, which builds and scores in a moment."""

import dataclasses

from diffvqa_rt.metrics.aigc_vqa.config import AdapterConfig, ConvNextConfig, SwinConfig, VisionConfig
from diffvqa_rt.metrics.aigc_vqa.presets import TINY

SMALL = dataclasses.replace(
    TINY,
    frames=4,
    view_size=64,
    grid=8,
    swin=SwinConfig(width=16, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), window=(2, 4, 4)),
    convnext=ConvNextConfig(widths=(8, 16, 24, 32), depths=(3, 1, 2, 1)),
    vision=VisionConfig(width=32, depth=2, heads=2),
    adapter=AdapterConfig(bottleneck=12),
    text=dataclasses.replace(TINY.text, width=48, layers=2, heads=3, prompt_tokens=9),
)
"""Views of 64×64, cut into 8×8 pieces; four frames. Windows are shifted in the first two stages."""
