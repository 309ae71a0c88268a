"""Both views of a clip: DALI's CPU operators beside Pillow, and NVDEC with DALI beside PyAV with Pillow.

The views alone are of eight frames of 960x540 in memory; on a GPU, decoding counts too. Providers take turns, round by
round, and outputs are compared before anything is timed.

    pytest benchmarks/bench_preprocess.py --benchmark-only
    pytest benchmarks/bench_preprocess.py --benchmark-only -m gpu
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("nvidia.dali", reason="needs DALI: pip install 'diffvqa-rt[dali]'")

from diffvqa_rt.errors import DeviceDecodeError
from diffvqa_rt.video import make_views, sample_frames
from diffvqa_rt.video.dali import DaliViews, EncodedViews
from diffvqa_rt.video.plan import plan_decoding

ROUNDS = 15
FRAMES, SIZE = 8, 384
# Grey levels, in the mean over both views: the tests'.
TOLERANCE, DECODER_TOLERANCE = 0.25, 1.5


def mean_error(views: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(views - expected).mean()) * 127.5


@pytest.mark.parametrize("provider", ["dali", "dali_one_thread", "pillow"])
def test_views(benchmark, time_in_turns, clip: Path, provider: str) -> None:
    frames = [
        np.asarray(Image.fromarray(frame).resize((960, 540), Image.Resampling.BICUBIC))
        for frame in sample_frames(clip, FRAMES).frames
    ]
    many, one = DaliViews(SIZE), DaliViews(SIZE, threads=1)
    runs = {
        "dali": lambda: many(frames),
        "dali_one_thread": lambda: one(frames),
        "pillow": lambda: make_views(frames, SIZE),
    }
    assert mean_error(runs[provider](), runs["pillow"]()) <= TOLERANCE
    benchmark.group = "preprocess: views of 8 x 960x540"
    time_in_turns(runs[provider], {} if provider == "pillow" else {"pillow": runs["pillow"]}, ROUNDS)


@pytest.mark.gpu
def test_decoded_views_on_a_gpu(benchmark, time_in_turns, clip: Path) -> None:
    source = clip.read_bytes()
    views = EncodedViews(SIZE)

    def on_gpu() -> np.ndarray:
        return views(plan_decoding(source, FRAMES))

    def on_cpu() -> np.ndarray:
        return make_views(sample_frames(source, FRAMES).frames, SIZE)

    try:
        assert mean_error(on_gpu(), on_cpu()) <= DECODER_TOLERANCE
    except DeviceDecodeError as error:
        if "CUDA is not available" in str(error.__cause__):
            pytest.skip("needs an NVIDIA GPU")
        raise
    benchmark.group = "preprocess: from encoded bytes"
    time_in_turns(on_gpu, {"pyav": on_cpu}, ROUNDS)
    benchmark.extra_info["frames_per_second"] = FRAMES / benchmark.stats.stats.median
