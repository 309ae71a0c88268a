"""The smallest DiffV²IQA that has every part, and pictures for it, for tests that train."""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from diffvqa_rt.metrics.diffv2iqa.config import DiffV2IQAConfig, RestorerConfig, VcgConfig, VdaConfig, VitConfig
from diffvqa_rt.metrics.diffv2iqa.presets import TINY

SMALLEST: DiffV2IQAConfig = dataclasses.replace(
    TINY,
    name="smallest",
    view_size=32,
    sampler=dataclasses.replace(TINY.sampler, train_steps=4, steps=4),
    kept=(1, 2),
    restorer=RestorerConfig(channels=(8, 8, 8, 8), blocks=1, norm_groups=8),
    vit=VitConfig(width=12, heads=3, depth=2),
    vcg=VcgConfig(
        blocks_x=(0, 1),
        blocks_y_0=(0,),
        blocks_y_t1=(1,),
        blocks_y_t2=(1,),
        embedding_width=4,
        reduction=(16, 8),
        swin_channels=(8, 8),
        swin_mlp=8,
    ),
    vda=VdaConfig(resnet_blocks=(1, 1, 1, 1), resnet_width=4, channels=8),
)


def dead_leaves(seed: int, side: int = 96) -> np.ndarray:
    """A picture of discs that cover each other, of all sizes and colours, [side, side, 3] uint8.

    Edges, flat areas and occlusion in the proportions of photographs (Lee, Mumford & Huang 2001, "Occlusion models for
    natural images"), so that it stands for one where none comes with the sources.
    """
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    picture = np.full((side, side, 3), 128.0)
    for _ in range(6 * side):
        radius = min(3 / (1 - generator.random()) ** 0.5, side / 3)
        centre = generator.uniform(-side / 4, 5 * side / 4, 2)
        inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        picture[inside] = np.clip(generator.uniform(20, 235) + generator.normal(0, 25, 3), 0, 255)
    return picture.astype(np.uint8)


def save_stills(folder: Path, count: int, side: int = 96) -> list[Path]:
    """Dead leaves as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(dead_leaves(number, side)).save(path)
    return paths
