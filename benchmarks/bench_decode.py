"""From a video file to both views of eight of its frames, beside other ways to them; and how that grows with length.

`decode_all`, the baseline, decodes every frame on as many threads as ffmpeg likes and converts the eight that are
wanted. `resize_all` makes views of every frame and then picks. `torchcodec` seeks as ours does; the other rows with
`dali` in their name cut the views by DALI's operators. Rounds take turns, and views are compared before they are timed.
Nothing after the views depends on a file's length: there are eight frames of them.

    pytest benchmarks/bench_decode.py --benchmark-only
    pytest benchmarks/bench_decode.py --benchmark-only -m gpu
"""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from long_clips import SEGMENT_FRAMES, encode_segment, play_again
from PIL import Image

from diffvqa_rt.engines import available_cpus
from diffvqa_rt.errors import DeviceDecodeError
from diffvqa_rt.metrics.diffvqa.presets import SD21, TINY
from diffvqa_rt.metrics.diffvqa.views import make_views
from diffvqa_rt.video import sample_frames
from diffvqa_rt.video.plan import plan_decoding
from diffvqa_rt.video.threads import DecoderThreads

Views = Callable[[], np.ndarray]

FRAMES = 8
BASELINE = "decode_all"
LENGTHS_SECONDS = (10, 40, 160)
# Grey levels, in the mean over both views: the tests' of DALI's resampling, and of another decoder's colours.
RESAMPLING_TOLERANCE, DECODER_TOLERANCE = 0.25, 1.5


def mean_error(views: np.ndarray, expected: np.ndarray) -> float:
    """In grey levels."""
    return float(np.abs(views - expected).mean()) * 127.5


def wanted_numbers(frame_count: int) -> list[int]:
    """The frames at the centres of as many equal spans, at a constant frame rate."""
    return [(2 * i + 1) * frame_count // (2 * FRAMES) for i in range(FRAMES)]


def frames_of_all(path: Path) -> list[np.ndarray]:
    """Decodes every frame, and makes RGB of the wanted ones."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        wanted = set(wanted_numbers(stream.frames or _count_packets(path)))
        decoded = enumerate(container.decode(stream))
        return [frame.to_ndarray(format="rgb24") for index, frame in decoded if index in wanted]


def _count_packets(path: Path) -> int:
    """WebM does not say how many frames it has."""
    with av.open(path) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def views_of_all(path: Path, size: int) -> np.ndarray:
    """Decodes every frame, cuts the views of each, and picks then."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        # One frame's views at a time: a minute of frames does not fit the memory.
        views = [make_views([frame.to_ndarray(format="rgb24")], size) for frame in container.decode(stream)]
    return np.concatenate([views[index] for index in wanted_numbers(len(views))], axis=1)


def run_of(provider: str, path: Path, size: int) -> Views:
    """The call that is timed. Skips where a package or a device is missing."""
    if provider == "pyav_pillow":
        # As in the decoder's process, but for what libraries write of errors: these files are sound.
        threads = DecoderThreads(available_cpus(), lambda: False)
        return lambda: make_views(sample_frames(path, FRAMES, threads=threads).frames, size)
    if provider == BASELINE:
        return lambda: make_views(frames_of_all(path), size)
    if provider == "resize_all":
        return lambda: views_of_all(path, size)
    if provider == "torchcodec":
        decoders = _torchcodec_decoders()

        def run() -> np.ndarray:
            decoder = decoders.VideoDecoder(path, dimension_order="NHWC")
            batch = decoder.get_frames_at(wanted_numbers(len(decoder))).data
            return make_views(list(batch.numpy()), size)

        return run
    dali = _dali()
    if provider == "pyav_dali":
        cut = dali.DaliViews(size)
        return lambda: cut(sample_frames(path, FRAMES).frames)
    views = dali.EncodedViews(size, decoder=provider.removeprefix("dali_"))
    return lambda: views(plan_decoding(path.read_bytes(), FRAMES))


def _dali():
    pytest.importorskip("nvidia.dali", reason="needs DALI: pip install 'diffvqa-rt[dali]'")
    return importlib.import_module("diffvqa_rt.metrics.diffvqa.dali")


def _torchcodec_decoders():
    how = "benchmarks/README.md says how to install it"
    if importlib.util.find_spec("torchcodec") is None:
        pytest.skip(f"needs torchcodec; {how}")
    try:
        return importlib.import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError):
        pytest.skip(f"torchcodec finds no shared libraries of ffmpeg, or is built for another torch; {how}")


def skip_without_gpu(run: Views) -> None:
    try:
        run()
    except DeviceDecodeError as error:
        if "CUDA is not available" in str(error.__cause__):
            pytest.skip("needs an NVIDIA GPU")
        raise


