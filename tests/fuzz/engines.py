"""Engines of the smallest network that has every part: what is fuzzed is all that lies before them."""

from pathlib import Path

from diffvqa_export.build import build_engines
from diffvqa_export.context import BuildRequest
from diffvqa_export.weights import random_weights
from training_network import SMALLEST

CLIP = Path(__file__).parents[2] / "examples" / "frog.mp4"


def smallest_engines(folder: Path) -> Path:
    """Builds them into `folder`, by ONNX Runtime, and returns it."""
    request = BuildRequest(weights=random_weights(SMALLEST), backends=("onnx",), out=folder, clip=CLIP)
    build_engines(request, progress=lambda step: None)
    return folder
