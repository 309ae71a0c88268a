"""A real server with three metrics: their ensembles stand beside each other, and none is mixed up."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("served", reason="needs Triton server and its client", exc_type=ImportError)

from served import CLIPS, Served, assert_joined, assert_same, grpc, in_protobuf

from diffvqa_rt import Scorer
from diffvqa_rt.errors import InputError
from diffvqa_rt.metrics.aigc_vqa.metric import METRIC as PROMPTED
from diffvqa_rt.metrics.aigc_vqa.presets import TINY as PROMPTED_TINY
from diffvqa_rt.metrics.diffv2iqa.metric import METRIC
from diffvqa_rt.metrics.diffv2iqa.presets import TINY
from diffvqa_rt.metrics.diffvqa.metric import METRIC as DIFFVQA
from diffvqa_rt.serving import Client, RequestError
from diffvqa_rt.serving.model_config import config_of_engine, config_of_ensemble, config_of_program
from diffvqa_rt.serving.models import served_models

MAX_CROPS = 3
CAT, CAR = "a cat on a sofa", "two red cars at night"


@pytest.fixture(scope="module")
def all_three(small_engines, diffv2iqa_engines, prompted_engines):
    others = ["--engines", str(diffv2iqa_engines), "--engines", str(prompted_engines)]
    server = Served(small_engines, *others, "--max-crops", str(MAX_CROPS))
    try:
        server.wait_until_ready()
        yield server
    finally:
        status = server.stop()
    assert status == 0


@pytest.fixture(scope="module")
def pictures(all_three):
    with Client(all_three.url, metric="diffv2iqa", deadline_seconds=120) as client:
        yield client


@pytest.fixture(scope="module")
def scorer(diffv2iqa_engines):
    with Scorer.open(diffv2iqa_engines) as scorer:
        yield scorer


@pytest.fixture(scope="module")
def asked(all_three):
    with Client(all_three.url, metric="aigc_vqa", deadline_seconds=120) as client:
        yield client


@pytest.fixture(scope="module")
def asking(prompted_engines):
    with Scorer.open(prompted_engines) as scorer:
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


@pytest.mark.parametrize("options", [{}, {"crops": 3, "patch_maps": True, "seed": 4}], ids=repr)
@pytest.mark.parametrize("prompt", [CAT, "word " * 100, None])
def test_a_prompt_crosses_over_and_a_video_without_one_has_an_ensemble_of_its_own(asked, asking, prompt, options):
    source = CLIPS["h264.mp4"]()
    served, expected = (one.score(source, prompt=prompt, **options) for one in (asked, asking))
    assert served.parts["alignment"] == expected.parts["alignment"]
    ours, theirs = served.as_dict(), expected.as_dict()
    del ours["stage_seconds"], theirs["stage_seconds"]
    assert ours == theirs


def test_pairs_of_videos_and_prompts_are_scored_in_one_call(asked, asking):
    sources, prompts = [CLIPS["h264.mp4"](), CLIPS["vp8.webm"]()], [[CAT, CAR], CAR]
    served = list(asked.score_many(sources, prompts=prompts))
    expected = list(asking.score_many(sources, prompts=prompts))
    assert [(one.score, one.prompt, one.parts) for one in served] == [
        (one.score, one.prompt, one.parts) for one in expected
    ]
    good, blank = asked.score_many(sources, prompts=[CAT, " "])
    assert good.prompt == CAT and blank.error.startswith("prompt is blank")


def test_a_prompt_beyond_the_servers_limit_is_refused(asked):
    with pytest.raises(InputError, match=r"prompt is 20,000 bytes long; this server takes at most 16,384"):
        asked.score(CLIPS["h264.mp4"](), prompt="word " * 4000)


def test_a_prompt_that_is_no_text_is_refused(all_three):
    video = np.frombuffer(CLIPS["h264.mp4"](), np.uint8)
    tensors = {"video": video, "prompt": np.frombuffer(b"a c\xffat", np.uint8)}
    with grpc.InferenceServerClient(all_three.url) as server:
        inputs = [
            grpc.InferInput(name, values.shape, "UINT8").set_data_from_numpy(values) for name, values in tensors.items()
        ]
        with pytest.raises(grpc.InferenceServerException, match=r"prompt is no text in UTF-8 .* at byte 3"):
            server.infer("aigc_vqa", inputs)
        with pytest.raises(grpc.InferenceServerException, match="prompt"):
            server.infer("aigc_vqa", inputs[:1])
        with pytest.raises(grpc.InferenceServerException, match="prompt"):
            server.infer("aigc_vqa_visual", inputs)


def test_sixteen_clients_of_three_metrics_get_their_own_scores(
    all_three, pictures, scorer, asked, asking, small_engines
):
    with Scorer.open(small_engines) as videos, Client(all_three.url, deadline_seconds=120) as client:
        jobs = [
            (client, videos, {"source": CLIPS["vp8.webm"]()}),
            (pictures, scorer, {"source": CLIPS["still.png"](), "crops": 1}),
            (pictures, scorer, {"source": CLIPS["vp8.webm"](), "frames": 2}),
            (asked, asking, {"source": CLIPS["vp8.webm"](), "prompt": CAT}),
        ]
        metrics = [DIFFVQA, METRIC, METRIC, PROMPTED]
        expected = [ours.score(**request) for _, ours, request in jobs]
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda number: jobs[number % 4][0].score(**jobs[number % 4][2]), range(16)))
    for number, answer in enumerate(answers):
        assert_same(answer, expected[number % 4], metrics[number % 4])


def test_what_the_server_cannot_give_is_refused_in_a_sentence(all_three, pictures):
    source = CLIPS["h264.mp4"]()
    with pytest.raises(InputError, match="crops is 4; this server takes at most 3"):
        pictures.score(source, crops=4)
    with pytest.raises(InputError, match="crops × frames is 26; this server takes at most 24"):
        pictures.score(source, crops=2, frames=13)
    with (
        Client(all_three.url) as client,
        pytest.raises(InputError, match="frames is 3; DiffVQA does not take it, leave it out"),
    ):
        client.score(source, frames=3)


def test_a_server_without_the_metric_says_so(served):
    with Client(served.url, metric="diffv2iqa") as client, pytest.raises(RequestError, match="the model diffv2iqa"):
        client.score(CLIPS["still.png"]())


def test_the_client_command_prints_what_scoring_prints(all_three, scorer, tmp_path):
    (tmp_path / "still.png").write_bytes(CLIPS["still.png"]())
    command = [sys.executable, "-m", "diffvqa_rt.cli", "client", "--metric", "diffv2iqa", "--url", all_three.url]
    options = ["--format", "json", "--patch-maps", str(tmp_path / "still.png")]
    row = json.loads(subprocess.run([*command, *options], check=True, capture_output=True).stdout)
    expected = scorer.score(tmp_path / "still.png", patch_maps=True)
    assert (row["score"], row["metric"]) == (expected.score, "diffv2iqa")
    assert row["patch_maps"] == json.loads(json.dumps(expected.as_dict()["patch_maps"]))


def test_the_client_command_asks_with_a_table_of_prompts(all_three, asking, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(CLIPS["h264.mp4"]())
    (tmp_path / "prompts.csv").write_text(f"video,prompt\nclip.mp4,{CAT}\n")
    command = [sys.executable, "-m", "diffvqa_rt.cli", "client", "--metric", "aigc_vqa", "--url", all_three.url]
    options = ["--format", "json", "--prompts", str(tmp_path / "prompts.csv"), str(tmp_path / "clip.mp4")]
    row = json.loads(subprocess.run([*command, *options], check=True, capture_output=True).stdout)
    expected = asking.score(tmp_path / "clip.mp4", prompt=CAT)
    assert (row["score"], row["prompt"], row["parts"]) == (expected.score, CAT, expected.parts)


CURVES = {"score", "frame_scores", "frame_weights", "patch_scores", "patch_weights"}
FACTS = {"timestamps_seconds", "video_info", "model", "stage_seconds"}
SEEN = {"technical", "aesthetic", "raw_technical", "raw_aesthetic"}


@pytest.mark.parametrize("form", ["embedded", "production"])
@pytest.mark.parametrize(
    ("metric", "config", "parts"),
    [
        (METRIC, TINY, {"diffv2iqa": {"vcg", "vda"}}),
        (PROMPTED, PROMPTED_TINY, {"aigc_vqa": SEEN | {"alignment", "raw_alignment"}, "aigc_vqa_visual": SEEN}),
    ],
    ids=["diffv2iqa", "aigc_vqa"],
)
def test_an_ensemble_of_either_form_is_joined(metric, config, parts, form):
    configs = {}
    for name, model in served_models(metric, config, form).items():
        if model.program is not None:
            configs[name] = in_protobuf(config_of_program(model, "{}"))
        elif model.engine is not None:
            configs[name] = in_protobuf(config_of_engine(model, "onnxruntime", f"{model.engine}.onnx"))
        else:
            configs[name] = in_protobuf(config_of_ensemble(model))
    for ensemble, own in parts.items():
        assert assert_joined(configs, ensemble) == CURVES | FACTS | own
        steps = {step.model_name for step in configs[ensemble].ensemble_scheduling.step}
        assert ("aigc_vqa-alignment" in steps) == ("alignment" in own)