@pytest.mark.parametrize("provider", ["dali", "dali_one_thread", "pillow"])
def test_views(benchmark, time_in_turns, clip: Path, provider: str) -> None:
    """The views alone, of frames that lie in memory."""
    dali = _dali() if provider != "pillow" else None
    frames = [
        np.asarray(Image.fromarray(frame).resize((960, 540), Image.Resampling.BICUBIC))
        for frame in sample_frames(clip, FRAMES).frames
    ]

    def pillow() -> np.ndarray:
        return make_views(frames, SD21.view_size)

    run = pillow
    if dali is not None:
        views = dali.DaliViews(SD21.view_size, threads=1 if provider == "dali_one_thread" else None)
        run = lambda: views(frames)  # noqa: E731
    assert mean_error(run(), pillow()) <= RESAMPLING_TOLERANCE
    benchmark.group = "preprocess: views of 8 frames of 960×540 in memory, sd21"
    benchmark.extra_info |= {"provider": provider, "baseline": provider == "pillow", "threads": available_cpus()}
    time_in_turns(run, {} if provider == "pillow" else {"pillow": pillow}, 9)


@pytest.fixture(scope="module")
def encoded(clip: Path, tmp_path_factory) -> dict[str, Path]:
    """The file of each group, by its name."""
    folder = tmp_path_factory.mktemp("encoded")
    return {
        "5 s of 720×480 H.264": clip,
        "10 s of 1280×720 H.264": encode_segment(clip, folder / "long.mp4", (1280, 720)),
        "10 s of 854×480 VP9": encode_segment(clip, folder / "long.webm", (854, 480), "libvpx-vp9"),
    }


FILES = ("5 s of 720×480 H.264", "10 s of 1280×720 H.264", "10 s of 854×480 VP9")
PROVIDERS = ("pyav_pillow", BASELINE, "resize_all", "torchcodec", "pyav_dali", "dali_libavcodec", "dali_nvdec")


def _rows() -> list:
    return [
        pytest.param(what, provider, marks=[pytest.mark.gpu] if provider == "dali_nvdec" else [])
        for what in FILES
        for provider in PROVIDERS
        # Slow, and once shows it. DALI without a GPU decodes VP9 of these.
        if not (provider == "resize_all" and what != FILES[0]) and not (provider == "dali_libavcodec" and "264" in what)
    ]


@pytest.mark.parametrize(("what", "provider"), _rows())
def test_encoded(benchmark, time_in_turns, encoded, what: str, provider: str) -> None:
    path, size = encoded[what], SD21.view_size
    run, baseline = run_of(provider, path, size), run_of(BASELINE, path, size)
    if provider == "dali_nvdec":
        skip_without_gpu(run)
    ours = run_of("pyav_pillow", path, size)()
    tolerance = RESAMPLING_TOLERANCE if provider == "pyav_dali" else DECODER_TOLERANCE
    assert mean_error(run(), ours) <= tolerance
    benchmark.group = f"preprocess: a file of {what} to its views, sd21"
    benchmark.extra_info |= {"provider": provider, "baseline": provider == BASELINE, "threads": available_cpus()}
    rounds = 5 if what == FILES[0] else 2
    time_in_turns(run, {} if provider == BASELINE else {BASELINE: baseline}, rounds)


@pytest.fixture(scope="module")
def by_length(clip: Path, tmp_path_factory) -> dict[int, Path]:
    """Seconds → the same 640×360 picture for so long."""
    folder = tmp_path_factory.mktemp("lengths")
    segment = encode_segment(clip, folder / "segment.mp4", (640, 360))
    return {seconds: play_again(segment, folder / f"{seconds}.mp4", seconds) for seconds in LENGTHS_SECONDS}


@pytest.mark.parametrize("seconds", LENGTHS_SECONDS)
@pytest.mark.parametrize("provider", ["pyav_pillow", BASELINE])
def test_length(benchmark, time_in_turns, by_length, provider: str, seconds: int) -> None:
    """Ours grows until each of the eight frames has a group of pictures of its own, then with the packets alone."""
    path, size = by_length[seconds], TINY.view_size
    runs = {name: run_of(name, path, size) for name in ("pyav_pillow", BASELINE)}
    if provider != BASELINE:
        assert mean_error(runs[provider](), runs[BASELINE]()) <= DECODER_TOLERANCE
    benchmark.group = "preprocess: a file of 640×360 to its views by its length, tiny"
    info = sample_frames(path, 1 if provider == BASELINE else FRAMES).info
    # Ours seeks: no more than one group for each frame, however long the file is.
    assert info.decoded_frames <= FRAMES * SEGMENT_FRAMES
    benchmark.extra_info |= {
        "provider": provider,
        "baseline": provider == BASELINE,
        "threads": available_cpus(),
        "axis": "length_seconds",
        "value": seconds,
        "frames": info.frame_count,
        "decoded_frames": info.frame_count if provider == BASELINE else info.decoded_frames,
        "keyframe_every_frames": SEGMENT_FRAMES,
    }
    # Long ones are steady, and were decoded by both for the comparison.
    rounds = 3 if seconds == LENGTHS_SECONDS[0] else 1
    baselines = {} if provider == BASELINE else {BASELINE: runs[BASELINE]}
    time_in_turns(runs[provider], baselines, rounds, is_warm=True)
