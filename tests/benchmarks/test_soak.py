"""The soak's judgement: each bar that is missed fails it and says so. The soak itself is `make soak`."""

import os
from dataclasses import replace

import pytest
import soak
from soak_requests import make_requests, outcome_of

PERFECT = soak.Soak(
    outcomes={"right": 400},
    mistake="",
    scored=220,
    scored_by_server=220,
    changed=[],
    complaints=[],
    exit_status=0,
    memory_mib=(1000.0, 1049.0),
    served_seconds=300.0,
    in_process_seconds=271.0,
)
EXPECTED = {"one": {"score": 1.0}, "two": {"score": 2.0}, "bad": "VideoDecodeError: <bytes> is not a video"}


def test_a_soak_that_meets_every_bar_misses_none():
    assert list(soak.missed_bars(PERFECT)) == []


@pytest.mark.parametrize(
    ("observed", "sentence"),
    [
        (
            {"outcomes": {"right": 399, "swapped": 1}, "mistake": "one got 2"},
            "swapped: 1; the first mistake: one got 2",
        ),
        ({"outcomes": {"right": 398, "wrong": 2}}, "that were wrong: 2"),
        ({"outcomes": {"lost": 3, "right": 397}}, "that were lost: 3"),
        ({"scored_by_server": 221}, "scored 221 videos, and 220 scores arrived"),
        ({"changed": ["denoise", "denoise"]}, "started again: denoise, denoise"),
        ({"complaints": ["Traceback (most recent call last):"]}, "log complains: Traceback"),
        ({"exit_status": -9}, "status -9"),
        ({"memory_mib": (1000.0, 1060.0)}, "grew by 6.0%, from 1000 to 1060 MiB; the bar is 5%"),
        ({"in_process_seconds": 267.0}, "throughput is 0.890 of in-process scoring; the bar is 0.9"),
        ({"in_process_seconds": float("nan")}, "throughput is nan"),
    ],
)
def test_each_bar_that_is_missed_is_named_alone(observed, sentence):
    (said,) = soak.missed_bars(replace(PERFECT, **observed))
    assert sentence in said


def test_two_missed_bars_are_two_sentences():
    assert len(list(soak.missed_bars(replace(PERFECT, exit_status=1, memory_mib=(1.0, 2.0))))) == 2


@pytest.mark.parametrize(
    ("name", "answer", "outcome"),
    [
        ("one", {"score": 1.0}, "right"),
        ("bad", "VideoDecodeError: <bytes> is not a video", "right"),
        ("one", {"score": 2.0}, "swapped"),
        ("bad", {"score": 1.0}, "swapped"),
        ("one", "VideoDecodeError: <bytes> is not a video", "swapped"),
        ("one", {"score": 1.0000000000000002}, "wrong"),
        ("bad", "VideoDecodeError: <bytes> ended the decoder's process (SIGKILL); check the file", "wrong"),
        ("two", "RequestError: <bytes>: localhost:1 gave no score within 120 s", "lost"),
        ("bad", "RequestError: <bytes>: localhost:1 failed (INTERNAL: out of luck)", "lost"),
    ],
)
def test_an_answer_is_held_against_that_of_its_own_request(name, answer, outcome):
    assert outcome_of(name, answer, EXPECTED) == outcome


def test_only_decoders_may_be_started_again():
    before = {1: "serve", 2: "tritonserver", 3: "denoise", 4: "preprocess", 5: "decoder"}
    assert soak.changed(before, before) == []
    assert soak.changed(before, {**before, 6: "decoder"}) == []
    assert soak.changed(before, {1: "serve", 2: "tritonserver", 4: "preprocess", 5: "decoder", 7: "denoise"}) == [
        "denoise",
        "denoise",
    ]
    assert soak.changed(before, {1: "serve"}) == ["denoise", "preprocess", "tritonserver"]


def test_the_log_complains_of_restarts_tracebacks_and_errors_after_the_start_alone():
    log = "E1121 18:11 server.cc] no CUDA driver\ndiffvqa: metrics at http://localhost/metrics\nW1121 18:11 no pool\n"
    assert soak.complaints(log) == []
    for line in (
        "diffvqa: the process of head has ended; starting again",
        "Traceback (most recent call last):",
        "a request failed",
        "E1121 18:12:00.0 1 stub.cc:1] out of luck",
    ):
        assert soak.complaints(f"{log}{line}\nsome more\n") == [line]


def test_memory_is_averaged_over_fifths_of_the_time():
    samples = [(float(second), {"denoise": float(second)}) for second in range(310)]  # what is later does not count
    samples[250] = (250.0, {"denoise": 250.0, "shared memory": 60.0})
    means = soak.fifths(samples, 300)
    assert means == {"denoise": [29.5, 89.5, 149.5, 209.5, 269.5], "shared memory": [0, 0, 0, 0, 1]}


def test_memory_is_measured_by_process_and_files():
    measured = soak.memory_mib({os.getpid(): "serve"})
    assert measured.keys() == {"serve", "files"} and min(measured.values()) > 1


def test_the_clients_requests_are_good_and_bad_and_of_many_kinds():
    requests = make_requests()
    assert len(requests) == 17 and len({(r.video, r.crops) for r in requests.values()}) == 17
    assert sum(bool(request.refusal) for request in requests.values()) == 4
    several = make_requests(["diffvqa", "diffv2iqa", "aigc_vqa"])
    assert len(several) == 17 + 19 + 24 and several.keys() > requests.keys()
    assert {name for name, request in several.items() if request.frames} == {
        *("diffv2iqa: three frames", "diffv2iqa: frames"),
    }
    assert {name.partition(":")[0] for name, request in several.items() if request.prompt is not None} == {"aigc_vqa"}


def test_misuse_is_status_2(capsys):
    with pytest.raises(SystemExit) as ended:
        soak.main(["--engines", "build/tiny", "--seconds", "1"])
    assert ended.value.code == 2 and "at least 10 seconds" in capsys.readouterr().err
