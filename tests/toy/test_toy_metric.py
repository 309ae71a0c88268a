"""A metric that is nothing like DiffVQA, from its declaration to a server beside DiffVQA's: no generic layer knows one.

A metric that is baked into a generic layer breaks this.
"""

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from diffvqa_export.weights import choose_weights, random_weights
from safetensors.numpy import load_file

from diffvqa_rt import Scorer, ScoringFailure, VideoScore, cli
from diffvqa_rt.capacity.measurements import Wanted, measurement_from
from diffvqa_rt.capacity.planning import Device
from diffvqa_rt.engines import BackendName
from diffvqa_rt.engines.manifest import Manifest
from diffvqa_rt.metric import Request
from diffvqa_rt.models.weights import weights_sha256
from diffvqa_rt.results import csv_columns
from diffvqa_rt.serving.models import served_models
from diffvqa_rt.serving.repository import assemble_repository

STAGES = ("decode", "views", "luma", "adapt")
SERVED = {
    "embedded": {"toy_luma-preprocess", "toy_luma-luma", "toy_luma-adapt", "toy_luma-finish", "toy_luma"},
    "production": {
        *("toy_luma-preprocess", "toy_luma-luma", "toy_luma-adapt", "toy_luma-adapting_step", "toy_luma-finish"),
        "toy_luma",
    },
}


