"""The number of steps as a choice of a build: `--steps`, which weights take it, and where it is seen."""

import dataclasses
import json

import build_engines
import numpy as np
import onnxruntime
import pytest
import torch
from diffvqa_export.backends.onnx_from_module import onnx_from_module
from diffvqa_export.weights import choose_weights
from export_jobs import job_of
from restoring_network import SMALLEST as RESTORING
from training_network import SMALLEST

from diffvqa_rt import Scorer
from diffvqa_rt.chain import STEP
from diffvqa_rt.engines import Manifest
from diffvqa_rt.engines.describe import describe
from diffvqa_rt.metrics.diffv2iqa.presets import PRESETS as RESTORING_PRESETS
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.metrics.diffvqa.presets import PRESETS, TINY
from diffvqa_rt.models.diffv2iqa.network import random_network as random_restoring_network
from diffvqa_rt.models.diffvqa.network import random_network
from diffvqa_rt.models.diffvqa.stages import stage_modules
from diffvqa_rt.models.weights import save_weights


def weights_file(folder, config, *, is_trained):
    path = folder / f"{'trained' if is_trained else 'adapted'}.safetensors"
    save_weights(random_network(config), path, is_trained=is_trained)
    return path


def build(path, out, *arguments: str) -> Manifest:
    assert build_engines.main(["--weights", str(path), "--out", str(out), *arguments]) == 0
    return Manifest.read(out)


def test_one_step_is_named_where_people_see_it(tmp_path, clip, capsys):
    path = weights_file(tmp_path, SMALLEST, is_trained=False)
    manifest = build(path, tmp_path / "one", "--backend", "torch", "--steps", "1")
    assert manifest.config == SMALLEST.with_steps(1)
    assert json.loads((tmp_path / "one" / "manifest.json").read_text())["config"]["sampler"]["steps"] == 1
    assert manifest.model_label == "tiny, 1 step (untrained)" and "1 denoising step (" in capsys.readouterr().out
    score = Scorer.open(tmp_path / "one", backend="torch").score(clip)
    assert score.model == "tiny, 1 step (untrained)" and "denoise" in score.stage_seconds


@torch.inference_mode()
def test_the_only_step_of_a_network_is_exported_as_torch_has_it(tmp_path):
    config = SMALLEST.with_steps(1)
    module = stage_modules(random_network(config))["unet_controller"]
    onnx_from_module(job_of("unet_controller", module, tmp_path / "step.onnx", config=config))
    z, z0 = (torch.randn(1, 3, *config.latent_shape) for _ in range(2))
    inputs = {"z": z.numpy(), "z0": z0.numpy(), STEP: np.array([0])}
    session = onnxruntime.InferenceSession(tmp_path / "step.onnx", providers=["CPUExecutionProvider"])
    expected = module(z, z0, torch.tensor([0]))
    for actual, tensor in zip(session.run(None, inputs), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(actual), tensor, rtol=1e-4, atol=1e-4)


def test_the_steps_are_in_all_that_a_build_is_known_by(tmp_path):
    path = weights_file(tmp_path, SMALLEST, is_trained=False)
    two, one = (build(path, tmp_path / f"{steps}", "--backend", "torch", "--steps", f"{steps}") for steps in (2, 1))
    assert two.weights == one.weights and two.config != one.config
    assert two.provenance != one.provenance
    assert (tmp_path / "2" / "manifest.json").read_text() != (tmp_path / "1" / "manifest.json").read_text()


def test_weights_that_were_trained_at_other_steps_are_refused(tmp_path, capsys):
    path = weights_file(tmp_path, SMALLEST, is_trained=True)
    arguments = ["--weights", str(path), "--backend", "torch", "--out", str(tmp_path / "out")]
    assert build_engines.main([*arguments, "--steps", "4"]) == 2
    said = capsys.readouterr().err
    assert f"steps is 4, and {path} was trained at 2; give weights that were trained at 4, or leave steps out" in said
    assert said.count("\n") == 1 and not (tmp_path / "out").exists()
    # The number that they were trained at may be said, and is kept where it is not.
    for said_or_not in (["--steps", "2"], []):
        assert build_engines.main([*arguments, *said_or_not]) == 0
        assert Manifest.read(tmp_path / "out").model_label == "tiny, 2 steps"


