"""What is around the network in scoring: sources, numbers, processes and threads. The engines here are instant."""

import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip
from instant_engines import InstantEngine, instant_engines
from PIL import Image

from diffvqa_rt import Scorer, ScoringFailure, VideoScore
from diffvqa_rt.engines import open_engines
from diffvqa_rt.engines.manifest import engines_sha256
from diffvqa_rt.errors import DeviceUnavailableError, InputError, ScoreWarning
from diffvqa_rt.results import csv_columns, csv_row, video_score
from diffvqa_rt.scoring import model_facts
from diffvqa_rt.video import sample_frames

LOW, HIGH = 0.0, 100.0


@pytest.fixture
def scorer(manifest):
    with Scorer(manifest, instant_engines(), "onnx") as scorer:
        yield scorer


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    path.write_bytes(make_clip(size=(64, 48), frames=9))
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "other.mp4"
    path.write_bytes(make_clip(size=(96, 48), frames=20))
    return path


@pytest.mark.parametrize(
    "options", [{"seed": -1}, {"seed": 1.5}, {"crops": 0}, {"crops": True}, {"keep_interlaced": "no"}], ids=repr
)
def test_an_option_of_a_request_is_the_requests_fault(scorer, options):
    still = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(InputError, match=f"{next(iter(options))} is .*; expected "):
        scorer.score(still, **options)
    with pytest.raises(InputError, match=f"{next(iter(options))} is .*; expected "):
        next(scorer.score_many([still], **options))


def test_an_array_of_another_shape_is_the_requests_fault(scorer):
    with pytest.raises(InputError, match=r"source is an array of shape \(16, 16, 4\); expected "):
        scorer.score(np.zeros((16, 16, 4), np.uint8))
    with pytest.raises(TypeError, match="source is an array of float64; expected uint8"):
        scorer.score(np.zeros((16, 16, 3)))


@pytest.mark.parametrize("threads", ["2", 1.0, 0, True])
def test_a_bad_number_of_threads_is_refused(small_engines, threads):
    with pytest.raises(ValueError, match="threads is .*expected .*at least 1"):
        Scorer.open(small_engines, threads=threads)


def test_numbers_of_any_whole_type_are_taken_by_value(scorer):
    still = np.zeros((16, 16, 3), np.uint8)
    expected = scorer.score(still, seed=3, crops=2)
    for kind in (np.int64, np.uint8, np.array):
        result = scorer.score(still, seed=kind(3), crops=kind(2))
        assert (result.score, type(result.seed)) == (expected.score, int)
        (result,) = scorer.score_many([still], seed=kind(3), crops=kind(2), batch=kind(1))
        assert result.score == expected.score


@pytest.mark.parametrize(
    "source", [None, 3, [1], {}, bytearray(b"x"), memoryview(b"x"), sys.stdin, object(), b"", "", "a\0b"], ids=repr
)
def test_a_source_of_another_kind_does_not_cost_the_others(scorer, source):
    still = np.zeros((16, 16, 3), np.uint8)
    first, wrong, last = scorer.score_many([still, source, still])
    assert isinstance(wrong, ScoringFailure) and wrong.error and isinstance(wrong.source, str)
    assert first.score == last.score
    json.dumps(wrong.as_dict())


def test_a_folder_of_pictures_is_a_video(scorer, clip, tmp_path):
    for index, frame in enumerate(sample_frames(clip, 9).frames):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    expected = scorer.score(np.stack(sample_frames(clip, 9).frames))
    assert scorer.score(tmp_path, isolate=False).score == expected.score
    (tmp_path / "empty").mkdir()
    first, none, last = scorer.score_many([tmp_path, tmp_path / "empty", str(tmp_path)])
    assert first.score == last.score == expected.score
    assert (first.source, first.timestamps_seconds) == (str(tmp_path), expected.timestamps_seconds)
    assert "is a folder without pictures of its own" in none.error


def test_a_path_of_bytes_is_named_in_text(scorer, tmp_path):
    (tmp_path / os.fsdecode(b"caf\xff.png")).write_bytes(make_clip(frames=1))
    (entry,) = os.scandir(os.fsencode(tmp_path))
    result = scorer.score(entry)
    assert result.source == os.fsdecode(entry.path)
    json.dumps(result.as_dict())


def decoders(scorer: Scorer) -> list[int]:
    return [process.pid for process in scorer._decoder._processes._all]


def test_a_file_that_kills_its_decoder_costs_its_own_row(scorer, tmp_path, monkeypatch):
    """As a codec's library may; the worker stands in for it."""
    names = ["before.mp4", "killer.mp4", "after.mp4"]
    for name in names:
        (tmp_path / name).write_bytes(make_clip(frames=1, size=(32, 32)))
    begin = scorer._decoder.begin

    def begin_and_kill(source, *arguments, **options):
        if Path(source).name == "killer.mp4":
            begun = begin(source, *arguments, **options)
            monkeypatch.setattr(
                begun._processes, "start", lambda: killed(type(begun._processes).start(begun._processes))
            )
            killed(begun._process)
            return begun
        monkeypatch.undo()
        monkeypatch.setattr(scorer._decoder, "begin", begin_and_kill)
        return begin(source, *arguments, **options)

    def killed(process):
        process._wait_until_ready() if not process._is_ready else None
        os.kill(process.pid, signal.SIGSEGV)
        return process

    monkeypatch.setattr(scorer._decoder, "begin", begin_and_kill)
    before, killer, after = scorer.score_many([tmp_path / name for name in names])
    assert isinstance(before, VideoScore) and isinstance(after, VideoScore)
    assert killer.error == f"{tmp_path / 'killer.mp4'} ended the decoder's process (SIGSEGV); check the file"


