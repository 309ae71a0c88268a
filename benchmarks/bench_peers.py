"""What other metrics cost on the same pictures: pyiqa's without a reference, and VMAF, which needs one.

Cost alone: no row says who is right. Of pyiqa's metrics those that can be made without a download: PIQE, which has no
weights; NIQE and BRISQUE with numbers in the place of their fitted ones; and MUSIQ, HyperIQA, TOPIQ and, with -m slow,
MANIQA with random weights. All cost what fitted ones do. The baseline is each metric's `tiny` on ONNX Runtime. What
DOVER, FAST-VQA and others publish of themselves is in `cited.json`.

    pytest benchmarks/bench_peers.py --benchmark-only
"""

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from unittest import mock

import av
import numpy as np
import pytest
from providers import asked, network_of
from scipy.io import savemat

from diffvqa_rt import Scorer
from diffvqa_rt.engines import available_cpus
from diffvqa_rt.errors import SyntheticSetError
from diffvqa_rt.metrics.registry import DEFAULT, METRICS, metric_named
from diffvqa_rt.synthetic.vmaf import ffmpeg_version, measure_vmaf
from diffvqa_rt.video import sample_frames

BASELINE = "onnxruntime"
MADE_UP, RANDOM = "made up: cost only", "random: cost only"
WEIGHTS = {
    "piqe": "none needed",
    "niqe": MADE_UP,
    "brisque": MADE_UP,
    "musiq": RANDOM,
    "hyperiqa": RANDOM,
    "topiq_nr": RANDOM,
    "maniqa": RANDOM,
}
ROUNDS = {"piqe": 3, "niqe": 3, "brisque": 3, "topiq_nr": 2}
# 20 crops of 224×224 through a ViT-B/8: a minute.
SLOW = ("maniqa",)
# Eight frames of a video take those that are not networks, and one that is.
OF_VIDEOS = ("piqe", "niqe", "brisque", "musiq")
# NIQE's and BRISQUE's features of a picture, and BRISQUE's support vectors.
FEATURES, SUPPORT_VECTORS = 36, 774


@pytest.fixture(scope="module")
def scorers(builds) -> dict[str, Scorer]:
    return {metric: Scorer.open(builds.folder("onnx", metric)) for metric in METRICS}


@pytest.fixture(scope="module")
def pyiqa() -> ModuleType:
    how = "benchmarks/README.md says how to install it"
    if importlib.util.find_spec("pyiqa") is None:
        pytest.skip(f"needs pyiqa; {how}")
    _declare_torchvision_operators()
    try:
        return importlib.import_module("pyiqa")
    except ImportError as error:
        pytest.skip(f"pyiqa needs {error.name}; {how}")


def _declare_torchvision_operators() -> None:
    """PyPI's torchvision is compiled for CUDA: beside a torch for CPUs it has no operators, and does not import.

    It asks for two by name. No metric here calls one.
    """
    import torch

    if torch.version.cuda is None:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def metric_of(pyiqa: ModuleType, name: str, folder: Path) -> Callable:
    """The metric, for pictures [N, 3, H, W] in 0 … 1, without a download."""
    import torch

    rng = np.random.default_rng(0)
    if name == "niqe":
        path = folder / "niqe.mat"
        savemat(path, {"mu_prisparam": rng.random((1, FEATURES)), "cov_prisparam": np.eye(FEATURES)})
        return pyiqa.create_metric(name, device="cpu", pretrained_model_path=str(path))
    if name == "brisque":
        path = folder / "brisque.pth"
        vectors = torch.from_numpy(rng.random((SUPPORT_VECTORS, FEATURES), np.float32))
        torch.save((torch.from_numpy(rng.random(SUPPORT_VECTORS, np.float32)), vectors), path)
        return pyiqa.create_metric(name, device="cpu", pretrained_model_path=str(path))
    if WEIGHTS[name] != RANDOM:
        return pyiqa.create_metric(name, device="cpu")
    timm = importlib.import_module("timm")
    make = timm.create_model

    def without_weights(model: str, pretrained: bool = False, **options):
        return make(model, pretrained=False, **options)

    # Some ask for an encoder's weights whatever they are told of their own.
    with mock.patch.object(timm, "create_model", without_weights):
        return pyiqa.create_metric(name, device="cpu", pretrained=False)


