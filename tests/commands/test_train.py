"""`diffvqa adapt` and `diffvqa train` as a user meets them."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from clips import make_clip
from safetensors import safe_open
from safetensors.torch import load_file
from training_network import SMALLEST

from diffvqa_rt.cli import main
from diffvqa_rt.evaluation.data_sets import read_table
from diffvqa_rt.evaluation.protocols import random_splits
from diffvqa_rt.evaluation.scores import read_scores
from diffvqa_rt.models.diffvqa.checkpoints import load_weights
from diffvqa_rt.models.diffvqa.network import DiffVQA, random_network
from diffvqa_rt.models.weights import save_weights
from diffvqa_rt.training.diffvqa.start import with_new_head

FEW = ["--workers", "0", "--epochs", "2", "--cache-gigabytes", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten clips with opinions on 1 … 5, seven of them for training, and weights that are not trained."""
    folder = tmp_path_factory.mktemp("data")
    with open(folder / "mos.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "mos", "split"])
        for number in range(10):
            (folder / f"{number}.mp4").write_bytes(make_clip(size=(72 + 8 * number, 80), frames=4))
            writer.writerow([f"{number}.mp4", 1 + 0.4 * number, "test" if number % 3 == 1 else "train"])
    save_weights(random_network(SMALLEST), folder / "start.safetensors", is_trained=False)
    return folder


def train(data, out, *more, cache=None, split="published"):
    arguments = [f"csv={data / 'mos.csv'}", "--weights", str(data / "start.safetensors"), "--out", str(out)]
    return main(["train", *arguments, "--cache", str(cache or data / "cache"), "--split", split, *FEW, *more])


def test_training_leaves_weights_that_say_what_they_are_and_scores_of_what_was_held_out(data, tmp_path, capsys):
    assert train(data, tmp_path / "run") == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(tmp_path / "run" / "weights.safetensors")
    assert "held out, 3 videos: srcc" in printed.err
    network, is_trained = load_weights(tmp_path / "run" / "weights.safetensors")
    assert is_trained and network.config.score_range == (1.0, pytest.approx(4.6))
    start, _ = load_weights(data / "start.safetensors")
    for name, tensor in start.extractor.state_dict().items():
        assert torch.equal(network.extractor.state_dict()[name], tensor)
    with open(tmp_path / "run" / "scores.csv", newline="") as file:
        scores = {row["video"]: float(row["score"]) for row in csv.DictReader(file)}
    assert set(scores) == {"1.mp4", "4.mp4", "7.mp4"}
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["checkpoint.safetensors", "scores.csv", "tensorboard", "weights.safetensors"]


def test_scores_of_a_run_are_what_evaluate_reads(data, tmp_path):
    assert train(data, tmp_path / "run") == 0
    scores = read_scores(tmp_path / "run" / "scores.csv", read_table("csv", data / "mos.csv"))
    assert set(scores.by_name) == {"1.mp4", "4.mp4", "7.mp4"}


def test_a_random_split_trains_on_its_eight_tenths(data, tmp_path):
    assert train(data, tmp_path / "run", split="3") == 0
    held_out = random_splits(read_table("csv", data / "mos.csv"))[2].test
    with open(tmp_path / "run" / "scores.csv", newline="") as file:
        assert {row["video"] for row in csv.DictReader(file)} == {row.name for row in held_out}


def test_all_holds_nothing_out(data, tmp_path):
    assert train(data, tmp_path / "run", split="all") == 0
    assert not (tmp_path / "run" / "scores.csv").exists()


def test_a_second_run_does_not_run_the_diffusion(data, tmp_path, monkeypatch):
    assert train(data, tmp_path / "a", cache=tmp_path / "cache") == 0
    entries = list((tmp_path / "cache").rglob("*.safetensors"))
    assert len(entries) == 4 * 7 + 3, "four places of each video that it learns from, one of each that is held out"

    def refuse(self, frames):
        raise AssertionError("the diffusion ran")

    monkeypatch.setattr(DiffVQA, "extract", refuse)
    assert train(data, tmp_path / "b", "--tcab", "none", "--seed", "1", cache=tmp_path / "cache") == 0
    network, _ = load_weights(tmp_path / "b" / "weights.safetensors")
    assert network.config.head.tcab.views == "none" and network.head.semantic.tcab is None


def test_adaptation_moves_the_controller_and_training_takes_it(data, tmp_path, capsys):
    arguments = [str(data), "--weights", str(data / "start.safetensors"), "--out", str(tmp_path)]
    few = ["--steps", "3", "--batch", "4", "--workers", "0"]
    assert main(["adapt", *arguments, *few]) == 0
    adapted = tmp_path / "adapted.safetensors"
    assert capsys.readouterr().out.strip() == str(adapted)
    before, after = load_file(data / "start.safetensors"), load_file(adapted)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith("extractor.controller.") for name in moved)
    assert load_weights(adapted)[1] is False


