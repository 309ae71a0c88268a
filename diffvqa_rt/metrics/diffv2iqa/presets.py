"""The named networks."""

from diffvqa_rt.metrics.diffv2iqa.config import DiffV2IQAConfig, RestorerConfig, VcgConfig, VdaConfig, VitConfig
from diffvqa_rt.sampler import SamplerConfig


def _sampler(steps: int) -> SamplerConfig:
    return SamplerConfig(schedule="cosine", train_steps=steps, steps=steps, latent_clamp=1.0, variance="posterior")


PAPER = DiffV2IQAConfig(
    name="paper",
    view_size=224,
    sampler=_sampler(50),
    kept=(5, 10),
    restorer=RestorerConfig(channels=(64, 128, 256, 512, 512), blocks=2),
    vit=VitConfig(width=768, heads=12, depth=12),
    vcg=VcgConfig(
        blocks_x=(6, 7, 8, 9),
        blocks_y_0=(6, 7),
        blocks_y_t1=(8,),
        blocks_y_t2=(9,),
        embedding_width=192,
        reduction=(2304, 768),
        swin_channels=(768, 384),
        swin_mlp=768,
    ),
    vda=VdaConfig(resnet_blocks=(3, 4, 6, 3), resnet_width=64, channels=256),
)
"""The paper's network: ViT-B/8 and ResNet-50, 50 restoration steps."""

TINY = DiffV2IQAConfig(
    name="tiny",
    view_size=96,
    sampler=_sampler(20),
    kept=(2, 4),
    # Without dropout: so small a network has nothing to spare, and its data never repeat.
    restorer=RestorerConfig(channels=(16, 32, 64, 64), blocks=1, norm_groups=8, dropout=0.0),
    vit=VitConfig(width=96, heads=3, depth=6),
    vcg=VcgConfig(
        blocks_x=(2, 3, 4, 5),
        blocks_y_0=(2, 3),
        blocks_y_t1=(4,),
        blocks_y_t2=(5,),
        embedding_width=24,
        reduction=(192, 96),
        swin_channels=(96, 48),
        swin_mlp=96,
    ),
    vda=VdaConfig(resnet_blocks=(1, 1, 1, 1), resnet_width=16, channels=64),
)
"""The same network at a size that two CPU cores score in a second: the default, and what the tests run."""

PRESETS = {preset.name: preset for preset in (TINY, PAPER)}