def _rows() -> list:
    return [
        pytest.param(metric, provider, marks=[pytest.mark.slow] if provider in SLOW else [])
        for metric in METRICS
        for provider in (BASELINE, *(OF_VIDEOS if metric_named(metric).is_temporal else WEIGHTS))
    ]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("metric", "provider"), _rows())
def test_frames(benchmark, time_in_turns, request, scorers, clip, tmp_path, metric: str, provider: str) -> None:
    """From eight decoded frames to a score, or to one a frame; of a metric that scores pictures, from one."""
    scorer, is_video = scorers[metric], metric_named(metric).is_temporal
    prompt = asked(metric_named(metric)).prompt
    frames = np.stack(sample_frames(clip, scorer.manifest.config.frames if is_video else 1).frames)
    what = "8 frames of 720×480 to scores" if is_video else "a picture of 720×480 to its score"
    benchmark.group = f"peers: {what}, {network_of(metric)}"
    benchmark.extra_info |= {"provider": provider, "baseline": provider == BASELINE, "threads": available_cpus()}
    if provider == BASELINE:
        benchmark.extra_info |= {
            "weights": scorer.manifest.model_label,
            "crops": len(scorer.score(frames, prompt=prompt).crop_scores),
        }
        time_in_turns(lambda: scorer.score(frames, prompt=prompt), {}, 3)
        return
    pyiqa = request.getfixturevalue("pyiqa")
    import torch

    torch.set_num_threads(available_cpus())
    peer = metric_of(pyiqa, provider, tmp_path)
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255

    def run() -> np.ndarray:
        with torch.inference_mode():
            return peer(pictures).numpy()

    scores = run()
    assert scores.size == len(frames) and np.isfinite(scores).all()
    benchmark.extra_info |= {"weights": WEIGHTS[provider], "version": pyiqa.__version__}
    time_in_turns(run, {BASELINE: lambda: scorer.score(frames, prompt=prompt)}, ROUNDS.get(provider, 1), is_warm=True)


@pytest.fixture(scope="module")
def distorted(clip: Path, tmp_path_factory) -> Path:
    """The clip, encoded again at a tenth of the quality."""
    target = tmp_path_factory.mktemp("distorted") / "distorted.mp4"
    with av.open(clip) as source, av.open(target, "w") as output:
        video = source.streams.video[0]
        stream = output.add_stream("libx264", rate=video.average_rate, options={"preset": "veryfast", "crf": "40"})
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        for frame in source.decode(video):
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return target


@pytest.mark.parametrize("provider", [BASELINE, "libvmaf"])
def test_file(benchmark, time_in_turns, scorers, clip, distorted, provider: str) -> None:
    """From a file to its score. VMAF decodes and compares every frame of it and of its reference."""
    scorer = scorers[DEFAULT]
    benchmark.group = "peers: a file of 5 s of 720×480 to its score, tiny"
    benchmark.extra_info |= {"provider": provider, "baseline": provider == BASELINE, "threads": available_cpus()}
    frame_count = sample_frames(distorted, 1).info.frame_count
    if provider == BASELINE:
        benchmark.extra_info |= {"frames": scorer.manifest.config.frames, "of_frames": frame_count}
        time_in_turns(lambda: scorer.score(distorted), {}, 3)
        return
    try:
        version = ffmpeg_version()
    except SyntheticSetError as error:
        pytest.skip(str(error))
    # That of a clip beside itself is 97 at least.
    assert 0 < measure_vmaf(distorted, clip, threads=available_cpus())["vmaf"].mean() < 90
    benchmark.extra_info |= {"frames": frame_count, "of_frames": frame_count, "weights": "vmaf_v0.6.1"}
    benchmark.extra_info |= {"needs_reference": True, "version": version}
    run = partial(measure_vmaf, distorted, clip, threads=available_cpus())
    time_in_turns(run, {BASELINE: lambda: scorer.score(distorted)}, 3, is_warm=True)