def test_a_run_killed_at_random_ends_with_the_bits_of_one_that_was_not(data, tmp_path):
    assert train(data, tmp_path / "whole", "--epochs", "10", "--checkpoint-steps", "1") == 0
    arguments = [f"csv={data / 'mos.csv'}", "--weights", str(data / "start.safetensors")]
    arguments += ["--out", str(tmp_path / "cut"), "--cache", str(data / "cache"), "--epochs", "10"]
    arguments += ["--checkpoint-steps", "1", "--workers", "0", "--cache-gigabytes", "1"]
    checkpoint = tmp_path / "cut" / "checkpoint.safetensors"
    generator, steps = random.Random(0), []
    for _ in range(2):
        wanted = (steps[-1] if steps else 0) + generator.randint(3, 9)
        process = subprocess.Popen([sys.executable, "-m", "diffvqa_rt.cli", "train", *arguments])
        while process.poll() is None and steps_in(checkpoint) < wanted:
            time.sleep(0.005)
        assert process.poll() is None, "it ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        steps.append(steps_in(checkpoint))
    assert 0 < steps[0] < steps[1] < 30
    assert main(["train", *arguments]) == 0
    for name in ("checkpoint.safetensors", "weights.safetensors"):
        cut, whole = (load_file(tmp_path / run / name) for run in ("cut", "whole"))
        assert cut.keys() == whole.keys() and all(torch.equal(cut[key], whole[key]) for key in cut), name
    assert (tmp_path / "cut" / "scores.csv").read_bytes() == (tmp_path / "whole" / "scores.csv").read_bytes()


def steps_in(checkpoint: Path) -> int:
    try:
        with safe_open(checkpoint, framework="pt") as file:
            return int(file.metadata()["step"])
    except FileNotFoundError:
        return 0


def test_two_processes_end_with_one_set_of_weights(data, tmp_path):
    """Runs torchrun on the CPU: the batch is split, the gradients are averaged, and the main process writes."""
    arguments = [
        f"csv={data / 'mos.csv'}",
        "--weights",
        str(data / "start.safetensors"),
        "--out",
        str(tmp_path / "run"),
    ]
    command = ["train", *arguments, "--cache", str(tmp_path / "cache"), "--batch", "2", *FEW]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "diffvqa_rt.cli"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch, *command], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines() == [str(tmp_path / "run" / "weights.safetensors")]
    with safe_open(tmp_path / "run" / "checkpoint.safetensors", framework="pt") as file:
        description, step = json.loads(file.metadata()["description"]), int(file.metadata()["step"])
    # Seven videos in two epochs, one of each two on each process.
    assert (description["processes"], description["data"]["batch"], step) == (2, 2, 6)
    assert load_weights(tmp_path / "run" / "weights.safetensors")[1]