def test_bundled_weights_of_other_steps_are_left_where_they_are():
    """The preset's own steps take them; with others the build shows a price, and says that it is untrained."""
    same, other = (choose_weights(TINY, None, steps=steps) for steps in (TINY.sampler.steps, 4))
    assert same.config == TINY and same.is_trained and same.source == "tiny.safetensors"
    assert other.config == TINY.with_steps(4) and not other.is_trained
    assert other.source == f"random, seed 0; tiny.safetensors was trained at K = {TINY.sampler.steps}"
    assert other.load().config == other.config


def test_a_restorer_that_has_no_branches_yet_takes_other_steps(tmp_path, monkeypatch):
    monkeypatch.setitem(RESTORING_PRESETS, RESTORING.name, RESTORING)
    path = tmp_path / "adapted.safetensors"
    save_weights(random_restoring_network(RESTORING), path, is_trained=False)
    chosen = choose_weights(RESTORING, path, metric="diffv2iqa", steps=8)
    assert chosen.config == chosen.load().config == RESTORING.with_steps(8)
    assert (chosen.config.kept, chosen.config.sampler.train_steps) == ((2, 4), 8)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--metric", "aigc_vqa", "--steps", "1"], "steps is 1; AIGC-VQA has no steps to choose, leave steps out"),
        (["--steps", "0"], "steps is 0; expected 1 … train_steps (1000)"),
        (["--preset", "sd21", "--steps", "1001"], "steps is 1001; expected 1 … train_steps (1000)"),
        (
            ["--metric", "diffv2iqa", "--steps", "5"],
            "steps is 5; expected enough to keep two pictures on the way, as with 2 and 4 of 20 steps left",
        ),
    ],
)
def test_steps_that_cannot_be_had_are_one_sentence(arguments, sentence, capsys):
    assert build_engines.main(arguments) == 2
    assert capsys.readouterr().err == f"build_engines.py: {sentence}\n"


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (["--steps", "1"], "build/tiny-1-step"),
        (["--steps", str(TINY.sampler.steps)], "build/tiny"),
        (["--preset", "sd21", "--steps", "4", "--precision", "fp16"], "build/sd21-4-steps-fp16"),
        (["--metric", "diffv2iqa", "--steps", "10"], "build/diffv2iqa-tiny-10-steps"),
    ],
)
def test_an_engine_folder_is_named_after_its_steps(arguments, folder, capsys):
    assert build_engines.main([*arguments, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{folder}:"


def test_a_file_says_its_variance_and_the_engines_follow_it(tmp_path, clip):
    sampler = dataclasses.replace(SMALLEST.sampler, variance="posterior")
    path = weights_file(tmp_path, dataclasses.replace(SMALLEST, sampler=sampler), is_trained=True)
    posterior = build(path, tmp_path / "posterior", "--backend", "torch")
    beta = build(weights_file(tmp_path, SMALLEST, is_trained=True), tmp_path / "beta", "--backend", "torch")
    assert posterior.config.sampler.variance == "posterior"
    assert "(scaled_linear, posterior variance)" in describe(posterior) and "variance" not in describe(beta)
    assert posterior.weights.sha256 == beta.weights.sha256 and posterior.provenance != beta.provenance
    one, other = (Scorer.open(tmp_path / name, backend="torch").score(clip).score for name in ("posterior", "beta"))
    assert one != other


def test_a_preset_and_a_file_are_all_that_a_network_of_fewer_steps_takes(tmp_path, monkeypatch):
    """An entry in `presets.py` and a weights file of its name: then its steps are its own, and go without saying."""
    fast = dataclasses.replace(SMALLEST, name="tiny-fast").with_steps(1)
    monkeypatch.setitem(PRESETS, fast.name, fast)
    weights = tmp_path / "weights" / "tiny-fast" / "tiny-fast.safetensors"
    weights.parent.mkdir(parents=True)
    save_weights(random_network(fast), weights, is_trained=True)
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    assert METRIC.preset_named("tiny-fast") == fast and METRIC.label(fast) == "tiny-fast"
    assert build_engines.main(["--preset", "tiny-fast", "--backend", "torch", "--out", str(tmp_path / "out")]) == 0
    manifest = Manifest.read(tmp_path / "out")
    assert manifest.model_label == "tiny-fast" and manifest.weights.source == "tiny-fast.safetensors"
    assert choose_weights(fast, None, steps=2).config == fast.with_steps(2)
