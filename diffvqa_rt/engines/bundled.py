"""The engines that the package brings: of the bundled weights, by ONNX Runtime on a CPU, without a build."""

from pathlib import Path

BUNDLED_ENGINES = Path(__file__).parents[1] / "weights" / "tiny"
"""An engine folder as any other; its engines read their weights from the safetensors file in it."""