def test_adaptation_goes_on_with_what_it_began_with_alone(data, tmp_path, capsys):
    """The sampler has steps and a schedule too, which are not the run's."""
    arguments = [str(data), "--weights", str(data / "start.safetensors"), "--out", str(tmp_path)]
    few = ["--batch", "2", "--workers", "0"]
    assert main(["adapt", *arguments, *few, "--steps", "1", "--schedule", "cosine"]) == 0
    capsys.readouterr()
    assert main(["adapt", *arguments, *few, "--steps", "2", "--schedule", "constant"]) == 1
    said = capsys.readouterr().err
    assert "whose steps is 1, now it is 2, and whose schedule is 'cosine', now it is 'constant'; choose" in said
    assert said.count("\n") == 1
    assert main(["adapt", *arguments, "--workers", "0", "--batch", "4", "--steps", "1", "--schedule", "cosine"]) == 1
    assert "whose batch is 2, now it is 4" in capsys.readouterr().err
    assert main(["adapt", *arguments, *few, "--steps", "1", "--schedule", "cosine"]) == 0


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Weights whose head has learned, on another range of opinions than `data` has."""
    network = with_new_head(load_weights(data / "start.safetensors")[0], SMALLEST, seed=7)
    path = tmp_path_factory.mktemp("trained") / "weights.safetensors"
    save_weights(network, path, is_trained=True)
    return path


HOW_LITTLE = ["--epochs", "1", "--learning-rate", "1e-12", "--weight-decay", "0"]


def head_difference(run, weights):
    """The largest distance of a weight of a run's head from the one of some weights."""
    one, other = load_file(run / "weights.safetensors"), load_file(weights)
    names = [name for name in other if name.startswith("head.") and other[name].is_floating_point()]
    return max(float((one[name] - other[name]).abs().max()) for name in names if "running" not in name)


def test_training_goes_on_from_a_trained_head_unless_told_otherwise(data, trained, tmp_path, capsys):
    """LSVQ first and then a smaller set, as the paper's Table 1 was made."""
    assert train(data, tmp_path / "tuned", "--weights", str(trained), *HOW_LITTLE) == 0
    assert f"head to start from: that of {trained}" in capsys.readouterr().err
    assert head_difference(tmp_path / "tuned", trained) < 1e-6
    network, _ = load_weights(tmp_path / "tuned" / "weights.safetensors")
    assert network.head.score_range == network.config.score_range == (1.0, pytest.approx(4.6))
    assert train(data, tmp_path / "new", "--weights", str(trained), "--new-head", *HOW_LITTLE) == 0
    assert "head to start from: a random one" in capsys.readouterr().err
    assert head_difference(tmp_path / "new", trained) > 0.01
    # A run remembers with which it began.
    assert train(data, tmp_path / "new", "--weights", str(trained), *HOW_LITTLE) == 1
    assert "whose new_head is True, now it is False" in capsys.readouterr().err
    assert train(data, tmp_path / "new", "--weights", str(trained), "--new-head", *HOW_LITTLE) == 0


def test_the_head_of_weights_that_were_not_trained_is_a_new_one(data, tmp_path):
    assert train(data, tmp_path / "run", *HOW_LITTLE, "--seed", "1") == 0
    assert head_difference(tmp_path / "run", data / "start.safetensors") > 0.01


def test_a_trained_head_of_another_size_is_refused_by_both_sizes(data, trained, tmp_path, capsys):
    other = ["--weights", str(trained), "--tcab", "none"]
    assert train(data, tmp_path / "run", *other) == 2
    said = capsys.readouterr().err
    heads = load_weights(trained)[0].head
    size = sum(parameter.numel() for parameter in heads.parameters())
    assert f"has {size:,} weights (--tcab both), and one of --tcab none has " in said and "give --new-head" in said
    assert train(data, tmp_path / "run", *other, "--new-head") == 0
    assert train(data, tmp_path / "other", "--weights", str(trained), "--videomamba", "gone.pth") == 2
    assert "--videomamba would take the place of what the head of" in capsys.readouterr().err


