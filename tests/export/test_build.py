"""`export/build_engines.py`: what it writes, what it proves, and what it refuses."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import build_engines
import numpy as np
import pytest
import torch
from diffvqa_export.backends import onnx as onnx_backend
from diffvqa_export.build import build_engines as build_folder
from diffvqa_export.context import BuildRequest
from diffvqa_export.weights import choose_weights, random_weights
from training_network import SMALLEST

from diffvqa_rt.engines import Manifest, open_engines
from diffvqa_rt.engines.torch_backend import torch_engines
from diffvqa_rt.errors import EngineBuildError, EngineMismatchError, ParityError
from diffvqa_rt.extras import install_command
from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.metrics.diffvqa.engines import engine_specs
from diffvqa_rt.metrics.diffvqa.presets import SD21, TINY
from diffvqa_rt.models.diffvqa.network import random_network
from diffvqa_rt.models.diffvqa.stages import stage_modules
from diffvqa_rt.models.weights import save_weights


def torch_request(out, clip) -> BuildRequest:
    return BuildRequest(weights=random_weights(SMALLEST), backends=("torch",), out=out, clip=clip)


@pytest.fixture
def copy_exported(small_engines):
    """In the place of `onnx_from_module`: the file that it made of `SMALLEST` before."""

    def copy(job):
        for file in (job.path.name, f"{job.path.name}.data"):
            shutil.copy(small_engines / "onnx" / file, job.path.parent)

    return copy


def test_the_manifest_says_where_the_engines_come_from_and_how_good_they_are(built_engines):
    manifest = Manifest.read(built_engines)
    assert manifest.config == TINY
    assert manifest.weights.is_trained
    assert manifest.weights.source == "tiny.safetensors"
    assert manifest.build.versions["torch"] == torch.__version__
    parity = manifest.backends["onnx"].parity
    assert parity is not None
    measured = {(o.engine, o.output) for o in parity.outputs}
    assert measured == {(s.name, o.name) for s in engine_specs(TINY).values() for o in s.outputs}
    assert all(0 <= o.relative_error <= o.tolerance for o in parity.outputs)
    assert sum(o.relative_error for o in parity.outputs) > 0  # two runtimes never agree on every bit
    assert parity.score_difference < 1e-4 * 100


def test_another_networks_engines_fail_parity_and_nothing_is_written(
    small_engines, copy_exported, clip, tmp_path, monkeypatch
):
    monkeypatch.setattr(onnx_backend, "onnx_from_module", copy_exported)
    monkeypatch.setattr(Manifest, "provenance", Manifest.read(small_engines).provenance)
    request = BuildRequest(weights=random_weights(SMALLEST, 1), backends=("onnx",), out=tmp_path / "out", clip=clip)
    with pytest.raises(ParityError, match="vae_encoder's z0 is off by .* Nothing was written"):
        build_folder(request, progress=lambda step: None)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_engine_folder_is_not_overwritten(tmp_path, clip):
    (tmp_path / "holiday.jpg").write_bytes(b"irreplaceable")
    request = torch_request(tmp_path, clip)
    with pytest.raises(EngineBuildError, match="is not an engine folder; choose another --out"):
        build_folder(request, progress=lambda step: None)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"irreplaceable"


def test_an_engine_folder_with_something_else_in_it_is_not_overwritten(engines_copy, clip):
    (engines_copy / "notes.txt").write_text("irreplaceable")
    request = torch_request(engines_copy, clip)
    with pytest.raises(EngineBuildError, match="notes.txt is not part of the engines"):
        build_folder(request, progress=lambda step: None)
    (engines_copy / "notes.txt").unlink()
    (engines_copy / "manifest.json").write_text('{"name": "a web app"}')
    with pytest.raises(EngineBuildError, match="is not an engine folder"):
        build_folder(request, progress=lambda step: None)
    assert (engines_copy / "onnx" / "head.onnx").exists()


def test_engines_of_an_older_format_are_replaced(engines_copy, clip):
    values = json.loads((engines_copy / "manifest.json").read_text())
    (engines_copy / "manifest.json").write_text(json.dumps({"format": 0, "backends": values["backends"]}))
    request = torch_request(engines_copy, clip)
    build_folder(request, progress=lambda step: None)
    assert list(Manifest.read(engines_copy).backends) == ["torch"]
    beside = {path.name for path in engines_copy.parent.iterdir()}
    assert beside == {engines_copy.name, f"{engines_copy.name}.work"}


def test_trained_weights_are_built_and_an_older_folder_is_replaced(tmp_path, capsys):
    save_weights(random_network(SMALLEST, seed=5), tmp_path / "weights.safetensors", is_trained=True)
    arguments = [
        "--weights",
        str(tmp_path / "weights.safetensors"),
        "--backend",
        "torch",
        "--out",
        str(tmp_path / "out"),
    ]
    for _ in range(2):
        assert build_engines.main(arguments) == 0
    assert "untrained" not in capsys.readouterr().out
    manifest, engines = open_engines(tmp_path / "out", "torch")
    assert manifest.weights.is_trained and manifest.weights.source == "weights.safetensors"
    frames = np.zeros((1, 2, 3, SMALLEST.view_size, SMALLEST.view_size), np.float32)
    modules = stage_modules(random_network(SMALLEST, seed=5))
    expected = torch_engines(engine_specs(SMALLEST), modules)["vae_encoder"]({"frames": frames})["z0"]
    assert np.array_equal(engines["vae_encoder"]({"frames": frames})["z0"], expected)


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--metric", "vmaf"], 2, "metric is 'vmaf'; expected one of diffvqa"),
        (["--preset", "huge"], 2, "preset is 'huge'; expected one of tiny, "),
        (["--weights", "nowhere.safetensors"], 2, "nowhere.safetensors: no such weights file"),
        (["--backend", "onnx,vulkan"], 2, "expected some of onnx, "),
        (["--precision", "int8"], 2, "precision is 'int8'; expected one of fp32, fp16, bf16"),
        (
            ["--strip-weights"],
            2,
            "--strip-weights and --version-compatible apply to TensorRT only; backends is ('onnx',), add tensorrt or "
            "tensorrt-rtx",
        ),
        (["--precision", "bf16"], 2, "ONNX Runtime has no bfloat16 kernels for the CPU"),
        (["--clip", "nowhere.mp4"], 1, "nowhere.mp4 cannot be read"),
    ],
)
def test_a_users_mistake_gets_one_sentence(arguments, status, sentence, capsys):
    assert build_engines.main(arguments) == status
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_a_missing_package_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffvqa_export.build", None)
    assert build_engines.main([]) == 1
    assert f"which is not installed: {install_command('export')}\n" in capsys.readouterr().err


def test_weights_of_another_network_are_refused(tmp_path):
    other = dataclasses.replace(TINY, name="other", frames=2, view_size=64)
    save_weights(random_network(other), tmp_path / "w.safetensors", is_trained=True)
    with pytest.raises(ValueError, match="holds the network 'other', which is not the preset 'tiny'"):
        choose_weights(TINY, tmp_path / "w.safetensors")


def test_weights_say_what_network_they_are_of(tmp_path):
    tcab = dataclasses.replace(TINY.head.tcab, views="none")
    trained = dataclasses.replace(TINY, score_range=(1.0, 5.0), head=dataclasses.replace(TINY.head, tcab=tcab))
    save_weights(random_network(trained), tmp_path / "w.safetensors", is_trained=True)
    chosen = choose_weights(TINY, tmp_path / "w.safetensors")
    assert chosen.config == chosen.load().config == trained and chosen.is_trained


def test_a_manifest_names_every_field_of_its_network(built_engines):
    values = json.loads((built_engines / "manifest.json").read_text())
    assert DiffVQAConfig.from_dict(values["config"]) == TINY != SD21


class Interrupted:
    """An export until a stage comes; there it raises, in the place of a key, a kill or a full disk."""

    def __init__(self, export, stage: str, error: BaseException) -> None:
        self._export, self._stage, self._error = export, stage, error

    def __call__(self, job):
        if job.stage.name == self._stage:
            raise self._error
        self._export(job)


def test_a_build_that_was_stopped_goes_on_where_it_was(small_weights, copy_exported, tmp_path, monkeypatch, capsys):
    def stop_at(stage, error):
        monkeypatch.setattr(onnx_backend, "onnx_from_module", Interrupted(copy_exported, stage, error))

    out = tmp_path / "tiny"
    command = ["--weights", str(small_weights), "--out", str(out)]
    stop_at("unet_controller", KeyboardInterrupt())
    assert build_engines.main(command) == 130
    assert f"interrupted; the same command goes on from {out}.work" in capsys.readouterr().err
    assert not out.exists()

    stop_at("head", OSError(errno.ENOSPC, "No space left on device"))
    assert build_engines.main(command) == 1
    progress = capsys.readouterr().err
    assert f"the disk of {out} is full; make room" in progress
    assert "reference: float32 torch on frog.mp4: done before" in progress
    assert "onnx: export vae_encoder: done before" in progress
    assert "onnx: export unet_controller\n" in progress
    assert not out.exists()

    monkeypatch.setattr(onnx_backend, "onnx_from_module", copy_exported)
    assert build_engines.main(command) == 0
    progress = capsys.readouterr().err
    assert progress.count("done before") == 3
    first = Manifest.read(out)
    open_engines(out)

    # Again: nothing is left to do, and the files are found where the finished build put them.
    assert build_engines.main(command) == 0
    progress = capsys.readouterr().err
    assert progress.count("done before") == 5 and "onnx: export head\n" not in progress
    assert Manifest.read(out).backends == first.backends
    assert (out / "onnx" / "head.onnx.data").stat().st_nlink == 1  # ONNX's tools refuse files with several names

    # Stopped while it moves its files: the older engines are back in their place, and nothing is done again.
    work = out.with_name("tiny.work")
    (work / "new" / "onnx").mkdir(parents=True)
    (out / "onnx" / "head.onnx").rename(work / "new" / "onnx" / "head.onnx")
    shutil.copy(out / "manifest.json", work / "new")
    out.rename(work / "old")
    assert build_engines.main(command) == 0
    assert "onnx: export head\n" not in capsys.readouterr().err
    open_engines(out)
    assert not (work / "manifest.json").exists()

    # A build that fails leaves the engines that are there as they were, and with one name each.
    stop_at("vae_encoder", KeyboardInterrupt())
    assert build_engines.main([*command, "--precision", "fp16"]) == 130
    open_engines(out)
    assert {path.stat().st_nlink for path in out.rglob("*") if path.is_file()} == {1}
    monkeypatch.setattr(onnx_backend, "onnx_from_module", copy_exported)
    capsys.readouterr()

    # A step whose file was changed is done again.
    (out / "onnx" / "head.onnx").write_bytes(b"damaged")
    assert build_engines.main(command) == 0
    assert "onnx: export head\n" in capsys.readouterr().err
    open_engines(out)


_BUILD_AND_WAIT = """
import sys, time
import build_engines
from diffvqa_export.backends import onnx

