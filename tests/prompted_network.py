"""The smallest AIGC-VQA that has every part, and clips with prompts and opinions for it, for tests that train."""

import csv
import dataclasses
from pathlib import Path

from clips import make_clip

from diffvqa_rt.metrics.aigc_vqa.config import AdapterConfig, AigcVqaConfig, ConvNextConfig, SwinConfig, VisionConfig
from diffvqa_rt.metrics.aigc_vqa.presets import TINY

SMALLEST: AigcVqaConfig = dataclasses.replace(
    TINY,
    name="smallest",
    frames=2,
    view_size=64,
    grid=2,
    swin=SwinConfig(width=8, depths=(1, 1, 2, 1), heads=(1, 1, 2, 2), window=(1, 2, 2)),
    convnext=ConvNextConfig(widths=(4, 8, 8, 16), depths=(1, 1, 2, 1)),
    head_width=4,
    vision=VisionConfig(width=16, depth=3, heads=2),
    adapter=AdapterConfig(bottleneck=4),
    text=dataclasses.replace(TINY.text, width=16, layers=3, heads=2, prompt_tokens=8),
    reward=(8, 4),
)
PROMPTS = ("a red ball", "two blue squares", "a green star moving up", "three rings")


def save_prompted_clips(folder: Path, count: int, *, held_out: int = 0, prompts=PROMPTS) -> Path:
    """Writes clips and their table, opinions on 1 … 5; the last `held_out` are the test split.

    Returns:
        The table.
    """
    table = folder / "mos.csv"
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "prompt", "mos", "split"])
        for number in range(count):
            (folder / f"{number}.mp4").write_bytes(make_clip(size=(72 + 8 * number, 80), frames=4))
            split = "test" if number >= count - held_out else "train"
            writer.writerow([f"{number}.mp4", prompts[number % len(prompts)], 1 + 4 * number / (count - 1), split])
    return table
