"""`diffvqa train` with `--metric aigc_vqa`, as a user meets it."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from prompted_network import SMALL
from prompted_opinions import save_prompted_clips
from safetensors import safe_open
from safetensors.torch import load_file

from diffvqa_rt.cli import main
from diffvqa_rt.metrics.aigc_vqa.engines import engine_specs
from diffvqa_rt.metrics.aigc_vqa.fusion import fuse
from diffvqa_rt.metrics.aigc_vqa.presets import PAPER, TINY, TINY_VOCABULARY, find_vocabulary
from diffvqa_rt.models.aigc_vqa.checkpoints import load_weights
from diffvqa_rt.models.aigc_vqa.network import AigcVqa, random_network
from diffvqa_rt.models.weights import save_weights
from diffvqa_rt.synthetic.labelled import LabelledVideo
from diffvqa_rt.text.wordpiece import WordPiece
from diffvqa_rt.training.aigc_vqa.calibration import predict_numbers
from diffvqa_rt.training.aigc_vqa.clips import PromptedClips
from diffvqa_rt.training.aigc_vqa.stages import BRANCHES

VISUAL = {"technical", "aesthetic"}
ALIGNMENT = {"vision", "adapter", "text_encoder", "reward"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Nine clips with prompts and opinions on 1 … 5, six of them for training, and weights that learned nothing."""
    folder = tmp_path_factory.mktemp("data")
    save_prompted_clips(folder, 9, held_out=3)
    torch.manual_seed(0)
    save_weights(AigcVqa(SMALL), folder / "start.safetensors", is_trained=False)
    return folder


def train(data, out, stage, *more, weights=None, table="mos.csv"):
    few = ["--epochs", "2", "--batch", "3", "--learning-rate", "1e-3", "--workers", "0", "--unfixed", "70"]
    arguments = [f"csv={data / table}", "--stage", str(stage), "--weights", str(weights or data / "start.safetensors")]
    return main(["train", "--metric", "aigc_vqa", *arguments, "--out", str(out), *few, *more])


def moved(before, after):
    """The parts of the network that two files of weights differ in."""
    one, other = load_file(before), load_file(after)
    assert one.keys() == other.keys()
    return {name.split(".")[0] for name in one if not torch.equal(one[name], other[name])}


def test_three_stages_teach_their_branches_one_after_the_other(data, tmp_path, capsys):
    """What a stage does not teach stays as the one before has left it; the third has taught all."""
    before = data / "start.safetensors"
    for stage, parts in ((1, VISUAL), (2, ALIGNMENT), (3, VISUAL | ALIGNMENT)):
        assert train(data, tmp_path / str(stage), stage, weights=before) == 0
        after = tmp_path / str(stage) / "weights.safetensors"
        printed = capsys.readouterr()
        assert printed.out.strip() == str(after) and "learned from, 6 videos, " in printed.err
        assert moved(before, after) == parts
        network, is_trained = load_weights(after)
        assert is_trained == (stage == 3) and network.config.score_range == (1.0, 5.0)
        before = after
    assert named(printed.err, "held out, 3 videos") == ["technical", "aesthetic", "alignment", "sum"]
    assert "best epoch, chosen on what is held out: main " in printed.err
    assert sorted(path.name for path in (tmp_path / "3").iterdir()) == [
        "best.safetensors", "checkpoint.safetensors", "scores.csv", "tensorboard", "weights.safetensors",
    ]  # fmt: skip
    with open(tmp_path / "3" / "scores.csv", newline="") as file:
        assert [row["video"] for row in csv.DictReader(file)] == ["6.mp4", "7.mp4", "8.mp4"]


def named(said, side):
    """The branches whose agreement is said for a side, in order."""
    lines = [line.removeprefix(f"{side}, ") for line in said.splitlines() if line.startswith(f"{side}, ")]
    return [line.partition(":")[0] for line in lines]


def numbers_of(network, data, branches):
    """What the network says of the clips that it learned from, as scoring with seed 0 sees them."""
    with open(data / "mos.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    videos = [
        LabelledVideo(name=r["video"], path=data / r["video"], label=float(r["mos"]), prompt=r["prompt"]) for r in rows
    ]
    words = WordPiece.read(TINY_VOCABULARY, SMALL.text.vocabulary_sha256)
    numbers = predict_numbers(network, videos, PromptedClips(network.config, videos, words), branches)
    return numbers, np.array([video.label for video in videos])


