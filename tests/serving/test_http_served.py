"""The HTTP API of the real `diffvqa serve`: the scores of gRPC and of this process, and a life of its own."""

import json
import os
import signal
import time

import pytest

pytest.importorskip("served", reason="needs Triton server and its client", exc_type=ImportError)

from served import CLIPS, HAS_HTTP, MAX_REQUEST_MIB, Served

requests = pytest.importorskip("requests", reason="requests is not installed")
pytestmark = pytest.mark.skipif(not HAS_HTTP, reason="the extra http is not installed")


def asked(served: Served, videos: list[bytes], **data: str) -> requests.Response:
    files = [("video", (f"{number}.mp4", video)) for number, video in enumerate(videos)]
    return requests.post(f"http://127.0.0.1:{served.api_port}/v1/score", files=files, data=data, timeout=240)


def without_times(result: dict) -> dict:
    return {name: value for name, value in result.items() if name not in ("stage_seconds", "source")}


def test_scores_are_those_of_grpc_and_of_this_process_to_the_bit(served, client, expected):
    names = [*CLIPS, "frog.mp4"]
    videos = [expected[name][0] for name in names]
    answer = asked(served, [*videos, b"no video", bytes((MAX_REQUEST_MIB << 20) + 1)])
    *results, spoilt, long = answer.json()["results"]
    by_grpc = client.score_many(videos)
    for name, result, there in zip(names, results, by_grpc, strict=True):
        here = without_times(as_json(expected[name][1]))
        assert without_times(result) == here and without_times(as_json(there)) == here, name
    assert spoilt["error"].startswith(f"{len(videos)}.mp4 is not a video")
    assert "2,097,153 bytes long, and this server takes at most 2,097,152" in long["error"]


def as_json(score) -> dict:
    """As a reader of JSON sees a result."""
    return json.loads(json.dumps(score.as_dict()))


def test_the_model_is_that_of_the_results(served, expected):
    (model,) = requests.get(f"http://127.0.0.1:{served.api_port}/v1/model", timeout=60).json()["models"]
    result = as_json(expected["still.png"][1])
    assert {name: result[name] for name in model["facts"] if name in result and name != "parts"} == {
        name: value for name, value in model["facts"].items() if name not in ("parts", "takes_prompt")
    }
    assert model["limits"]["max_crops"] == 3
    assert any(f"scoring at http://127.0.0.1:{served.api_port}/v1/score" in line for line in served.lines)


def test_an_api_that_was_killed_is_started_again_beside_the_ensembles(served, expected):
    (api,), ensembles = served.pids("http_api"), served.pids("tritonserver")
    os.kill(api, signal.SIGKILL)
    time.sleep(0.1)
    video, result = expected["still.png"]
    (scored,) = asked(served, [video]).json()["results"]
    assert scored["score"] == result.score
    assert served.pids("http_api") != [api] and served.pids("tritonserver") == ensembles
