"""The views by DALI: its resampling against float64, its graph against the reference views, on every kind of clip."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip
from numpy.typing import NDArray

pytest.importorskip("nvidia.dali", reason="needs DALI: pip install 'diffvqa-rt[dali]'")

from nvidia.dali import Pipeline

from diffvqa_rt.errors import DeviceDecodeError
from diffvqa_rt.metrics.diffvqa.dali import DaliViews, EncodedViews, preprocess_pipeline, write_model
from diffvqa_rt.metrics.diffvqa.device import device_inputs
from diffvqa_rt.metrics.diffvqa.views import make_views
from diffvqa_rt.video import crop_places, sample_frames
from diffvqa_rt.video.crops import crop_regions
from diffvqa_rt.video.plan import plan_decoding

SIZE = 64

# In grey levels, for resampling by the exact filter: rounding (0.5), and DALI's table of the cubic with 129 entries.
EXACT_TOLERANCE = 0.65
# In grey levels, against Pillow inside of the border, where neither clips: each rounds once more or less (1), and
# Pillow's rounding between its passes is in the next one multiplied by weights that sum up to 1.25 in magnitude.
ROUNDING_TOLERANCE = 2
# In grey levels, at the border: the filter's outer lobes, 1/8 of its weight, see repeated pixels with DALI and nothing
# with Pillow. Neighbouring pixels of noise differ by all of 255; on both axes at once the lobes' difference adds up.
BORDER_TOLERANCE = 2 * 255 / 8
# The mean over both views in grey levels, of different decoders: chroma is interpolated in another way, and where VP9
# does not say is taken for the middle by DALI and for the left by us, hence the
# colours at edges. A frame too early or too late, or BT.709 taken for BT.601, is at 7 and more.
DECODER_MEAN_TOLERANCE = 2.5


@pytest.fixture(scope="module")
def dali_views() -> DaliViews:
    return DaliViews(SIZE)


def noise(width: int, height: int, seed: int = 0, low: int = 0, high: int = 256) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(low, high, (height, width, 3), np.uint8)


def grey_levels(views: NDArray[np.float32]) -> NDArray[np.float64]:
    return (views.astype(np.float64) + 1) * 127.5


def bicubic_weights(length: int, size: int, start: float, end: float) -> NDArray[np.float64]:
    """The antialiased cubic filter (a = -1/2) from `start` to `end` of a row of pixels, [size, length]."""
    scale = (end - start) / size
    weights = np.zeros((size, length))
    for target in range(size):
        centre, reach = start + (target + 0.5) * scale, 2 * max(scale, 1)
        pixels = np.arange(int(centre - reach) - 2, int(centre + reach) + 3)
        x = np.abs((pixels + 0.5 - centre) / max(scale, 1))
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        values = np.where(x < 1, near, np.where(x < 2, far, 0))
        np.add.at(weights[target], np.clip(pixels, 0, length - 1), values / values.sum())
    return weights


@pytest.mark.parametrize("size", [(200, 120), (120, 500), (65, 64), (64, 90), (40, 30), (300, 20), (1, 1)])
def test_resampling_is_the_exact_filter(dali_views: DaliViews, size: tuple[int, int]) -> None:
    width, height = size
    frame = noise(width, height)
    left, top, right, bottom = _piece(width, height)
    views = grey_levels(dali_views([frame])[0])
    for view, region in ((0, (0, 0, width, height)), (1, (left, top, right, bottom))):
        across = bicubic_weights(width, SIZE, region[0], region[2])
        down = bicubic_weights(height, SIZE, region[1], region[3])
        expected = np.clip(np.einsum("yh,hwc,xw->cyx", down, frame.astype(np.float64), across, optimize=True), 0, 255)
        assert np.abs(views[view] - expected).max() <= EXACT_TOLERANCE


def _piece(width: int, height: int) -> tuple[float, float, float, float]:
    """The region that SPEC §1 cuts with seed 0, in the frame's pixels, step by step."""
    scale = max(SIZE / min(width, height), 1)
    scaled = [round(side * scale) for side in (width, height)]
    left, top = (int(place * (side - SIZE + 1)) for place, side in zip(crop_places(0, 1)[0], scaled, strict=True))
    across, down = width / scaled[0], height / scaled[1]
    return left * across, top * down, (left + SIZE) * across, (top + SIZE) * down


