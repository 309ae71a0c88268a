"""A real server with two metrics: the image metric's ensemble stands beside the video metric's; none is mixed up."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("served", reason="needs Triton server and its client", exc_type=ImportError)

from served import CLIPS, Served, assert_joined, assert_same, in_protobuf

from diffvqa_rt import Scorer
from diffvqa_rt.errors import InputError
from diffvqa_rt.metrics.diffv2iqa.metric import METRIC
from diffvqa_rt.metrics.diffv2iqa.presets import TINY
from diffvqa_rt.metrics.diffvqa.metric import METRIC as DIFFVQA
from diffvqa_rt.serving import Client, RequestError
from diffvqa_rt.serving.model_config import config_of_engine, config_of_ensemble, config_of_program
from diffvqa_rt.serving.models import served_models

MAX_CROPS = 3


@pytest.fixture(scope="module")
def both(small_engines, diffv2iqa_engines):
    server = Served(small_engines, "--engines", str(diffv2iqa_engines), "--max-crops", str(MAX_CROPS))
    try:
        server.wait_until_ready()
        yield server
    finally:
        status = server.stop()
    assert status == 0


@pytest.fixture(scope="module")
def pictures(both):
    with Client(both.url, metric="diffv2iqa", deadline_seconds=120) as client:
        yield client


@pytest.fixture(scope="module")
def scorer(diffv2iqa_engines):
    with Scorer.open(diffv2iqa_engines) as scorer:
        yield scorer


@pytest.mark.parametrize("name", ["still.png", "variable-rate.mkv"])
def test_a_served_score_is_that_of_this_process(pictures, scorer, name):
    source = CLIPS[name]()
    served = pictures.score(source, seed=3)
    assert_same(served, scorer.score(source, seed=3), METRIC)
    assert served.parts.keys() == {"vcg", "vda"} and not served.is_temporal and served.patch_maps is None


def test_crops_frames_and_patch_maps_cross_over(pictures, scorer):
    source = CLIPS["h264.mp4"]()
    options = {"crops": 2, "frames": 3, "patch_maps": True}
    served = pictures.score(source, **options)
    assert_same(served, scorer.score(source, **options), METRIC)
    assert (len(served.crop_scores), len(served.frame_scores), len(served.crop_regions)) == (2, 3, 2)


def test_sixteen_clients_of_two_metrics_get_their_own_scores(both, pictures, scorer, small_engines):
    with Scorer.open(small_engines) as videos, Client(both.url, deadline_seconds=120) as client:
        jobs = [
            (client, videos, {"source": CLIPS["vp8.webm"]()}),
            (pictures, scorer, {"source": CLIPS["still.png"](), "crops": 1}),
            (pictures, scorer, {"source": CLIPS["vp8.webm"](), "frames": 2}),
            (pictures, scorer, {"source": CLIPS["still.png"](), "crops": 1, "seed": 1}),
        ]
        expected = [ours.score(**asked) for _, ours, asked in jobs]
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda number: jobs[number % 4][0].score(**jobs[number % 4][2]), range(16)))
    for number, answer in enumerate(answers):
        assert_same(answer, expected[number % 4], METRIC if number % 4 else DIFFVQA)


def test_what_the_server_cannot_give_is_refused_in_a_sentence(both, pictures):
    source = CLIPS["h264.mp4"]()
    with pytest.raises(InputError, match="crops is 4; this server takes at most 3"):
        pictures.score(source, crops=4)
    with pytest.raises(InputError, match="crops × frames is 26; this server takes at most 24"):
        pictures.score(source, crops=2, frames=13)
    with (
        Client(both.url) as client,
        pytest.raises(InputError, match="frames is 3; DiffVQA does not take it, leave it out"),
    ):
        client.score(source, frames=3)


def test_a_server_without_the_metric_says_so(served):
    with Client(served.url, metric="diffv2iqa") as client, pytest.raises(RequestError, match="the model diffv2iqa"):
        client.score(CLIPS["still.png"]())


def test_the_client_command_prints_what_scoring_prints(both, scorer, tmp_path):
    (tmp_path / "still.png").write_bytes(CLIPS["still.png"]())
    command = [sys.executable, "-m", "diffvqa_rt.cli", "client", "--metric", "diffv2iqa", "--url", both.url]
    options = ["--format", "json", "--patch-maps", str(tmp_path / "still.png")]
    row = json.loads(subprocess.run([*command, *options], check=True, capture_output=True).stdout)
    expected = scorer.score(tmp_path / "still.png", patch_maps=True)
    assert (row["score"], row["metric"]) == (expected.score, "diffv2iqa")
    assert row["patch_maps"] == json.loads(json.dumps(expected.as_dict()["patch_maps"]))


@pytest.mark.parametrize("form", ["embedded", "production"])
def test_an_ensemble_of_either_form_is_joined(form):
    models = served_models(METRIC, TINY, form)
    configs = {}
    for name, model in models.items():
        if model.program is not None:
            configs[name] = in_protobuf(config_of_program(model, "{}"))
        elif model.engine is not None:
            configs[name] = in_protobuf(config_of_engine(model, "onnxruntime", f"{model.engine}.onnx"))
        else:
            configs[name] = in_protobuf(config_of_ensemble(model))
    assert assert_joined(configs, "diffv2iqa") == {
        *("score", "vcg", "vda", "frame_scores", "frame_weights", "patch_scores", "patch_weights"),
        *("timestamps_seconds", "video_info", "model", "stage_seconds"),
    }