def wait(job):
    print("exporting", flush=True)
    time.sleep(600)

onnx.onnx_from_module = wait
build_engines.main(sys.argv[1:])
"""


def test_a_killed_build_leaves_no_engine_folder_and_no_lock(small_weights, tmp_path, clip):
    arguments = ["--weights", str(small_weights), "--out", str(tmp_path / "tiny")]
    command = [sys.executable, "-c", _BUILD_AND_WAIT, *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(build_engines.__file__).parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == "exporting\n"
        request = torch_request(tmp_path / "tiny", clip)
        with pytest.raises(EngineBuildError, match="another build is working in .*tiny.work; wait for it"):
            build_folder(request, progress=lambda step: None)
        process.kill()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.work"]
    with pytest.raises(EngineMismatchError, match="is not an engine folder"):
        open_engines(tmp_path / "tiny.work")
    build_folder(request, progress=lambda step: None)
    open_engines(tmp_path / "tiny", "torch")


def test_a_dry_run_says_what_will_be_written_and_writes_nothing(built_engines, tmp_path, capsys):
    assert build_engines.main(["--backend", "onnx,torch", "--dry-run", "--out", str(tmp_path / "tiny")]) == 0
    assert list(tmp_path.iterdir()) == []
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    estimated = {
        words[2]: float(words[0]) for words in lines if len(words) == 3 and words[1] == "MB" and "/" in words[2]
    }
    assert estimated.keys() == {f"onnx/{name}.onnx.data" for name in engine_specs(TINY)} | {"torch/weights.safetensors"}
    for file, megabytes in estimated.items():
        assert megabytes == pytest.approx((built_engines / file).stat().st_size / 1e6, rel=0.02, abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        ([], "build/tiny"),
        (["--metric", "diffvqa", "--precision", "fp16"], "build/tiny-fp16"),
        (["--preset", "sd21"], "build/sd21"),
    ],
)
def test_an_engine_folder_has_its_networks_name(arguments, folder, capsys):
    assert build_engines.main([*arguments, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{folder}:"


def test_a_disk_that_is_too_small_is_named_before_anything_is_computed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    assert build_engines.main(["--out", str(tmp_path / "tiny")]) == 1
    error = capsys.readouterr().err
    assert (
        "needs about 38" in error
        and " more and" in error
        and "its disk has 1.0 MB left; make room" in error
        and error.count("\n") == 1
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_somebody_elses_is_no_work_folder(tmp_path, clip):
    (tmp_path / "tiny.work" / "old").mkdir(parents=True)
    with pytest.raises(EngineBuildError, match="tiny.work is not a build's work folder; choose another --out"):
        build_folder(torch_request(tmp_path / "tiny", clip), progress=lambda step: None)
    assert (tmp_path / "tiny.work" / "old").exists()
