"""A small AIGC-VQA, which builds and scores in a moment.

PYTHONPATH=tests:export python tests/prompted_network.py build/small
"""

import dataclasses
import sys
from pathlib import Path

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


def save_small_weights(path: Path) -> Path:
    """Writes a file of random weights, and returns its path."""
    from diffvqa_rt.models.aigc_vqa.network import random_network
    from diffvqa_rt.models.weights import save_weights

    save_weights(random_network(SMALL), path, is_trained=False)
    return path


def build_small(folder: Path) -> Path:
    """Builds engines with those weights, by ONNX Runtime and torch. Returns their folder, in `folder`."""
    import build_engines

    folder.mkdir(parents=True, exist_ok=True)
    weights = str(save_small_weights(folder / "small.safetensors"))
    command = [
        "--metric",
        "aigc_vqa",
        "--weights",
        weights,
        "--backend",
        "onnx,torch",
        "--out",
        str(folder / "engines"),
    ]
    assert build_engines.main(command) == 0
    return folder / "engines"


if __name__ == "__main__":
    print(build_small(Path(sys.argv[1])))
