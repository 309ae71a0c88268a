"""Adds a metric, builds its engine and scores a video by it: add_a_metric.py OUT VIDEO

The metric is the mean contrast of neighbouring pixels. In the repository a metric has a folder in each layer, as
CONTRIBUTING.md says; this one file stands for the three that a metric needs to be built and to score.
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffvqa_export.build import build_engines
from diffvqa_export.context import BuildRequest
from diffvqa_export.export_stage import EXAMPLE_VIDEOS, ExportStage, Tolerance
from diffvqa_export.metric_export import MetricExport, ParitySource
from diffvqa_export.weights import random_weights
from PIL import Image
from torch import nn

from diffvqa_rt import Scorer
from diffvqa_rt.chain import Call
from diffvqa_rt.metric import Metric
from diffvqa_rt.metrics import registry
from diffvqa_rt.models.registry import MetricModels
from diffvqa_rt.specs import EngineSpec, PixelScale, TensorSpec
from diffvqa_rt.video import sample_frames

SIZE, FRAMES = 64, 4
SHAPE = ("videos", FRAMES, 3, SIZE, SIZE)


# 1. The declaration, without torch: diffvqa_rt/metrics/contrast/.
@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    name: str = "small"
    score_range: tuple[float, float] = (0.0, 1.0)

    def as_dict(self):
        return dataclasses.asdict(self)

    def describe(self):
        return f"{FRAMES} pictures of {SIZE}×{SIZE} pixels"


def prepare(config, frames, request):
    """The whole of each frame as a square, uint8 [1, FRAMES, 3, SIZE, SIZE]."""
    pictures = np.array([np.asarray(Image.fromarray(frame).resize((SIZE, SIZE))) for frame in frames])
    height, width, _ = frames[0].shape
    return {"pictures": pictures.transpose(0, 3, 1, 2)[None]}, ((0.0, 0.0, float(width), float(height)),)


def score(name):
    return TensorSpec(name, "float32", ("videos",))


METRIC = Metric(
    name="contrast",
    title="Contrast",
    config_from_dict=lambda values: Config(**{**values, "score_range": tuple(values["score_range"])}),
    presets={"small": Config()},
    is_temporal=True,
    options=frozenset(),
    frames=lambda config: FRAMES,
    crops=lambda config, frames: 1,
    inputs=lambda config: (TensorSpec("pictures", "uint8", SHAPE),),
    prepare=prepare,
    warnings=lambda config, info: (),
    engines=lambda config: {
        "neighbours": EngineSpec(
            "neighbours",
            inputs=(TensorSpec("pictures", "float32", SHAPE),),
            outputs=(score("contrast"),),
            is_per_frame=False,
            pixels={"pictures": PixelScale(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))},
        )
    },
    chains=lambda config: {"contrast": (Call(engine="neighbours", inputs=("pictures",), outputs=("contrast",)),)},
    choose=lambda request: "contrast",
    results=lambda config, chain: (score("score"),),
    finish=lambda config, outputs, frames: {"score": np.asarray(outputs["contrast"])},
)


# 2. The network in torch, and its engines: diffvqa_rt/models/contrast/stages.py.
class Neighbours(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))

    def forward(self, pictures):
        """Returns a tuple of the contrasts [videos] of pictures [videos, FRAMES, 3, SIZE, SIZE], from 0 to 1."""
        steps = (pictures[..., 1:] - pictures[..., :-1]).abs().mean((-2, -1))
        return ((steps * self.gain).mean((1, 2)),)


MODELS = MetricModels(network=Neighbours, stages=lambda network: {"neighbours": network})


# 3. The engines' tolerances and examples: diffvqa_export/contrast/stages.py.
def no_folder(preset, folder):
    raise ValueError(f"{folder} is a folder; expected a safetensors file")


EXPORT = MetricExport(
    stages={
        "neighbours": ExportStage(
            name="neighbours",
            tolerances={"fp32": Tolerance(relative=1e-5, reason="sums of 4032 differences in another order")},
            example_inputs=lambda config: (torch.rand(EXAMPLE_VIDEOS, *SHAPE[1:]),),
        )
    },
    random_network=lambda config, seed: Neighbours(config).eval(),
    read_description=lambda path: (Config(), True),
    weights_in_folder=no_folder,
    dynamic_sizes=lambda config: {},
    activation_bytes=lambda config: 4 * 3 * FRAMES * SIZE**2,
    reference_bytes=lambda config: 4 * 3 * FRAMES * SIZE**2,
    parity_sources=lambda config, clip: {clip.name: ParitySource(frames=sample_frames(clip, FRAMES))},
)

# 4. The name. In the repository it is an entry of METRICS, and the folders above are found by it.
registry.METRICS += ("contrast",)
for layer in (
    "diffvqa_rt.metrics.contrast.metric",
    "diffvqa_rt.models.contrast.stages",
    "diffvqa_export.contrast.stages",
):
    sys.modules[layer] = sys.modules[__name__]

out, video = map(Path, sys.argv[1:])
weights = random_weights(METRIC.presets["small"], metric="contrast")
build_engines(BuildRequest(weights=weights, backends=("onnx",), out=out, clip=video, metric="contrast"), progress=print)
# In this process, since the decoder's own has not imported this file.
print(f"{Scorer.open(out).score(video, isolate=False).score:.4f} {video}")