@pytest.fixture(scope="module")
def scorer(toy_engines):
    with Scorer.open(toy_engines) as scorer:
        yield scorer


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Videos of as many frames as the network looks at, each of the size of its pictures."""
    return list(np.random.default_rng(0).integers(0, 256, (3, 5, 64, 64, 3), np.uint8))


def computed(pictures: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scores [rows] and the curves [rows, N] of pictures [rows, N, H, W, 3]."""
    scaled = (pictures / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    luma = curve = scaled.mean((2, 3)) @ weights
    level, levels = luma.mean(1), []
    for rate in (1 / 2, 1 / 4, 1 / 8):
        level = level + rate * (luma.max(1) - level)
        curve = curve + rate * (level[:, None] - curve)
        levels.append(level)
    return (levels[0] + 3 * levels[2]) / 4, curve


def without_times(result: VideoScore | ScoringFailure) -> dict:
    assert isinstance(result, VideoScore), result
    values = result.as_dict()
    assert tuple(values.pop("stage_seconds")) == STAGES
    return values


def test_the_engines_are_built_and_proven(toy, toy_engines, capsys):
    manifest = Manifest.read(toy_engines)
    manifest.verify(toy_engines)
    assert json.loads((toy_engines / "manifest.json").read_text())["metric"] == "toy_luma"
    assert (manifest.metric, manifest.config) == (toy, toy.presets["five"])
    assert list(manifest.backends) == ["onnx", "torch"]
    parity = manifest.backends["onnx"].parity
    assert parity is not None and not parity.failures
    assert set(parity.row_differences) == {"luma", "adapting_step"}
    assert cli.main(["info", str(toy_engines)]) == 0
    assert "five (untrained): 5 pictures of 64×64 pixels, 3 turns, scores -3 … 3" in capsys.readouterr().out


def test_weights_in_a_file_are_the_network(toy, tmp_path):
    from diffvqa_export.toy_luma.stages import save_weights

    chosen = random_weights(toy.presets["five"], seed=7, metric="toy_luma")
    save_weights(chosen.load(), tmp_path / "seven.safetensors")
    loaded = choose_weights(toy.presets["five"], tmp_path / "seven.safetensors", metric="toy_luma")
    assert loaded.is_trained
    assert weights_sha256(loaded.load()) == weights_sha256(chosen.load())


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_a_score_is_what_numpy_computes(toy_engines, pictures, backend):
    weights = load_file(toy_engines / "torch" / "weights.safetensors")["luma.weights"]
    scorer = Scorer.open(toy_engines, backend=backend)
    scores, curves = computed(np.array(pictures), weights)
    for video, score, curve in zip(pictures, scores, curves, strict=True):
        result = scorer.score(video)
        assert result.score == pytest.approx(score, abs=1e-5)
        assert result.frame_scores == pytest.approx(curve, abs=1e-5)
        assert (result.frame_weights, result.score_range, result.model) == ((), (-3, 3), "five (untrained)")
        assert [warning.code for warning in result.warnings] == ["toy"]


def test_batch_order_and_process_change_no_bit(scorer, pictures, clip):
    videos = [clip, *pictures, b"no video at all"]
    *alone, failure = scorer.score_many(videos)
    assert isinstance(failure, ScoringFailure)
    *_, one, two, three, first = scorer.score_many(videos[::-1], batch=3)
    assert list(map(without_times, (first, three, two, one))) == list(map(without_times, alone))
    # A file is prepared in the decoder's process, which finds the metric by its name.
    assert without_times(scorer.score(clip, isolate=False)) == without_times(alone[0])


def test_crops_are_rows(scorer, toy, clip):
    several = scorer.score(clip, crops=3, seed=5)
    assert len(several.crop_scores) == 3 and several.crop_spread > 0 and len(several.frame_scores) == 5
    assert several.crop_scores[0] == scorer.score(clip, seed=5).score
    prepared, regions = toy.prepare(toy.presets["five"], [np.zeros((90, 200, 3), np.uint8)] * 5, Request(crops=3))
    assert prepared["pictures"].shape == (3, 5, 3, 64, 64) and len(set(regions)) == 3


def test_the_command_line_scores_by_its_stages(scorer, toy_engines, clip, capsys):
    command = ["score", "--engines", str(toy_engines), "--format"]
    run = [sys.executable, "-m", "diffvqa_rt.cli", *command, "json", str(clip)]
    row = json.loads(subprocess.run(run, check=True, capture_output=True).stdout)
    assert tuple(row["stage_seconds"]) == STAGES
    assert row["score"] == scorer.score(clip).score
    assert cli.main([*command, "csv", str(clip)]) == 0
    (line,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert tuple(line) == csv_columns(STAGES, ["glance"])
    assert line["frame_weights"] == "" and float(line["adapt_seconds"]) > 0
    assert float(line["score"]) == row["score"]


def test_a_plan_has_its_stages(toy, tmp_path):
    row = {"metric": "toy_luma", "model": "five", "backend": "onnx", "stage_seconds": dict.fromkeys(STAGES, 0.5)}
    (tmp_path / "scores.json").write_text(json.dumps(row))
    device = Device(measurement_from([tmp_path / "scores.json"], Wanted(device="xeon", is_gpu=False), 2))
    assert [stage.name for stage in device.stages] == ["serving", "preprocess", "luma", "adapt"]
    assert device.seconds_alone.tolist() == [2]


@pytest.mark.parametrize("form", ["embedded", "production"])
def test_a_repository_is_printed_from_the_chain(toy, toy_engines, tmp_path, form):
    from served import assert_border, assert_joined, parsed, settings_for

    backend = "onnx"
    if form == "production":
        # The same files for both, as a build of both leaves them.
        backend, toy_engines = "onnx-cuda", Path(shutil.copytree(toy_engines, tmp_path / "engines"))
        manifest = json.loads((toy_engines / "manifest.json").read_text())
        manifest["backends"]["onnx-cuda"] = manifest["backends"]["onnx"]
        (toy_engines / "manifest.json").write_text(json.dumps(manifest))
    models = served_models(toy, toy.presets["five"], form)
    assemble_repository(settings_for(toy_engines, form=form, backend=backend), tmp_path / "models")
    configs = parsed(tmp_path / "models")
    assert set(configs) == set(models) == SERVED[form]
    for name, config in configs.items():
        assert_border(config, models[name])
    assert assert_joined(configs, "toy_luma") == {
        *("score", "glance", "frame_scores", "timestamps_seconds", "video_info", "model", "stage_seconds")
    }
    instances = {name: config.instance_group[0].count for name, config in configs.items() if config.instance_group}
    assert instances == {name: model.instances for name, model in models.items() if not model.steps}


def server_of(*folders: Path, backend: BackendName):
    from served import free_ports

    from diffvqa_rt.serving import Server, ServerConfig

    port, http_port, metrics_port = free_ports(3)
    return Server(
        ServerConfig(engines=folders, backend=backend, port=port, http_port=http_port, metrics_port=metrics_port)
    )


def test_a_server_takes_one_folder_of_each_metric(toy_engines, untrained_engines):
    from served import parsed

    from diffvqa_rt.serving import ServerError

    with server_of(untrained_engines, toy_engines, backend="torch") as server:
        assert server.forms == {"diffvqa": "embedded", "toy_luma": "embedded"}
        assert set(parsed(server._run / "models")) == SERVED["embedded"] | {
            *("preprocess", "vae_encoder", "denoise", "head", "finish", "diffvqa")
        }
    with pytest.raises(ServerError, match="are both of the metric toy_luma; a server plays one of them"):
        server_of(toy_engines, untrained_engines, toy_engines, backend="torch")


def test_a_server_plays_both_metrics_at_once(toy, scorer, toy_engines, built_engines, clip):
    from served import assert_same, grpc

    from diffvqa_rt.serving import Client
    from diffvqa_rt.serving.client.answers import score_from_answer
    from diffvqa_rt.serving.client.request import encoded_video, request_tensors

    content, request = clip.read_bytes(), Request(seed=5, crops=2)
    with server_of(built_engines, toy_engines, backend="onnx") as server:
        server.start()
        with grpc.InferenceServerClient(server.url) as connection:
            answer = connection.infer("toy_luma", request_tensors(grpc, encoded_video(content), request))
        tensors = {tensor.name: answer.as_numpy(tensor.name) for tensor in answer.get_response().outputs}
        served = score_from_answer(tensors, source="<bytes>", seed=5)
        assert_same(served, scorer.score(content, seed=5, crops=2), toy)
        with Client(server.url, deadline_seconds=120) as client, Scorer.open(built_engines) as ours:
            assert_same(client.score(content), ours.score(content))


@pytest.mark.slow
def test_compiled_packages_give_the_same(toy_engines, scorer, clip, tmp_path):
    import build_engines

    arguments = [
        "--metric",
        "toy_luma",
        "--preset",
        "five",
        "--backend",
        "aot-inductor",
        "--out",
        str(tmp_path / "aot"),
    ]
    assert build_engines.main(arguments) == 0
    compiled = Scorer.open(tmp_path / "aot", backend="aot-inductor").score(clip, crops=3)
    assert compiled.crop_scores == pytest.approx(scorer.score(clip, crops=3).crop_scores, abs=1e-5)