def test_the_saved_weights_score_on_the_scale_of_the_opinions(data, tmp_path):
    """Seven numbers, fitted on what was learned from, stand in the description that engines are built with."""
    assert train(data, tmp_path, 3) == 0
    network, _ = load_weights(tmp_path / "weights.safetensors")
    config = network.config
    assert config == dataclasses.replace(SMALL, score_range=(1.0, 5.0), calibration=config.calibration)
    assert engine_specs(config) == engine_specs(SMALL)
    numbers, opinions = numbers_of(network, data, BRANCHES)
    for name, values in numbers.items():
        assert getattr(config.calibration, name) == pytest.approx(values.mean())
    shape = (1, config.temporal_tokens, config.map_side, config.map_side)
    scores = [
        fuse(config, {"technical_map": np.full(shape, t), "aesthetic_map": np.full(shape, a), "alignment_score": [s]})
        for t, a, s in zip(*numbers.values(), strict=True)
    ]
    total = sum(numbers.values())
    expected = np.polyval(np.polyfit(total, opinions, 1), total)
    np.testing.assert_allclose([score["score"][0] for score in scores], expected, rtol=1e-4)


def test_stage_one_needs_no_prompts_and_leaves_the_prompts_calibration(data, tmp_path, capsys):
    with open(data / "mos.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(data / "silent.csv", "w", newline="") as file:
        csv.writer(file).writerows([("video", "mos", "split"), *((r["video"], r["mos"], r["split"]) for r in rows)])
    assert train(data, tmp_path / "1", 1, table="silent.csv") == 0
    calibration = load_weights(tmp_path / "1" / "weights.safetensors")[0].config.calibration
    assert calibration.base_visual == pytest.approx(np.mean([float(r["mos"]) for r in rows[:6]]))
    assert (calibration.base, calibration.scale, calibration.alignment) == (50.0, 10.0, 0.0)
    capsys.readouterr()
    assert train(data, tmp_path / "2", 2, table="silent.csv") == 1
    assert "6 of 6 videos have no prompt, the first of them 0.mp4; give the table a column" in capsys.readouterr().err


class StoppedError(Exception):
    pass


def stop_after_saves(monkeypatch, count):
    """Lets the run's checkpoint be written so many times, and then fails as a kill would."""
    from diffvqa_rt.training.checkpoint import Checkpoint

    save, saved = Checkpoint.save, []

    def save_and_stop(self, step, scaler=None):
        save(self, step, scaler)
        saved.append(step)
        if len(saved) == count:
            raise StoppedError

    monkeypatch.setattr(Checkpoint, "save", save_and_stop)


def test_a_killed_run_ends_with_the_bits_of_one_that_was_not(data, tmp_path, monkeypatch):
    """With dropout, stochastic depth and pieces from other places in each epoch; and in two passes."""
    options = ["--checkpoint-steps", "1", "--gradient-checkpointing"]
    assert train(data, tmp_path / "whole", 3, *options) == 0
    with monkeypatch.context() as patch:
        stop_after_saves(patch, 3)
        with pytest.raises(StoppedError):
            train(data, tmp_path / "cut", 3, *options)
    assert not (tmp_path / "cut" / "weights.safetensors").exists()
    assert train(data, tmp_path / "cut", 3, *options) == 0
    for file in ("weights", "checkpoint", "best"):
        cut, whole = (tmp_path / run / f"{file}.safetensors" for run in ("cut", "whole"))
        assert moved(cut, whole) == set(), file
    descriptions = [load_weights(tmp_path / run / "weights.safetensors")[0].config for run in ("cut", "whole")]
    assert descriptions[0] == descriptions[1]


def test_the_runs_schedule_is_the_papers(data, tmp_path):
    """By default AdamW at 3e-5 with a decay of 0.05, which rises for 2.5 epochs and falls to 0 over 50."""
    arguments = [f"csv={data / 'mos.csv'}", "--stage", "2", "--out", str(tmp_path), "--split", "all"]
    start = ["--weights", str(data / "start.safetensors"), "--epochs", "4", "--workers", "0"]
    assert main(["train", "--metric", "aigc_vqa", *arguments, *start]) == 0
    with safe_open(tmp_path / "checkpoint.safetensors", framework="pt") as file:
        kept = json.loads(file.metadata()["description"])
    run, stage = kept["run"], kept["stage"]
    assert (run["learning_rate"], run["weight_decay"], run["schedule"]) == (3e-5, 0.05, "cosine")
    # Nine videos are one step of eight an epoch.
    assert (run["steps"], run["warm_up_steps"], kept["data"]["batch"]) == (4, 2, 8)
    assert (stage["branches"], stage["unfixed_percent"]) == (["alignment"], 70)


def test_a_table_of_the_paper_is_a_few_options(data, tmp_path, capsys):
    """Table 2: branches in the sum; Table 4: unfixed; Table 5: no adapter; Table 6: a stage without the others."""
    options = ["--branches", "alignment,technical", "--unfixed", "40", "--no-adapter", "--branch-loss-weight", "0"]
    assert train(data, tmp_path, 3, *options) == 0
    network, is_trained = load_weights(tmp_path / "weights.safetensors")
    assert network.config.adapter is None and network.adapter is None and not is_trained
    assert named(capsys.readouterr().err, "learned from, 6 videos") == ["technical", "alignment", "sum"]
    with safe_open(tmp_path / "checkpoint.safetensors", framework="pt") as file:
        stage = json.loads(file.metadata()["description"])["stage"]
    assert stage == {
        "branches": ["technical", "alignment"], "unfixed_percent": 40, "learns_sum": True, "branch_loss_weight": 0.0,
        "has_adapter": False,
    }  # fmt: skip


def test_published_checkpoints_fill_the_branches_that_the_stage_teaches(data, tmp_path, capsys):
    """The others stay as the stage before has left them."""
    other = random_network(SMALL, seed=3).state_dict()
    reward = {f"mlp.layers.{n.removeprefix('reward.layers.')}": x for n, x in other.items() if n.startswith("reward.")}
    vision = {f"blip.visual_encoder.{n[7:]}": x for n, x in other.items() if n.startswith("vision.")}
    text = {f"blip.{n}": x for n, x in other.items() if n.startswith("text_encoder.")}
    torch.save(reward | vision | text, tmp_path / "ImageReward.pt")
    torch.save({"unread": torch.zeros(1)}, tmp_path / "DOVER.pth")
    still = ["--learning-rate", "1e-12", "--weight-decay", "0"]
    assert train(data, tmp_path / "run", 2, "--checkpoints", str(tmp_path), *still) == 0
    assert "they start from ImageReward, and where these have none " in capsys.readouterr().err
    found = load_file(tmp_path / "run" / "weights.safetensors")
    torch.testing.assert_close(found["vision.blocks.0.attn.qkv.weight"], other["vision.blocks.0.attn.qkv.weight"])
    assert moved(data / "start.safetensors", tmp_path / "run" / "weights.safetensors") <= ALIGNMENT


@pytest.mark.parametrize(
    ("stage", "arguments", "status", "sentence"),
    [
        (1, ["--branches", "alignment"], 2, "--branches is alignment; stage 1 teaches technical and aesthetic"),
        (1, ["--branch-loss-weight", "0"], 2, "branch_loss_weight is 0.0; expected over 0 where the loss has no L(s)"),
        (1, ["--weights", "gone.safetensors"], 2, "gone.safetensors: no such weights file"),
        (1, ["--checkpoints", "gone"], 2, "gone has none of DOVER, Swin, ConvNeXt (.safetensors or .pth or .pt)"),
        (2, ["--vocabulary", "gone.txt"], 2, "vocabulary is gone.txt, which is no file"),
        (1, ["--batch", "100"], 1, "6 videos are fewer than a step's 100; lower --batch"),
    ],
)
def test_a_mistake_is_one_sentence(data, tmp_path, capsys, stage, arguments, status, sentence):
    assert train(data, tmp_path / "run", stage, *arguments) == status
    printed = capsys.readouterr()
    assert sentence in printed.err and printed.err.count("\n") == 1 and not printed.out


def test_a_video_that_cannot_be_decoded_is_named(data, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "mos.csv").write_text(f"video,prompt,mos\nbroken.mp4,a ball,1\n{data / '1.mp4'},a ball,2\n")
    assert (
        train(tmp_path, tmp_path / "run", 1, "--split", "all", "--batch", "2", weights=data / "start.safetensors") == 1
    )
    assert "broken.mp4" in capsys.readouterr().err


def test_a_run_in_the_folder_of_another_stage_is_refused_by_what_differs(data, tmp_path, capsys):
    assert train(data, tmp_path, 1) == 0
    capsys.readouterr()
    assert train(data, tmp_path, 1, "--unfixed", "50") == 1
    assert "is of a run whose unfixed_percent is 70, now it is 50" in capsys.readouterr().err


def test_the_package_has_the_vocabulary_of_tiny_alone():
    assert find_vocabulary(TINY, None) == TINY_VOCABULARY
    with pytest.raises(ValueError, match="paper spells prompts with a vocabulary that the package does not bring"):
        find_vocabulary(PAPER, None)


def test_there_is_nothing_to_adapt(capsys):
    for arguments in (["photos/", "--out", "run"], []):
        assert main(["adapt", "--metric", "aigc_vqa", *arguments]) == 2
        said = capsys.readouterr().err
        assert said == "diffvqa: adapt: AIGC-VQA has no such stage; `diffvqa train` trains all of it\n"
    with pytest.raises(SystemExit) as ended:
        main(["adapt", "--metric", "aigc_vqa", "--help"])
    assert ended.value.code == 0 and "AIGC-VQA has no such stage" in " ".join(capsys.readouterr().out.split())