CLIPS = {
    "ordinary": {"size": (320, 180)},
    "variable_rate": {"size": (160, 146), "times_ms": np.random.default_rng(0).integers(10, 300, 24).cumsum().tolist()},
    "rotated": {"size": (320, 180), "orientation": (90, False)},
    "mirrored": {"size": (320, 180), "orientation": (180, True)},
    "10_bit": {"codec": "libx265", "pixel_format": "yuv420p10le", "size": (320, 180)},
    "bt709": {"size": (320, 180), "color": {"colorspace": 1, "color_range": 1}},
    "full_range": {"size": (320, 180), "color": {"colorspace": 1, "color_range": 2}},
    "small": {"size": (80, 48)},
    "tall": {"size": (80, 320)},
    "one_frame": {"size": (160, 120), "frames": 1},
}


@pytest.mark.parametrize("name", CLIPS)
def test_views_are_the_reference_views(dali_views: DaliViews, name: str) -> None:
    # Pillow clips between its passes, by several grey levels at hard edges: hence no black or white.
    frames = [frame // 2 + 64 for frame in sample_frames(make_clip(**CLIPS[name]), 8).frames]
    assert_reference_views(dali_views(frames, seed=3, crops=2), frames, SIZE, seed=3, crops=2)


def test_views_of_a_real_clip_are_the_reference_views(clip: Path) -> None:
    frames = sample_frames(clip, 8).frames
    views = DaliViews(384)(frames, crops=3)
    assert_reference_views(views, frames, 384, crops=3)
    # A fifth of the pixels, by one grey level: Pillow's rounding between its passes.
    assert np.abs(grey_levels(views) - grey_levels(make_views(frames, 384, crops=3)))[:, ::2].mean() <= 0.25


def assert_reference_views(
    views: NDArray[np.float32], frames: Sequence[NDArray[np.uint8]], size: int, **arguments: int
) -> None:
    expected = make_views(frames, size, **arguments)
    assert (views.shape, views.dtype, views.flags.c_contiguous) == (expected.shape, np.float32, True)
    error = np.abs(grey_levels(views) - grey_levels(expected))
    # Four pixels of the views: what a filter of two reaches beyond the border, scaled up from half of the size.
    assert error[..., 4:-4, 4:-4].max() <= ROUNDING_TOLERANCE + 1e-4
    assert error.max() <= BORDER_TOLERANCE
    if all(min(frame.shape[:2]) >= size for frame in frames):
        np.testing.assert_array_equal(views[:, 1::2], expected[:, 1::2])


def test_crops_are_numbered_and_seeded_as_the_references_are(dali_views: DaliViews) -> None:
    frames = [noise(300, 200, seed) for seed in range(3)]
    for seed in (0, 1, 12345, 2**63 - 1):
        expected = make_views(frames, SIZE, seed, crops=11)[:, 1::2]
        for crops in (1, 11):
            np.testing.assert_array_equal(dali_views(frames, seed, crops)[:, 1::2], expected[:crops])


def test_frames_may_differ_in_size(dali_views: DaliViews) -> None:
    frames = [noise(100, 90), noise(100, 90, 1), noise(50, 40), noise(100, 90, 2)]
    views = dali_views(frames, crops=2)
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(views[:, 2 * index : 2 * index + 2], dali_views([frame], crops=2))


def test_a_sliver_costs_no_more_than_a_frame() -> None:
    start = time.perf_counter()
    assert DaliViews(384)([np.full((1, 60000, 3), 255, np.uint8)]).min() == 1
    assert time.perf_counter() - start < 10


def test_threads_repetition_and_company_change_no_bit() -> None:
    frames = [noise(300, 200, seed) for seed in range(8)]
    expected = DaliViews(SIZE, threads=1)(frames, crops=3)
    for threads in (1, 2, 5):
        views = DaliViews(SIZE, threads=threads)
        for _ in range(3):
            np.testing.assert_array_equal(views(frames, crops=3), expected)
        # A row alone, and among more rows than a batch holds.
        np.testing.assert_array_equal(views(frames), expected[:1])
        np.testing.assert_array_equal(views(frames, crops=20)[:3], expected)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"frames": []}, ValueError, "frames is empty"),
        ({"seed": -1}, ValueError, "seed is -1; expected a whole number from 0"),
        ({"crops": 0}, ValueError, "crops is 0; expected a whole number from 1"),
        ({"frames": [np.zeros((4, 4, 3))]}, TypeError, r"frames\[0\] is an array of float64; expected uint8"),
    ],
)
def test_bad_arguments_are_named_as_by_make_views(
    dali_views: DaliViews, arguments: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        dali_views(**({"frames": [noise(40, 40)]} | arguments))


# The GPU's graph, decoded on the CPU: what DALI's own libavcodec can do stands for NVDEC.
VP9_CLIPS = {
    "ordinary": {},
    "variable_rate": {"times_ms": CLIPS["variable_rate"]["times_ms"]},
    "rotated": {"container": "mp4", "orientation": (90, False)},
    "mirrored": {"container": "mp4", "orientation": (270, True)},
    "bt709": {"color": {"colorspace": 1, "color_range": 1}},
    "few_frames": {"frames": 3},
    "hidden_frames": {"options": {"lag-in-frames": "10", "auto-alt-ref": "1"}, "frames": 40},
}


def make_vp9(**arguments: object) -> bytes:
    return make_clip(**{"codec": "libvpx-vp9", "container": "webm", "size": (192, 146)} | arguments)


@pytest.mark.parametrize("name", VP9_CLIPS)
def test_the_graph_from_bytes_gives_the_reference_views(name: str) -> None:
    clip = make_vp9(**VP9_CLIPS[name])
    views = EncodedViews(SIZE, decoder="libavcodec")(plan_decoding(clip, 8), seed=3, crops=2)
    expected = make_views(sample_frames(clip, 8).frames, SIZE, seed=3, crops=2)
    assert views.shape == expected.shape
    assert frame_errors(views, expected).max() <= DECODER_MEAN_TOLERANCE


def frame_errors(views: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    """The mean difference of each view, in grey levels."""
    return np.abs(grey_levels(views) - grey_levels(expected)).mean(axis=(-3, -2, -1))


def test_the_decoder_tolerance_tells_what_it_is_to_tell() -> None:
    clip = make_vp9(color={"colorspace": 1, "color_range": 1})
    reference = sample_frames(clip, 8)
    expected = make_views(reference.frames, SIZE)
    mistaken = [
        make_views(reference.frames[1:] + reference.frames[-1:], SIZE)[:, :14],
        make_views([frame[:, ::-1] for frame in reference.frames], SIZE),
        make_views(sample_frames(make_vp9(color={"colorspace": 5, "color_range": 1}), 8).frames, SIZE),
    ]
    for views in mistaken[:2]:
        assert frame_errors(views, expected[:, : views.shape[1]]).min() > 2 * DECODER_MEAN_TOLERANCE
    plan = plan_decoding(clip, 8)
    plan.rgb_matrix[:] = np.eye(3)
    views = EncodedViews(SIZE, decoder="libavcodec")(plan)
    assert frame_errors(views, expected).min() > 2 * DECODER_MEAN_TOLERANCE


def test_a_video_that_does_not_decode_costs_no_other() -> None:
    clip = make_vp9()
    plan = plan_decoding(clip, 8)
    views = EncodedViews(SIZE, decoder="libavcodec")
    expected = views(plan)
    with pytest.raises(DeviceDecodeError, match="does not decode by DALI") as caught:
        views(dataclasses.replace(plan, source=b"no video at all"))
    assert caught.value.__cause__ is not None
    np.testing.assert_array_equal(views(plan), expected)


def test_dali_opens_what_a_text_names_only_beside_where_it_runs(tmp_path: Path, monkeypatch) -> None:
    """Why Triton server runs in an empty folder, whatever a stranger's request gives to the model `dali`."""
    views = EncodedViews(SIZE, decoder="libavcodec")
    plan = plan_decoding(make_vp9(), 8)
    expected = views(plan)
    (tmp_path / "clip.webm").write_bytes(plan.source)
    (tmp_path / "empty").mkdir()

    def named(name: str, form: str = "ffconcat version 1.0\nfile '{}'\n") -> NDArray[np.float32]:
        return views(dataclasses.replace(plan, source=form.format(name).encode()))

    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(named("clip.webm"), expected)
    monkeypatch.chdir(tmp_path / "empty")
    clip = tmp_path / "clip.webm"
    for name in ("clip.webm", "../clip.webm", str(clip), clip.as_uri()):
        for form in ("ffconcat version 1.0\nfile '{}'\n", "#EXTM3U\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"):
            with pytest.raises(DeviceDecodeError):
                named(name, form)


def test_a_serialised_graph_gives_the_same_views() -> None:
    clip = make_vp9()
    plan = plan_decoding(clip, 8)
    graph = preprocess_pipeline(SIZE, "libavcodec", threads=1, device_id=None).serialize()
    # As the backend opens it: under the server's batch size, in as many threads as it likes.
    pipeline = Pipeline.deserialize(serialized_pipeline=graph, batch_size=2, num_threads=2, device_id=None)
    rows = device_inputs(plan, crop_regions(plan.info.width, plan.info.height, SIZE, crop_places(0, 2)))
    for name in rows[0]:
        pipeline.feed_input(name, [row[name] for row in rows])
    (views,) = pipeline.run()
    np.testing.assert_array_equal(
        np.stack([np.array(views.at(row)) for row in range(2)]), EncodedViews(SIZE, decoder="libavcodec")(plan, crops=2)
    )


def test_the_servers_model_is_written_without_a_gpu(tmp_path: Path) -> None:
    write_model(tmp_path / "model.dali", SIZE)
    model = (tmp_path / "model.dali").read_bytes()
    for name in (b"decoders__Video", b"mixed", b"video", b"frame_numbers", b"rgb_matrix", b"orientation", b"region"):
        assert name in model
    write_model(tmp_path / "again.dali", SIZE)
    assert (tmp_path / "again.dali").read_bytes() == model


NVDEC_CLIPS = {
    "h264": {"options": {"x264-params": "bframes=3:b-pyramid=normal:b-adapt=0:scenecut=0"}},
    "hevc": {"codec": "libx265"},
    "vp9": {"codec": "libvpx-vp9", "container": "webm"},
    "variable_rate": {"times_ms": CLIPS["variable_rate"]["times_ms"]},
    "rotated": {"orientation": (90, False)},
    "mirrored": {"orientation": (270, True)},
    "10_bit": {"codec": "libx265", "pixel_format": "yuv420p10le"},
    "bt709": {"color": {"colorspace": 1, "color_range": 1}},
    "few_frames": {"frames": 3},
}


@pytest.mark.gpu
@pytest.mark.parametrize("name", NVDEC_CLIPS)
def test_nvdec_gives_the_reference_views(name: str) -> None:
    try:
        views = EncodedViews(SIZE)
        clip = make_clip(**{"size": (320, 180)} | NVDEC_CLIPS[name])
        plan = plan_decoding(clip, 8)
        found = views(plan, seed=3, crops=2)
    except DeviceDecodeError as error:
        if "CUDA is not available" in str(error.__cause__):
            pytest.skip("needs an NVIDIA GPU")
        raise
    expected = make_views(sample_frames(clip, 8).frames, SIZE, seed=3, crops=2)
    assert frame_errors(found, expected).max() <= DECODER_MEAN_TOLERANCE
    np.testing.assert_array_equal(views(plan, seed=3, crops=2), found)
