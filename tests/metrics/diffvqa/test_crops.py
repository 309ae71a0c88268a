"""How many distortion views a video has and where they lie: fields of the network, the same for all that prepare."""

import dataclasses
import json
import os
import sys

import numpy as np
import pytest
from clips import make_clip, painting
from numpy.typing import NDArray
from training_network import SMALLEST

from diffvqa_rt.decoding import IsolatedDecoder
from diffvqa_rt.errors import DeviceDecodeError
from diffvqa_rt.metric import Request
from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.metrics.diffvqa.presets import SD21, TINY
from diffvqa_rt.preparation import PreparedSource, prepare_frames
from diffvqa_rt.video import crop_places, sample_frames
from diffvqa_rt.video.crops import RgbFrame, crop_region, crop_regions
from diffvqa_rt.video.plan import plan_decoding
from diffvqa_rt.video.texture import texture_places

SIZE = TINY.view_size
TEXTURED = dataclasses.replace(TINY, crops=3, crop_placement="texture")


def frames_of(*sizes: tuple[int, int]) -> list[RgbFrame]:
    return [np.asarray(painting(seed, *size)) for seed, size in enumerate(sizes)]


@pytest.fixture(scope="module")
def frames() -> list[RgbFrame]:
    """Frames that show something else each."""
    return frames_of(*[(480, 320)] * TINY.frames)


def prepared(source: bytes | NDArray[np.uint8], config: DiffVQAConfig, **request) -> PreparedSource:
    return prepare_frames(sample_frames(source, config.frames), METRIC, config, Request(**request), 0)


def test_what_the_fields_are_by_default_is_left_out_of_what_is_kept() -> None:
    for preset in (TINY, SD21):
        assert (preset.crops, preset.crop_placement) == (1, "random")
        assert preset.as_dict().keys().isdisjoint({"crops", "crop_placement"}), "hashes stay what they are"
    values = json.loads(json.dumps(TEXTURED.as_dict()))
    assert (values["crops"], values["crop_placement"]) == (3, "texture")
    assert DiffVQAConfig.from_dict(values) == TEXTURED


def test_a_person_is_told() -> None:
    assert "crop" not in TINY.describe()
    assert TEXTURED.describe().endswith(", 3 crops where texture is")
    assert dataclasses.replace(TINY, crop_placement="texture").describe().endswith(", 1 crop where texture is")
    assert dataclasses.replace(TINY, crops=5).describe().endswith(", 5 crops at random places")


def test_a_request_that_names_no_number_has_the_networks_own(frames) -> None:
    for config, own in ((TINY, 1), (TEXTURED, 3)):
        assert METRIC.most_crops(config, Request()) == own
        for request, crops in ((Request(), own), (Request(crops=2), 2)):
            settled = METRIC.settle(config, request, TINY.frames)
            arrays, regions = METRIC.prepare(config, frames, settled)
            assert len(arrays["frames"]) == len(regions) == crops


def test_random_places_are_the_seeds(frames) -> None:
    _, regions = METRIC.prepare(TINY, frames, Request(seed=7, crops=4))
    assert regions == crop_regions(480, 320, SIZE, crop_places(7, 4))


def test_textured_places_are_those_of_the_middle_frame_whatever_the_seed(frames) -> None:
    arrays, regions = METRIC.prepare(TEXTURED, frames, Request(crops=3))
    assert regions == crop_regions(480, 320, SIZE, texture_places(frames[4], SIZE, 3))
    assert regions != crop_regions(480, 320, SIZE, texture_places(frames[3], SIZE, 3))
    again, same = METRIC.prepare(TEXTURED, frames, Request(seed=7, crops=3))
    assert same == regions
    np.testing.assert_array_equal(again["frames"], arrays["frames"])
    # All frames are cut at the one place.
    for crop, (left, top, right, bottom) in enumerate(regions):
        for index, frame in enumerate(frames):
            expected = frame[int(top) : int(bottom), int(left) : int(right)].transpose(2, 0, 1)
            np.testing.assert_array_equal(arrays["frames"][crop, 2 * index + 1], expected)


