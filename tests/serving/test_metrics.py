"""What the real Triton server counts: scores, stages and refusals, whatever strangers send."""

import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from clips import make_clip
from metric_series import OURS, TRITONS
from served import Served, assert_same, grpc
from training_network import SMALLEST

from diffvqa_rt.errors import InputError, VideoDecodeError


def scraped(served: Served) -> dict[str, float]:
    """The metrics endpoint's series, by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{served.metrics_port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def scraped_once(served: Served, is_counted: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """The series once what is waited for is counted, which is after the answer; or as they are after ten seconds."""
    deadline = time.monotonic() + 10
    while not is_counted(series := scraped(served)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return series


def failures(series: dict[str, float], reason: str) -> float:
    return sum(value for name, value in series.items() if "failures" in name and f'reason="{reason}"' in name)


def test_scores_and_stages_are_counted_in_histograms(served, client, expected):
    video, result = expected["still.png"]
    before = scraped(served)
    seconds = client.score(video).stage_seconds
    after = scraped_once(served, lambda series: series["diffvqa_score_count"] > before["diffvqa_score_count"])
    grown = {name: after[name] - before[name] for name in after if name.startswith("diffvqa_")}
    assert grown["diffvqa_score_count"] == 1
    assert grown["diffvqa_score_sum"] == pytest.approx(result.score)
    for bound in range(10, 100, 10):
        assert grown[f'diffvqa_score_bucket{{le="{bound}"}}'] == (result.score <= bound)
    assert grown['diffvqa_score_bucket{le="+Inf"}'] == 1
    for stage, value in {**seconds, "total": sum(seconds.values())}.items():
        assert grown[f'diffvqa_stage_seconds_count{{stage="{stage}"}}'] == 1
        assert grown[f'diffvqa_stage_seconds_sum{{stage="{stage}"}}'] == pytest.approx(value)
        for bound in ("0.005", "0.25", "60"):
            assert grown[f'diffvqa_stage_seconds_bucket{{stage="{stage}",le="{bound}"}}'] == (value <= float(bound))


def test_what_the_dashboard_reads_is_there_to_read(served, client, expected):
    client.score(expected["still.png"][0])
    names = {series.split("{")[0] for series in scraped(served)}
    assert set(OURS) <= names
    assert {name for name in TRITONS if not name.startswith("nv_gpu")} <= names


def test_a_refusal_is_counted_as_one(served, client):
    before = failures(scraped(served), "refused")
    with pytest.raises(VideoDecodeError):
        client.score(b"no video")
    with pytest.raises(InputError, match="crops is 4"):
        client.score(make_clip(), crops=4)
    after = scraped_once(served, lambda series: failures(series, "refused") >= before + 2)
    assert failures(after, "refused") == before + 2


def test_requests_that_nobody_waits_for_are_not_computed(served, client, expected):
    def executed(series: dict[str, float]) -> float:
        return series['nv_inference_exec_count{model="head",version="1"}']

    def leave_early(_: int) -> None:
        with pytest.raises(grpc.InferenceServerException, match="Deadline Exceeded"):
            grpc.InferenceServerClient(served.url).infer("diffvqa", [tensor], client_timeout=0.5)

    video, result = expected["still.png"]
    tensor = grpc.InferInput("video", [len(video)], "UINT8").set_data_from_numpy(np.frombuffer(video, np.uint8))
    before = scraped(served)
    cancelled = failures(before, "cancelled")
    with served.held(), ThreadPoolExecutor(6) as pool:
        list(pool.map(leave_early, range(6)))
    assert_same(client.score(video), result)
    after = scraped_once(served, lambda series: series["diffvqa_score_count"] > before["diffvqa_score_count"])
    assert after["diffvqa_score_count"] == before["diffvqa_score_count"] + 1
    assert executed(after) <= executed(before) + 2
    assert cancelled < failures(after, "cancelled") <= cancelled + 6


def test_denoise_stops_between_two_steps_when_the_time_is_over(served):
    inputs = []
    for name, values, kind in [
        ("z0", np.zeros((1, 2 * SMALLEST.frames, *SMALLEST.latent_shape), np.float32), "FP32"),
        ("preprocess_marks", np.full(3, time.monotonic() - 10), "FP64"),
    ]:
        inputs.append(grpc.InferInput(name, values.shape, kind).set_data_from_numpy(values))
    connection = grpc.InferenceServerClient(served.url)
    assert connection.infer("denoise", inputs, timeout=60_000_000).as_numpy("z0_hat") is not None
    with pytest.raises(grpc.InferenceServerException, match="nobody waits for the answer") as refusal:
        connection.infer("denoise", inputs, timeout=5_000_000)
    assert refusal.value.status() == "StatusCode.CANCELLED"


def test_a_score_is_counted_whatever_else_is_asked_for(served, expected):
    video, result = expected["still.png"]
    before = scraped(served)["diffvqa_score_count"]
    tensor = grpc.InferInput("video", [len(video)], "UINT8")
    tensor.set_data_from_numpy(np.frombuffer(video, np.uint8))
    asked = [grpc.InferRequestedOutput("score")]
    answer = grpc.InferenceServerClient(served.url).infer("diffvqa", [tensor], outputs=asked)
    assert answer.as_numpy("score").tolist() == [result.score]
    after = scraped_once(served, lambda series: series["diffvqa_score_count"] > before)
    assert after["diffvqa_score_count"] == before + 1


@pytest.mark.parametrize("marks", [[np.nan, 0.0], [0.0, 1e300]])
def test_nobody_spoils_the_metrics(served, marks):
    connection = grpc.InferenceServerClient(served.url)
    inputs = []
    for spec in connection.get_model_metadata("finish").inputs:
        array = np.ones([abs(size) for size in spec.shape], np.float32 if spec.datatype == "FP32" else np.float64)
        array = {"preprocess_marks": np.zeros(3), "denoise_marks": np.array(marks)}.get(spec.name, array)
        inputs.append(grpc.InferInput(spec.name, array.shape, spec.datatype).set_data_from_numpy(array))
    with pytest.raises(grpc.InferenceServerException, match="say that the stages took") as refusal:
        connection.infer("finish", inputs)
    assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert all(np.isfinite(value) for name, value in scraped(served).items() if "diffvqa" in name)
