"""That the head can learn at all: sixteen clips by heart, on the features of the bundled weights."""

import importlib.resources
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from diffvqa_rt.models.diffvqa.checkpoints import load_weights
from diffvqa_rt.synthetic.clip_files import read_clip, write_clip
from diffvqa_rt.synthetic.distortions import LADDERS, distort
from diffvqa_rt.synthetic.labelled import LabelledVideo
from diffvqa_rt.training.diffvqa.extraction import TorchExtractor, fill_cache
from diffvqa_rt.training.diffvqa.features import FeatureCache
from diffvqa_rt.training.diffvqa.head import HeadObjective, predict_videos
from diffvqa_rt.training.diffvqa.start import with_new_head
from diffvqa_rt.training.entry_cache import CropOfVideo
from diffvqa_rt.training.loop import FitConfig, fit
from diffvqa_rt.training.opinions import OpinionBatches

TYPES = ("h264", "scaling", "gaussian_blur", "gaussian_noise", "motion_blur", "sharpening", "banding", "low_light")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_head_learns_sixteen_clips_by_heart(clip, tmp_path):
    """L1 under 1 % of the range, with labels in an order that has nothing to do with quality."""
    weights = Path(str(importlib.resources.files("diffvqa_rt") / "weights" / "tiny" / "tiny.safetensors"))
    adapted, _ = load_weights(weights)
    frames = read_clip(clip)[:24]
    labels = np.random.default_rng(0).permutation(np.linspace(5, 95, 16))
    videos = []
    for name in TYPES:
        for severity in (2, 5):
            distorted = distort(frames, LADDERS[name], severity, "overfit")
            path = tmp_path / f"{name}-{severity}.mp4"
            crf = 12.0 if distorted.codec is None else distorted.crf
            write_clip(path, distorted.frames, Fraction(24), codec=distorted.codec, crf=crf)
            videos.append(LabelledVideo(name=path.name, path=path, label=float(labels[len(videos)])))
    accelerator = Accelerator(cpu=True)
    extract = TorchExtractor(adapted, accelerator)
    cache = FeatureCache(
        tmp_path / "cache", adapted, precision=extract.precision, runtime=extract.runtime, max_bytes=10**9
    )
    fill_cache(cache, [CropOfVideo(video.path) for video in videos], extract, accelerator)
    # Dropout is there to keep a head from learning by heart.
    config = replace(adapted.config, head=replace(adapted.config.head, dropout=0.0))
    network = with_new_head(adapted, config, seed=0)
    fit(
        HeadObjective(network),
        OpinionBatches(videos, cache, batch=16, crops=1, processes=1, seed=0),
        FitConfig(steps=300, learning_rate=2e-3, weight_decay=0.0, schedule="cosine"),
        tmp_path / "run",
        describes={},
        accelerator=accelerator,
    )
    scores = predict_videos(network, videos, cache)
    low, high = adapted.config.score_range
    l1 = float(np.abs(scores - labels).mean()) / (high - low)
    print(f"L1 on 16 clips: {l1:.2%} of the range")
    assert l1 < 0.01, torch.tensor(np.stack([scores, labels]))