def test_the_place_is_a_fraction_where_frames_differ_in_size() -> None:
    sizes = [(480, 320), (240, 160), (480, 320), (960, 640), (100, 400)]
    frames = frames_of(*sizes)
    arrays, regions = METRIC.prepare(dataclasses.replace(TEXTURED, frames=5), frames, Request(crops=1))
    (place,) = texture_places(frames[2], SIZE, 1)
    assert regions == (crop_region(480, 320, SIZE, place),)
    left, top, right, bottom = (int(side) for side in crop_region(960, 640, SIZE, place))
    np.testing.assert_array_equal(arrays["frames"][0, 7], frames[3][top:bottom, left:right].transpose(2, 0, 1))


def test_dali_cuts_at_the_same_places(frames) -> None:
    pytest.importorskip("nvidia.dali", reason="needs DALI: pip install 'diffvqa-rt[dali]'")
    arrays, regions = METRIC.prepare(TEXTURED, frames, Request(crops=3))
    by_dali, theirs = METRIC.prepare(TEXTURED, frames, Request(crops=3, resized_by="dali"))
    assert theirs == regions
    np.testing.assert_array_equal(by_dali["frames"][:, 1::2], arrays["frames"][:, 1::2])


CLIPS = {
    "h264": {"b_frames": 2},
    "hevc": {"codec": "libx265"},
    "vp9": {"codec": "libvpx-vp9", "container": "webm"},
    "variable-rate": {"times_ms": [number * number for number in range(1, 25)]},
    "turned": {"orientation": (90, True)},
    "few-frames": {"frames": 3},
}


@pytest.mark.parametrize("name", CLIPS)
def test_a_gpu_is_told_the_regions_that_the_host_cuts(name: str) -> None:
    """It has no frame when it is told: the host decodes that one alone, to the same pixels."""
    config = dataclasses.replace(TEXTURED, view_size=64)
    clip = make_clip(**{"size": (320, 180)} | CLIPS[name])
    host = prepared(clip, config)
    plan = plan_decoding(clip, config.frames)
    regions = METRIC.on_device.crop_regions(config, plan, METRIC.settle(config, Request(seed=9), config.frames))
    assert regions == host.crop_regions
    rows = METRIC.on_device.rows(config, plan, regions)
    assert [row["region"].tolist() for row in rows] == [[top, left, *(low, far)] for left, top, far, low in regions]
    if name != "few-frames":
        others = {crop_regions(*frame.shape[1::-1], 64, texture_places(frame, 64, 3)) for frame in frames_in(clip)}
        assert len(others) > 1, "another frame has other places"


def frames_in(clip: bytes) -> tuple[RgbFrame, ...]:
    return sample_frames(clip, TINY.frames).frames


def test_a_middle_frame_that_does_not_decode_is_for_the_host() -> None:
    clip = make_clip(size=(320, 180), gop=24)
    plan = plan_decoding(clip, TINY.frames)
    start, end = clip.index(b"mdat") + 4, clip.index(b"moov") - 4
    middle = (start + end) // 2
    broken = clip[:middle] + bytes(end - middle) + clip[end:]
    request = Request(crops=1)
    for source, obstacle in (
        (broken, "a middle frame that is damaged or interlaced"),
        (clip[:start] + bytes(end - start) + clip[end:], "no frame that decodes"),
    ):
        with pytest.raises(DeviceDecodeError, match=f"{obstacle}.*decode it on the CPU"):
            METRIC.on_device.crop_regions(TEXTURED, dataclasses.replace(plan, source=source), request)
    # At random places, nobody has to see it.
    assert METRIC.on_device.crop_regions(TINY, dataclasses.replace(plan, source=broken), request)


def test_the_decoders_process_finds_the_same_regions(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(os.path.abspath(path) for path in sys.path if path))
    clip = make_clip(size=(320, 180))
    config = dataclasses.replace(SMALLEST, crops=2, crop_placement="texture")
    here, decoder = prepared(clip, config), IsolatedDecoder()
    try:
        there = decoder.prepare(clip, METRIC, config, Request(seed=3))
        planned = decoder.plan(clip, METRIC, config, Request(seed=4))
    finally:
        decoder.close()
    assert planned is not None
    assert there.crop_regions == planned[1] == here.crop_regions and len(set(here.crop_regions)) == 2
    np.testing.assert_array_equal(there.arrays["frames"], here.arrays["frames"])
