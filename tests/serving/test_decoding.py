"""The decoder's process: what it refuses, what ends it, and that the next video does not notice."""

import dataclasses
import io
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
from clips import make_clip
from pictures import huge_png
from PIL import Image

from diffvqa_rt.decoding.limits import LEAST_DECODE_MEMORY_BYTES
from diffvqa_rt.errors import InputError, VideoDecodeError
from diffvqa_rt.metric import Request
from diffvqa_rt.metrics.diffv2iqa.metric import METRIC as IMAGE_METRIC
from diffvqa_rt.metrics.diffv2iqa.presets import TINY as IMAGE_TINY
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.metrics.diffvqa.views import cut_views
from diffvqa_rt.serving.decoding import Decoder
from diffvqa_rt.serving.settings import RequestLimits
from diffvqa_rt.serving.traffic import Traffic
from diffvqa_rt.video import crop_places, sample_frames
from diffvqa_rt.video.plan import plan_decoding

LIMITS = RequestLimits(max_request_bytes=1 << 20, max_frames=50, max_frame_pixels=1000 * 1000, max_crops=3)


@pytest.fixture(scope="module", autouse=True)
def import_path():
    """The process starts in no checkout and finds our packages as Triton server's own processes do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(os.path.abspath(path) for path in sys.path if path))
        yield


@pytest.fixture(scope="module")
def decoder():
    decoder = Decoder(METRIC, TINY, LIMITS, sys.executable, max_rows=3)
    yield decoder
    decoder.close()


def pid_of(decoder: Decoder) -> int:
    (process,) = decoder._decoder._processes._all
    return process.pid


def assert_works(decoder: Decoder, seed: int = 0, crops: int = 1) -> None:
    clip = make_clip()
    decoded, sampled = decoder.decode(clip, Request(seed=seed, crops=crops)), sample_frames(clip, TINY.frames)
    np.testing.assert_array_equal(decoded.arrays["frames"], cut_views(sampled.frames, TINY.view_size, seed, crops))
    assert (decoded.info, decoded.timestamps_seconds) == (sampled.info, sampled.timestamps_seconds)
    assert decoded.decode_seconds > 0


def test_views_are_those_of_this_process(decoder):
    assert_works(decoder)
    assert_works(decoder, seed=5, crops=3)


def test_views_may_be_cut_by_dali(import_path):
    dali = pytest.importorskip("diffvqa_rt.metrics.diffvqa.dali", reason="needs DALI: pip install 'diffvqa-rt[dali]'")
    decoder = Decoder(METRIC, TINY, LIMITS, sys.executable, max_rows=3)
    try:
        clip = make_clip()
        decoded, sampled = (
            decoder.decode(clip, Request(seed=5, crops=2, resized_by="dali")),
            sample_frames(clip, TINY.frames),
        )
    finally:
        decoder.close()
    np.testing.assert_array_equal(
        decoded.arrays["frames"], dali.DaliViews(TINY.view_size).cut(sampled.frames, crop_places(5, 2))
    )
    assert (decoded.info, decoded.timestamps_seconds) == (sampled.info, sampled.timestamps_seconds)


def test_a_plan_for_a_gpu_is_that_of_this_process(decoder):
    clip = make_clip(size=(320, 240), orientation=(90, True))
    (planned, regions), expected = decoder.plan(clip, Request(seed=5)), plan_decoding(clip, TINY.frames)
    assert regions == decoder.decode(clip, Request(seed=5)).crop_regions
    assert planned.source == clip and planned.as_dict() == expected.as_dict()
    np.testing.assert_array_equal(planned.frame_numbers, expected.frame_numbers)
    np.testing.assert_array_equal(planned.rgb_matrix, expected.rgb_matrix)
    assert (planned.frame_numbers.dtype, planned.rgb_matrix.dtype) == (np.int32, np.float32)
    assert decoder.plan(make_clip("libvpx", "webm"), Request()) is None
    with pytest.raises(VideoDecodeError, match="60 frames, and this server takes at most 50"):
        decoder.plan(make_clip(frames=60, size=(160, 160)), Request())
    with pytest.raises(InputError, match="crops is 4"):
        decoder.plan(clip, Request(crops=4))


@pytest.mark.parametrize(
    ("video", "sentence"),
    [
        (b"", "<bytes> is empty"),
        (b"Dear diary", "<bytes> is not a video"),
        (bytes(2 << 20), "<bytes> is 2,097,152 bytes long, and this server takes at most 1,048,576"),
        (make_clip(frames=60), "<bytes> has 60 frames, and this server takes at most 50"),
        (make_clip(frames=60, container="mpegts"), "<bytes> has 60 frames, and this server takes at most 50"),
        (huge_png(1500), "<bytes> has 2,250,000 pixels a picture, and this server takes at most 1,000,000"),
        (huge_png(60000), "<bytes> .*pixels a picture"),
    ],
    ids=["empty", "text", "long", "frames-in-header", "frames-counted", "bomb", "huge-bomb"],
)
def test_what_is_beyond_the_limits_gets_its_sentence(decoder, video, sentence):
    pid = pid_of(decoder)
    with pytest.raises(VideoDecodeError, match=sentence):
        decoder.decode(video, Request())
    assert_works(decoder)
    assert pid_of(decoder) == pid


@pytest.mark.parametrize(
    ("seed", "crops", "sentence"),
    [(-1, 1, "seed is -1"), (0, 0, "crops is 0"), (0, 4, "crops is 4; this server takes at most 3")],
)
def test_bad_arguments_get_the_sentence_of_scoring_here(decoder, seed, crops, sentence):
    with pytest.raises(InputError, match=sentence):
        decoder.decode(make_clip(), Request(seed=seed, crops=crops))
    assert_works(decoder)


def test_more_crops_of_the_networks_own_than_a_server_takes_are_refused_on_either_way():
    narrow = Decoder(METRIC, dataclasses.replace(TINY, crops=4), LIMITS, sys.executable, max_rows=3)
    clip = make_clip(size=(320, 240))
    try:
        for prepare in (narrow.decode, narrow.plan):
            with pytest.raises(InputError, match="crops × frames is 4; this server takes at most 3: ask for fewer"):
                prepare(clip, Request())
            assert prepare(clip, Request(crops=3))
    finally:
        narrow.close()


def test_a_process_that_was_killed_is_replaced(decoder):
    os.kill(pid_of(decoder), signal.SIGKILL)
    assert_works(decoder)
    os.kill(pid_of(decoder), signal.SIGSTOP)  # so that the video is in it when it dies
    threading.Timer(0.3, os.kill, (pid_of(decoder), signal.SIGKILL)).start()
    assert_works(decoder)


def test_a_video_that_takes_too_long_ends_with_its_process():
    decoder = Decoder(METRIC, TINY, RequestLimits(max_decode_seconds=2.5), sys.executable, max_rows=16)
    try:
        assert_works(decoder)
        os.kill(pid_of(decoder), signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(VideoDecodeError, match="takes longer than 2.5 s to decode"):
            decoder.decode(make_clip(), Request())
        assert 2.5 <= time.monotonic() - start < 30
        assert_works(decoder)
    finally:
        decoder.close()


def test_a_video_that_takes_too_much_memory_is_refused(decoder):
    assert_works(decoder)
    with open(f"/proc/{pid_of(decoder)}/status") as status:
        (peak_kib,) = (int(line.split()[1]) for line in status if line.startswith("VmPeak"))
    # Enough for a small clip, and no less than may be; a picture of 16 million pixels is 50 MB in RGB, more than once.
    most = max((peak_kib << 10) + (24 << 20), LEAST_DECODE_MEMORY_BYTES)
    narrow = Decoder(METRIC, TINY, RequestLimits(max_decode_memory_bytes=most), sys.executable, max_rows=16)
    still = io.BytesIO()
    Image.new("RGB", (4096, 4096), (200, 30, 60)).save(still, "PNG", compress_level=1)
    try:
        assert_works(narrow)
        with pytest.raises(VideoDecodeError, match="MiB to decode|no frame that decodes|ended the decoder's process"):
            narrow.decode(still.getvalue(), Request())
        assert_works(narrow)
    finally:
        narrow.close()


def test_traffic_is_idle_once_nobody_is_at_work(tmp_path):
    ours, theirs = Traffic(tmp_path / "traffic"), Traffic(tmp_path / "traffic")
    start = time.monotonic()
    with theirs.at_work():
        ours.wait_until_idle(0.2, "embedded", lambda: False)
    assert time.monotonic() - start >= 0.2
    start = time.monotonic()
    ours.wait_until_idle(120, "embedded", lambda: False)
    assert 0.4 < time.monotonic() - start < 30
    assert not theirs.is_stopped
    ours.stop()
    assert theirs.is_stopped


def test_frames_that_are_scored_alone_are_rows_of_a_limited_number(import_path):
    narrow = Decoder(IMAGE_METRIC, IMAGE_TINY, LIMITS, sys.executable, max_rows=8)
    clip = make_clip()
    try:
        assert narrow.decode(clip, Request()).rows == 8
        assert narrow.decode(clip, Request(frames=4, crops=2)).rows == 8
        for request in (Request(frames=9), Request(crops=2), Request(frames=4, crops=3)):
            with pytest.raises(InputError, match=r"crops × frames is \d+; this server takes at most 8: ask for fewer"):
                narrow.decode(clip, request)
    finally:
        narrow.close()