def test_a_head_learns_from_the_features_after_one_number_of_steps(data, trained, tmp_path, capsys):
    other = ["--weights", str(trained), "--denoising-steps", "1"]
    assert train(data, tmp_path / "run", *other) == 2
    said = capsys.readouterr().err
    assert "has learned from the features after 2 denoising steps, not 1; give --new-head" in said
    assert said.count("\n") == 1 and not (tmp_path / "run").exists()
    assert train(data, tmp_path / "run", *other, "--new-head", *HOW_LITTLE) == 0
    assert load_weights(tmp_path / "run" / "weights.safetensors")[0].config.sampler.steps == 1
    # The head of weights that were not trained is a new one anyway; the trained one's own number changes nothing.
    assert train(data, tmp_path / "adapted", "--denoising-steps", "1", *HOW_LITTLE) == 0
    assert train(data, tmp_path / "tuned", *other[:2], "--denoising-steps", "2", *HOW_LITTLE) == 0
    assert head_difference(tmp_path / "tuned", trained) < 1e-6


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--denoising-steps", "1001"], 2, "steps is 1001; expected 1 … train_steps (1000)"),
        (["--weights", "gone.safetensors"], 2, "gone.safetensors: no such weights file"),
        (["--batch", "100"], 1, "7 videos are fewer than a step's 100; lower --batch"),
        (["--learning-rate", "0"], 2, "learning_rate is 0.0; expected a positive number"),
        (["--videomamba", "gone.pth"], 2, "gone.pth is not a VideoMamba checkpoint"),
        (["--tcab", "none", "--videomamba", "gone.pth"], 2, "with --tcab none there are none"),
    ],
)
def test_a_mistake_is_one_sentence(data, tmp_path, capsys, arguments, status, sentence):
    assert train(data, tmp_path / "run", *arguments) == status
    printed = capsys.readouterr()
    assert sentence in printed.err and printed.err.count("\n") == 1 and not printed.out


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU takes fp16")
def test_half_precision_that_the_device_lacks_is_one_sentence(data, tmp_path):
    command = [sys.executable, "-m", "diffvqa_rt.cli", "train", f"csv={data / 'mos.csv'}", "--out", str(tmp_path)]
    command += ["--weights", str(data / "start.safetensors"), "--mixed-precision", "fp16"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "diffvqa: --mixed-precision fp16 cannot be had here: it needs a GPU; a CPU takes bf16\n"


def test_mistakes_are_found_before_anything_is_extracted(data, tmp_path, capsys):
    assert train(data, tmp_path / "run") == 0
    for mistake in (["--batch", "100"], ["--learning-rate", "0"], ["--seed", "1"], ["--tcab", "none"]):
        assert train(data, tmp_path / "run", *mistake, cache=tmp_path / "cache") != 0
        assert not (tmp_path / "cache").exists()


def test_a_table_without_a_training_split_says_what_to_choose(data, tmp_path, capsys):
    plain = tmp_path / "plain.csv"
    plain.write_text(f"video,mos\n{data / '1.mp4'},1\n{data / '2.mp4'},2\n")
    weights = ["--weights", str(data / "start.safetensors"), "--out", str(tmp_path / "run")]
    assert main(["train", f"csv={plain}", *weights]) == 1
    assert "has no published training split; choose --split 1 … 10, or all" in capsys.readouterr().err


def test_folders_without_media_are_one_sentence(data, tmp_path, capsys):
    weights = ["--weights", str(data / "start.safetensors"), "--out", str(tmp_path / "run")]
    assert main(["adapt", str(tmp_path), *weights]) == 1
    assert "no videos or images; expected .mp4" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named_before_anything_is_extracted(data, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert train(data, tmp_path / "file" / "run", cache=tmp_path / "cache") == 1
    assert f"the folder {tmp_path / 'file' / 'run'} cannot be made" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_a_run_in_a_folder_of_another_run_is_refused(data, tmp_path, capsys):
    assert train(data, tmp_path / "run") == 0
    capsys.readouterr()
    assert train(data, tmp_path / "run", "--seed", "1") == 1
    assert "is of a run whose" in capsys.readouterr().err
