"""Builds engines of your own weights and scores videos by them: own_weights.py WEIGHTS OUT VIDEO…

WEIGHTS is a file that `diffvqa train` wrote, or hf://ORG/NAME@REVISION. From a shell,
`export/build_engines.py --weights` does the same.
"""

import sys
from pathlib import Path

from diffvqa_export.build import build_engines
from diffvqa_export.context import BuildRequest
from diffvqa_export.weights import choose_weights

from diffvqa_rt import Scorer
from diffvqa_rt.metrics.registry import metric_named

weights, out, *videos = sys.argv[1:]

request = BuildRequest(
    weights=choose_weights(metric_named("diffvqa").preset_named("tiny"), weights),
    backends=("onnx",),
    out=Path(out),
    clip=Path(videos[0]),  # the engines are compared with torch on it
)
manifest = build_engines(request, progress=print)
print(f"weights {manifest.weights.sha256[:12]}, trained: {manifest.weights.is_trained}")

with Scorer.open(out) as scorer:
    for video in videos:
        print(f"{scorer.score(video).score:.3f} {video}")
