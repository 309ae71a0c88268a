"""The named networks."""

from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig, HeadConfig, TcabConfig, UNetConfig, VaeConfig
from diffvqa_rt.sampler import SamplerConfig

SD21 = DiffVQAConfig(
    name="sd21",
    frames=8,
    view_size=384,
    vae=VaeConfig(channels=(128, 256, 512, 512), layers_per_block=2, norm_groups=32),
    unet=UNetConfig(
        channels=(320, 640, 1280, 1280),
        layers_per_block=2,
        attention_heads=(5, 10, 20, 20),
        text_width=1024,
        text_tokens=77,
        norm_groups=32,
    ),
    sampler=SamplerConfig(schedule="cosine"),
    head=HeadConfig(
        feature_channels=256,
        fused_channels=64,
        mlp_width=256,
        tcab=TcabConfig(views="both", width=192, depth=24),
    ),
)
"""The paper's network: Stable Diffusion 2.1-base and VideoMamba-Tiny."""

TINY = DiffVQAConfig(
    name="tiny",
    frames=8,
    view_size=192,
    # Few groups: the last norm of a group of two channels would leave the decoder nothing of a flat area but its sign.
    vae=VaeConfig(channels=(16, 32, 64, 64), layers_per_block=1, norm_groups=2),
    unet=UNetConfig(
        channels=(32, 64, 96, 96),
        layers_per_block=1,
        attention_heads=(1, 2, 3, 3),
        text_width=64,
        text_tokens=8,
        norm_groups=8,
    ),
    # Over the ten steps float32 ends 2e-6 from float64, with the cosine schedule 6e-5 and 3e-4 on the way (measured on
    # random weights).
    sampler=SamplerConfig(schedule="scaled_linear"),
    head=HeadConfig(
        feature_channels=32,
        fused_channels=32,
        mlp_width=64,
        tcab=TcabConfig(views="both", width=64, depth=4),
    ),
)
"""The same network at a size that two CPU cores score in seconds: the default, and what the tests run."""

PRESETS = {preset.name: preset for preset in (TINY, SD21)}
