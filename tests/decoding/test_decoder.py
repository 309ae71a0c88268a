"""Decoding in another process: the same pixels, and a file that ends its process costs itself alone."""

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from clips import make_clip
from pictures import encoded, huge_png, picture

from diffvqa_rt.decoding import DecodeLimits, IsolatedDecoder, Pending
from diffvqa_rt.decoding.framing import Message, receive_message, send_message
from diffvqa_rt.errors import DecoderFaultError, DecoderStartError, InputError, VideoDecodeError
from diffvqa_rt.metric import Request
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.metrics.diffvqa.views import cut_views
from diffvqa_rt.video import sample_frames
from diffvqa_rt.video.container import OpenFile


@pytest.fixture(scope="module")
def decoder():
    decoder = IsolatedDecoder()
    yield decoder
    decoder.close()


@pytest.fixture
def fresh():
    decoder = IsolatedDecoder()
    yield decoder
    decoder.close()


def pids(decoder: IsolatedDecoder) -> list[int]:
    return [process.pid for process in decoder._processes._all]


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until_gone(pid: int, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while is_running(pid):
        assert time.monotonic() < end, f"process {pid} is still there"
        time.sleep(0.02)


def assert_same(decoder: IsolatedDecoder, source) -> None:
    isolated, here = decoder.frames(source, 5), sample_frames(source, 5)
    assert len(isolated.frames) == len(here.frames)
    for theirs, ours in zip(isolated.frames, here.frames, strict=True):
        np.testing.assert_array_equal(theirs, ours)
    assert isolated.timestamps_seconds == here.timestamps_seconds
    assert (isolated.info, isolated.warnings) == (here.info, here.warnings)


CONFIG = replace(TINY, frames=5, view_size=64)

SOURCES = {
    "video": make_clip(),
    "fewer frames than samples": make_clip(frames=2),
    "sizes that change": make_clip(container="mpegts", codec="mpeg2video")
    + make_clip(container="mpegts", codec="mpeg2video", size=(176, 144)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_frames_are_those_of_this_process(decoder, tmp_path, name):
    (tmp_path / "clip").write_bytes(SOURCES[name])
    assert_same(decoder, SOURCES[name])
    assert_same(decoder, tmp_path / "clip")


@pytest.fixture
def sequence(tmp_path) -> Path:
    for index in range(12):
        picture(index).save(tmp_path / f"{index}.png")
    return tmp_path


def test_a_folder_is_read_where_it_is(decoder, sequence, monkeypatch):
    assert_same(decoder, sequence)
    monkeypatch.chdir(sequence)
    assert_same(decoder, ".")
    decoded = decoder.prepare(os.curdir, METRIC, CONFIG, Request())
    np.testing.assert_array_equal(decoded.arrays["frames"], cut_views(sample_frames(sequence, 5).frames, 64, 0, 1))
    (sequence / "11.png").unlink()
    (sequence / "11.png").symlink_to("gone")
    with pytest.raises(VideoDecodeError, match=r"^\./11.png cannot be read"):
        decoder.frames(".", 12)


def test_limits_hold_for_a_folder_before_anything_is_decoded(sequence):
    (sequence / "6.png").write_bytes(huge_png(8000))
    for limits, sentence in [
        (DecodeLimits(max_frames=11), "has 12 frames, and the decoder takes at most 11"),
        (DecodeLimits(max_frame_pixels=1200), "has 64,000,000 pixels a picture, and the decoder takes at most 1,200"),
    ]:
        with (
            contextlib.closing(IsolatedDecoder(limits)) as decoder,
            pytest.raises(VideoDecodeError, match=f"^{sequence} {sentence}"),
        ):
            decoder.frames(sequence, 1)


def test_views_are_those_of_this_process(decoder):
    clip = make_clip()
    decoded, sampled = decoder.prepare(clip, METRIC, CONFIG, Request(seed=3, crops=2)), sample_frames(clip, 5)
    np.testing.assert_array_equal(decoded.arrays["frames"], cut_views(sampled.frames, 64, 3, 2))
    assert (decoded.info, decoded.timestamps_seconds) == (sampled.info, sampled.timestamps_seconds)
    assert decoded.decode_seconds > 0 < decoded.views_seconds


@pytest.mark.parametrize("name", [b"caf\xff.mp4", b"two\nlines.mp4", b"-", b"100%d.mp4"])
def test_any_name_means_the_same_file(decoder, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(os.fsdecode(name)).write_bytes(make_clip())
    for source in (os.fsdecode(name), *(entry for entry in os.scandir(b".") if entry.name == name)):
        assert decoder.frames(source, 2).info.codec == "h264"
    Path(os.fsdecode(name)).write_bytes(b"Dear diary, today nothing")
    with pytest.raises(VideoDecodeError) as told:
        decoder.frames(os.fsdecode(name), 2)
    assert str(told.value).startswith(os.fsdecode(name) + " is not a video")


def test_pipes_and_open_files_are_read_once(decoder, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(make_clip(),))
    writer.start()
    assert decoder.frames(tmp_path / "pipe", 2).info.codec == "h264"
    writer.join()
    (tmp_path / "clip").write_bytes(make_clip())
    with open(tmp_path / "clip", "rb") as file:
        file.read()
        assert decoder.frames(OpenFile("-", file), 2).info.codec == "h264"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("a\0b.mp4", r"a\\x00b.mp4 is a name that no file can have"),
        ("http://example.org/clip.mp4", "only local files are; download it"),
        (Path("https://example.org/clip.mp4"), "only local files are; download it"),
        ("file:///clip.mp4", "leave out 'file://'"),
        (b"clip.mp4", "looks like a path; bytes are an encoded video's content"),
        (b"folder/clip", "looks like a path"),
        (b"Dear diary", "<bytes> is not a video"),
        (b"", "<bytes> is empty"),
    ],
)
def test_what_is_no_local_file_says_what_to_give(decoder, source, sentence):
    for decode in (decoder.frames, sample_frames):
        with pytest.raises(VideoDecodeError, match=sentence):
            decode(source, 1)


def test_a_file_that_crashes_its_process_is_named_and_the_next_is_decoded(fresh, tmp_path, monkeypatch):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(make_clip())
    start = fresh._processes.start

    def start_and_crash():
        process = start()
        os.kill(process.pid, signal.SIGSTOP)  # so that the request is in it
        threading.Timer(0.1, os.kill, (process.pid, signal.SIGSEGV)).start()
        threading.Timer(0.1, os.kill, (process.pid, signal.SIGCONT)).start()
        return process

    fresh.frames(clip, 1)  # it is up
    (pid,) = pids(fresh)
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.1, os.kill, (pid, signal.SIGKILL)).start()
    fresh.frames(clip, 1)  # once is no proof against the file
    assert pids(fresh) != [pid]
    fresh.close()
    monkeypatch.setattr(fresh._processes, "start", start_and_crash)
    with pytest.raises((VideoDecodeError, DecoderStartError), match="SIGSEGV"):
        fresh.frames(clip, 1)
    monkeypatch.undo()
    assert_same(fresh, clip)


def test_time_and_memory_are_limited():
    with contextlib.closing(IsolatedDecoder(DecodeLimits(max_decode_seconds=2, max_frames=50))) as decoder:
        clip = make_clip()
        decoder.frames(clip, 1)
        (pid,) = pids(decoder)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(VideoDecodeError, match="<bytes> takes longer than 2 s to decode"):
            decoder.frames(clip, 1)
        wait_until_gone(pid)
        with pytest.raises(VideoDecodeError, match="60 frames, and the decoder takes at most 50"):
            decoder.frames(make_clip(frames=60), 1)
    with contextlib.closing(IsolatedDecoder(DecodeLimits(max_decode_memory_bytes=1 << 30))) as decoder:
        with pytest.raises(VideoDecodeError, match="<bytes> takes more than 1,024 MiB to decode"):
            decoder.prepare(clip, METRIC, replace(TINY, view_size=512), Request(crops=200))  # 2.5 GB
        assert_same(decoder, clip)


def test_several_threads_have_a_process_each_and_the_right_answers(fresh):
    clips = [make_clip(size=(64 + 16 * number, 64)) for number in range(3)]
    widths: dict[int, list[int]] = {}

    def decode(number: int) -> None:
        widths[number] = [fresh.frames(clips[number], 2).info.width for _ in range(3)]

    threads = [threading.Thread(target=decode, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert widths == {number: [64 + 16 * number] * 3 for number in range(3)}
    assert 1 <= len(pids(fresh)) <= 3


def test_a_forked_child_has_a_process_of_its_own(fresh):
    clip = make_clip()
    fresh.frames(clip, 1)
    (ours,) = pids(fresh)
    child = os.fork()
    if child == 0:  # no assertion may leave the child
        with contextlib.suppress(BaseException):
            signal.alarm(60)
            is_own = fresh.frames(clip, 2).info.codec == "h264" and pids(fresh) != [ours]
            fresh.close()
            os._exit(0 if is_own else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert is_running(ours)
    fresh.frames(clip, 1)
    assert pids(fresh) == [ours]


def test_an_exception_that_nobody_foresaw_names_the_file(monkeypatch):
    # PyAV's errors are ValueErrors too, and none of theirs is a sentence.
    monkeypatch.setattr("diffvqa_rt.decoding.decoder.whole", lambda name, value, least: value)
    with pytest.raises(VideoDecodeError, match=r"^<bytes> cannot be decoded \(ValueError: count is 0; .*\); check"):
        IsolatedDecoder().frames(make_clip(), 0)


def test_an_error_keeps_its_kind_on_the_way_out_of_its_process(decoder):
    request = Request()
    object.__setattr__(request, "seed", -1)
    with pytest.raises(InputError, match="^seed is -1; expected "):
        decoder.prepare(make_clip(), METRIC, CONFIG, request)
    with pytest.raises(DecoderFaultError, match="^<bytes> met a fault of the decoder's process .KeyError: 'dream'.$"):
        decoder._ask(make_clip(), {"task": "dream"}, SimpleNamespace(allocate=bytearray)).result()
    assert_same(decoder, make_clip())


def test_an_answer_of_no_known_kind_blames_the_video():
    """A decoder that a video has taken over may say anything."""
    for kind in ("", "VideoDecodeError", None, ["video"], 3):
        with pytest.raises(VideoDecodeError, match="^taken over$"):
            answered(error="taken over", kind=kind).result()


def answered(**values) -> Pending:
    """A video whose process has answered this."""

    class Process:
        def send(self, *arguments):
            pass

        def receive(self, allocate, seconds):
            return Message(values, memoryview(b""), None)

    processes = SimpleNamespace(take=Process, give_back=lambda process: None, end=lambda process: None)
    reception = SimpleNamespace(allocate=None)
    with open(os.devnull, "rb") as file:
        return Pending(processes, {"name": "x", "max_decode_seconds": 1}, file, contextlib.ExitStack(), reception)


def test_what_a_library_prints_goes_nowhere(capfd):
    decoder = IsolatedDecoder()
    whole = encoded(picture(3, 160, 120), "TIFF", compression="jpeg")
    with pytest.raises(VideoDecodeError, match="does not decode"):
        decoder.frames(whole[: len(whole) // 10], 1)
    assert capfd.readouterr() == ("", "")


def test_a_decoder_leaves_no_process_and_no_open_file(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    decoder = IsolatedDecoder()
    decoder.frames(make_clip(), 1)
    with pytest.raises(VideoDecodeError):
        decoder.frames(b"Dear diary", 1)
    pending = decoder.begin(make_clip(), METRIC, CONFIG, Request())
    decoder.begin(make_clip(), METRIC, CONFIG, Request()).cancel()
    (pid,) = (pid for pid in pids(decoder) if pid)
    pending.cancel()
    wait_until_gone(pid)
    decoder.frames(make_clip(), 1)
    (pid,) = pids(decoder)
    del decoder, pending
    gc.collect()
    wait_until_gone(pid)
    assert len(os.listdir("/proc/self/fd")) <= before  # what earlier tests have left may be gone by now


def test_a_process_ends_with_its_parent_even_in_the_middle_of_a_video(tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(make_clip())
    program = (
        "import os, sys, time; from diffvqa_rt.decoding import IsolatedDecoder; decoder = IsolatedDecoder()\n"
        "from diffvqa_rt.metric import Request; from diffvqa_rt.metrics.diffvqa.metric import METRIC\n"
        "decoder.frames(sys.argv[1], 1)\n"
        "decoder.begin(sys.argv[1], METRIC, METRIC.presets['tiny'], Request(crops=1000))\n"  # for many seconds
        "print(*(process.pid for process in decoder._processes._all), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, clip], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.2)
        assert is_running(pid)
        parent.kill()
    wait_until_gone(pid, seconds=3)


def test_a_process_that_cannot_start_says_so(tmp_path):
    with pytest.raises(DecoderStartError, match="the decoder's process cannot be started"):
        IsolatedDecoder(python=str(tmp_path / "python")).frames(make_clip(), 1)
    with pytest.raises(DecoderStartError, match="the decoder's process does not start .exit status 1"):
        IsolatedDecoder(python="/bin/false").frames(make_clip(), 1)


def test_messages_that_are_none_are_refused():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_message(theirs, {"a": 1}, [b"12", memoryview(b"345")])
        message = receive_message(ours)
        assert (message.values, bytes(message.payload), message.file) == ({"a": 1}, b"12345", None)
        with pytest.raises(TimeoutError):
            receive_message(ours, deadline=time.monotonic() + 0.05)
        theirs.sendall(b"\xff" * 12)
        with pytest.raises(ValueError, match="bytes of JSON"):
            receive_message(ours)
        theirs.sendall(b"short")
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(EOFError):
            receive_message(ours)
        assert receive_message(ours) is None
