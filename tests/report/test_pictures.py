"""The frames of a report are those that were scored, or it says why there are none."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip
from PIL import Image

from diffvqa_rt.report.pictures import ScoredFrames, patch_pictures
from diffvqa_rt.results import PatchMaps
from diffvqa_rt.video import sample_frames


def picture(url):
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


@pytest.fixture(scope="module")
def frames():
    pictures = ScoredFrames()
    yield pictures
    pictures.close()


@pytest.fixture
def clip(tmp_path, scored):
    """The result of a clip that lies beside the results."""
    (tmp_path / "clip.mp4").write_bytes(make_clip())
    sampled = sample_frames(tmp_path / "clip.mp4", 4)
    return scored(video=sampled.info, timestamps_seconds=sampled.timestamps_seconds), sampled


def test_thumbnails_are_the_scored_frames(frames, clip, tmp_path):
    score, sampled = clip
    thumbnails, note = frames.thumbnails(score, tmp_path, 1)
    assert note == "" and [one.seconds for one in thumbnails] == list(score.timestamps_seconds)
    for thumbnail, frame in zip(thumbnails, sampled.frames, strict=True):
        assert (thumbnail.width, thumbnail.height, thumbnail.regions) == (64, 48, score.crop_regions)
        shown = np.asarray(picture(thumbnail.url).convert("RGB"), float)
        assert np.abs(shown - frame).mean() < 12  # lossy


def test_a_video_that_is_elsewhere_has_no_frames(frames, scored, tmp_path):
    for source in ("gone.mp4", "s3://bucket/a.mp4", "<bytes>", "a\0b", "x" * 5000):
        assert frames.thumbnails(scored(source), tmp_path, 1) == ((), "The video is not at hand.")


def test_a_file_that_changed_shows_no_frames(frames, clip, tmp_path):
    score, _ = clip
    Path(tmp_path / "clip.mp4").write_bytes(make_clip(frames=12))
    assert "has changed" in frames.thumbnails(score, tmp_path, 1)[1]
    Path(tmp_path / "clip.mp4").write_bytes(b"no video")
    assert "cannot be shown" in frames.thumbnails(score, tmp_path, 1)[1]


def test_a_score_of_very_many_frames_is_not_decoded(frames, clip, scored, tmp_path):
    thumbnails, note = frames.thumbnails(scored(timestamps_seconds=(0.0,) * 10**6), tmp_path, 1)
    assert thumbnails == () and "64 at most" in note


def test_patch_maps_are_a_pixel_a_patch_crops_beside_each_other_for_a_still():
    scores = np.arange(2 * 1 * 1 * 2 * 3.0).reshape(2, 1, 1, 2, 3)
    maps = PatchMaps(parts=("vcg",), scores=scores.tolist(), weights=np.full((2, 1, 1, 2, 3), 1 / 6).tolist())
    first, second = patch_pictures(maps)
    assert (first.kind, first.low, first.high, second.kind) == ("scores", 0.0, 11.0, "weights")
    pixels = np.asarray(picture(first.url).convert("RGBA"))
    assert pixels.shape == (2, 7, 4)
    assert (pixels[:, 3, 3] == 0).all()  # between the crops
    assert tuple(pixels[0, 0, :3]) == (68, 1, 84) and tuple(pixels[1, 6, :3]) == (253, 231, 37)  # viridis' ends