def test_in_this_process_or_another_the_score_is_the_same(scorer, clip):
    here = scorer.score(clip, seed=2, crops=2, isolate=False)
    assert decoders(scorer) == []
    with scorer:
        there = scorer.score(clip, seed=2, crops=2)
        assert len(decoders(scorer)) == 1
    assert decoders(scorer) == []
    assert dataclasses.replace(there, stage_seconds={}) == dataclasses.replace(here, stage_seconds={})
    assert tuple(there.stage_seconds) == tuple(here.stage_seconds)


def test_an_array_starts_no_process(scorer):
    scorer.score(np.zeros((16, 16, 3), np.uint8))
    assert decoders(scorer) == []


def test_sources_made_one_by_one_are_asked_for_when_they_are_due(scorer, clip):
    asked = []

    def sources():
        for number in range(2):
            asked.append(number)
            yield clip

    results = scorer.score_many(sources())
    next(results)
    assert asked == [0]
    next(results)
    assert asked == [0, 1]
    results.close()


def test_threads_share_a_scorer(scorer, clip, other):
    expected = [scorer.score(path).score for path in (clip, other)]
    found: dict[int, float] = {}

    def score(number: int) -> None:
        found[number] = scorer.score((clip, other)[number % 2]).score

    threads = [threading.Thread(target=score, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(4)] == expected * 2


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_a_forked_child_runs_engines_that_its_parent_has_run(small_engines, backend):
    """Of the threads that the parent has started, a child has none."""
    manifest, engines = open_engines(small_engines, backend, 2, names=("vae_encoder",))
    engine, size = engines["vae_encoder"], manifest.config.view_size
    frames = np.random.default_rng(0).uniform(-1, 1, (1, 4, 3, size, size)).astype(np.float32)
    expected = engine({"frames": frames})["z0"]
    child = os.fork()
    if child == 0:  # no exception may leave the child
        with contextlib.suppress(BaseException):
            signal.alarm(60)
            os._exit(0 if np.array_equal(engine({"frames": frames})["z0"], expected) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(engine({"frames": frames})["z0"], expected)


def test_a_forked_child_of_a_scorer_on_a_gpu_is_told(manifest):
    on_gpu = dataclasses.replace(manifest.backends["onnx"], device="cuda")
    manifest = dataclasses.replace(manifest, backends={"onnx": on_gpu})
    scorer = Scorer(manifest, {"head": InstantEngine("head")}, "onnx")
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            try:
                scorer.score(np.zeros((16, 16, 3), np.uint8))
            except DeviceUnavailableError as error:
                os._exit(0 if "a forked child cannot use" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def outputs_of(score: float) -> dict[str, np.ndarray]:
    values = np.full((1, 8), score, np.float32)
    return {"score": np.float32([score]), "frame_scores": values, "frame_weights": np.full_like(values, 0.125)}


def test_a_score_outside_of_the_range_is_its_end_and_says_so(scorer, clip):
    info = scorer.score(clip).video
    about = {
        **{"source": "x", "seed": 0, "timestamps_seconds": (0.0,) * 8, "info": info, "stage_seconds": {}},
        "crop_regions": (),
    }
    facts = model_facts(scorer.manifest, "onnx")
    told = ScoreWarning("frames-passed-over", "two frames")
    high = video_score(outputs_of(104.25), facts=facts, warnings=(told,), **about)
    assert (high.score, high.raw_score, high.crop_scores) == (HIGH, 104.25, (104.25,))
    assert [warning.code for warning in high.warnings] == ["frames-passed-over", "score-out-of-range"]
    low = video_score(outputs_of(-3.5), facts=facts, **about)
    assert (low.score, low.raw_score, len(low.warnings)) == (LOW, -3.5, 1)
    for score in (LOW, 50.125, HIGH):
        within = video_score(outputs_of(score), facts=facts, **about)
        assert (within.score, within.raw_score, within.warnings) == (score, score, ())
    row = csv_row(high, csv_columns(scorer.manifest.metric.stages))
    assert row["raw_score"] == 104.25 and "score-out-of-range: " in row["warnings"]


def test_a_result_says_what_its_frames_are_too_far_apart_to_show(scorer):
    ten_seconds = scorer.score(make_clip(frames=50, times_ms=range(0, 10_000, 200)))
    assert ten_seconds.unseen == (
        "8 frames are seen, up to 1.40 s apart: shorter freezes, lost frames and judder do not show in the score"
    )
    assert scorer.score(make_clip(frames=24)).unseen is None


def test_a_result_names_the_engines_that_made_it(scorer, clip):
    result = scorer.score(clip)
    record = scorer.manifest.backends["onnx"]
    assert (result.engines_sha256, result.precision) == (engines_sha256(record.files), "fp32")
    assert result.engines_sha256 != engines_sha256(dict.fromkeys(record.files, "0" * 64))
    # Readers count: what is new comes last.
    assert csv_columns(scorer.manifest.metric.stages, ["vcg"])[-11:] == (
        *("engines_sha256", "precision", "raw_score", "metric", "is_temporal", "crop_regions"),
        *("prompt", "prompt_tokens", "is_prompt_truncated", "unseen", "part_vcg"),
    )
