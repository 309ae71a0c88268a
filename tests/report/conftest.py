"""Results without a network, and a browser."""

import dataclasses
import shutil

import pytest

from diffvqa_rt.errors import ScoreWarning
from diffvqa_rt.report.reading import Entry, ResultsFile
from diffvqa_rt.results import VideoScore
from diffvqa_rt.video import VideoInfo

INFO = VideoInfo(
    width=64,
    height=48,
    frame_count=24,
    duration_seconds=0.96,
    frame_rate_hz=25.0,
    decoder="pyav",
    codec="h264",
    pixel_format="yuv420p",
    bit_depth=8,
    rotation_degrees=0,
    is_mirrored=False,
    color_matrix="bt709",
    is_color_matrix_declared=True,
    color_range="limited",
    color_transfer="bt709",
    decoded_frames=20,
    corrupt_frames=0,
    color_primaries="bt709",
    sample_aspect_ratio=None,
    field_order="progressive",
    is_deinterlaced=False,
)


@pytest.fixture(scope="session")
def scored():
    """Makes the result of a video, whose four frames surround the score."""

    def make(source="clip.mp4", score=50.0, *, warning=None, **changes):
        result = VideoScore(
            source=source,
            score=score,
            score_range=(0.0, 100.0),
            crop_scores=(score,),
            crop_spread=0.0,
            frame_scores=(score - 2, score + 1, score + 2, score - 1),
            frame_weights=(0.25,) * 4,
            timestamps_seconds=(0.12, 0.36, 0.6, 0.84),
            seed=0,
            video=INFO,
            stage_seconds={"decode": 0.1},
            model="tiny",
            is_trained=True,
            weights_sha256="aa" * 32,
            backend="onnx",
            views_by="pillow",
            warnings=(ScoreWarning("few-frames", warning),) if warning else (),
            engines_sha256="bb" * 32,
            precision="fp32",
            raw_score=score,
            metric="diffvqa",
            is_temporal=True,
            parts={},
            crop_regions=((8, 8, 40, 40),),
        )
        return dataclasses.replace(result, **changes)

    return make


@pytest.fixture(scope="session")
def results_of():
    """Makes what a file of these results holds."""

    def make(*scores, path, failures=(), problems=(), ids=None):
        entries = zip(ids or [None] * len(scores), scores, strict=True)
        return ResultsFile(
            path=path,
            entries=tuple(Entry(id=name, score=score) for name, score in entries),
            failures=failures,
            problems=problems,
        )

    return make


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium, without a window."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("needs the browser chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=executable)
        yield chromium
        chromium.close()
