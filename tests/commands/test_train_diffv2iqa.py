"""`diffvqa adapt` and `diffvqa train` with `--metric diffv2iqa`, as a user meets them."""

import csv
import dataclasses

import pytest
import torch
from restoring_network import SMALLEST, save_stills
from safetensors.torch import load_file

from diffvqa_rt.cli import main
from diffvqa_rt.models.diffv2iqa.checkpoints import load_weights
from diffvqa_rt.models.diffv2iqa.network import DiffV2IQA, random_network
from diffvqa_rt.models.weights import save_weights
from diffvqa_rt.training.diffv2iqa.restoration import start_as_copy

OURS = ["--metric", "diffv2iqa", "--workers", "0"]
FEW = ["--epochs", "3", "--batch", "2", "--crops", "2", "--cache-gigabytes", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten pictures with opinions on 0 … 9 and weights that are not trained, nor even adapted."""
    folder = tmp_path_factory.mktemp("data")
    paths = save_stills(folder, 10, 64)
    with open(folder / "mos.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "mos", "content", "split"])
        for number, path in enumerate(paths):
            writer.writerow([path.name, number, f"content {number // 2}", "test" if number >= 8 else "train"])
    torch.manual_seed(0)
    network = DiffV2IQA(SMALLEST)
    start_as_copy(network.restorer)
    save_weights(network, folder / "start.safetensors", is_trained=False)
    return folder


def adapt(data, out, *more):
    few = ["--steps", "6", "--batch", "4", "--crop-side", "16", "--learning-rate", "1e-3"]
    return main(
        ["adapt", *OURS, str(data), "--weights", str(data / "start.safetensors"), "--out", str(out), *few, *more]
    )


def train(data, out, *more, weights=None):
    arguments = [f"csv={data / 'mos.csv'}", "--weights", str(weights or data / "start.safetensors"), "--out", str(out)]
    return main(["train", *OURS, *arguments, "--cache", str(data / "cache"), *FEW, *more])


def moved(before, after):
    """The parts of the network that two files of weights differ in."""
    one, other = load_file(before), load_file(after)
    assert one.keys() == other.keys()
    return {name.split(".")[0] for name in one if not torch.equal(one[name], other[name])}


def test_adapting_teaches_the_restorer_says_how_well_and_leaves_the_score_untrained(data, tmp_path, capsys):
    assert adapt(data, tmp_path) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(tmp_path / "adapted.safetensors")
    lines = printed.err.strip().splitlines()
    assert lines[-6] == "error of the noise by steps left, 1 for guessing zero, at 16² and at 32² pixels:"
    assert [line.split()[1] for line in lines[-5:-1]] == ["1", "2", "3", "4"]
    assert lines[-1].startswith("PSNR of the restored pictures ")
    assert moved(data / "start.safetensors", tmp_path / "adapted.safetensors") == {"restorer"}
    network, is_trained = load_weights(tmp_path / "adapted.safetensors")
    assert network.config == SMALLEST and is_trained is False
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adapted.safetensors", "checkpoint.safetensors", "tensorboard",
    ]  # fmt: skip


class StoppedError(Exception):
    pass


def stop_after_steps(monkeypatch, count, save_path):
    """Lets the run's checkpoint be written so many times, and then fails as a kill would."""
    from diffvqa_rt.training.checkpoint import Checkpoint

    save, saved = Checkpoint.save, []

    def save_and_stop(self, step, scaler=None):
        save(self, step, scaler)
        saved.append(step)
        if len(saved) == count:
            raise StoppedError

    monkeypatch.setattr(Checkpoint, "save", save_and_stop)


@pytest.mark.parametrize(("command", "name"), [(adapt, "adapted"), (train, "weights")])
def test_a_stopped_run_ends_with_the_bits_of_one_that_was_not(data, tmp_path, monkeypatch, command, name):
    often = ["--checkpoint-steps", "1"]
    options = [*often, "--validation-percent", "30", "--split", "all"] if command is train else often
    assert command(data, tmp_path / "whole", *options) == 0
    with monkeypatch.context() as patch:
        stop_after_steps(patch, 4, tmp_path)
        with pytest.raises(StoppedError):
            command(data, tmp_path / "cut", *options)
    assert not (tmp_path / "cut" / f"{name}.safetensors").exists()
    assert command(data, tmp_path / "cut", *options) == 0
    for file in (name, "checkpoint"):
        cut, whole = (load_file(tmp_path / run / f"{file}.safetensors") for run in ("cut", "whole"))
        assert cut.keys() == whole.keys() and all(torch.equal(cut[key], whole[key]) for key in cut), file


def test_a_restorer_that_does_not_carry_over_ends_the_run(data, tmp_path, capsys):
    """As the statistics of the random start do, which no picture has."""
    save_weights(random_network(SMALLEST), tmp_path / "odd.safetensors", is_trained=False)
    assert adapt(data, tmp_path / "run", "--weights", str(tmp_path / "odd.safetensors"), "--steps", "1") == 1
    said = capsys.readouterr().err
    assert (
        "worse than guessing zero" in said.splitlines()[-1] and not (tmp_path / "run" / "adapted.safetensors").exists()
    )


def test_training_moves_the_branches_and_says_how_they_agree(data, tmp_path, capsys):
    assert train(data, tmp_path) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(tmp_path / "weights.safetensors")
    assert "learned from, 8 pictures: L1 " in printed.err and "held out, 2 pictures: L1 " in printed.err
    network, is_trained = load_weights(tmp_path / "weights.safetensors")
    assert is_trained and network.config.score_range == (0.0, 9.0)
    assert moved(data / "start.safetensors", tmp_path / "weights.safetensors") == {"vcg", "vda"}
    with open(tmp_path / "scores.csv", newline="") as file:
        assert [row["video"] for row in csv.DictReader(file)] == ["008.png", "009.png"]


def test_training_goes_on_from_trained_branches_and_takes_new_ones_otherwise(data, tmp_path, capsys):
    little = ["--learning-rate", "1e-12", "--weight-decay", "0"]
    assert train(data, tmp_path / "new", *little) == 0
    said = capsys.readouterr().err
    assert "branches to start from: random ones" in said
    assert "ViT and ResNet: as " in said and "random where that is what `diffvqa adapt` wrote" in said
    trained = tmp_path / "new" / "weights.safetensors"
    assert train(data, tmp_path / "on", *little, weights=trained) == 0
    assert f"branches to start from: those of {trained}" in capsys.readouterr().err
    one, other = load_file(trained), load_file(tmp_path / "on" / "weights.safetensors")
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)
    assert train(data, tmp_path / "other", *little, "--seed", "1") == 0
    seeded = load_file(tmp_path / "other" / "weights.safetensors")
    assert not all(torch.allclose(one[name], seeded[name], atol=1e-2) for name in one)


def test_another_encoder_below_trained_branches_is_refused(data, tmp_path, capsys):
    trained = tmp_path / "trained.safetensors"
    save_weights(load_weights(data / "start.safetensors")[0], trained, is_trained=True)
    assert train(data, tmp_path / "run", "--vit", "vit.pth", weights=trained) == 2
    assert "has branches that learned to read its own ViT and ResNet; leave --vit" in capsys.readouterr().err


def test_with_a_validation_share_the_best_epoch_is_kept(data, tmp_path, monkeypatch, capsys):
    """D29; contents stay on one side."""
    from diffvqa_rt.training.best import BestWeights

    wanted, seen = iter([0.1, 0.9, 0.5]), []
    consider = BestWeights.consider

    def consider_instead(self, value):
        seen.append({name: tensor.clone() for name, tensor in self._module.state_dict().items()})
        consider(self, next(wanted))

    monkeypatch.setattr(BestWeights, "consider", consider_instead)
    assert train(data, tmp_path, "--split", "all", "--validation-percent", "40") == 0
    assert "learned from, 6 pictures" in (said := capsys.readouterr().err) and "validation, 4 pictures: L1" in said
    kept = load_file(tmp_path / "weights.safetensors")
    assert len(seen) == 3 and all(torch.equal(kept[name], tensor) for name, tensor in seen[1].items())
    assert not all(torch.equal(kept[name], tensor) for name, tensor in seen[2].items())


def test_encoders_come_from_checkpoints_and_learn_when_told(data, tmp_path):
    network = load_weights(data / "start.safetensors")[0]
    vit = {name: tensor + 0.01 for name, tensor in network.vit.state_dict().items()}
    torch.save(vit, tmp_path / "vit.pth")
    assert train(data, tmp_path / "frozen", "--vit", str(tmp_path / "vit.pth")) == 0
    kept = load_weights(tmp_path / "frozen" / "weights.safetensors")[0].vit.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in vit.items())
    assert train(data, tmp_path / "learning", "--train-encoders", "--learning-rate", "1e-3") == 0
    assert moved(data / "start.safetensors", tmp_path / "learning" / "weights.safetensors") == {
        "vcg", "vda", "vit", "resnet",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("command", "arguments", "status", "sentence"),
    [
        (adapt, ["--weights", "gone.safetensors"], 2, "gone.safetensors: no such weights file"),
        (adapt, ["--crop-side", "20"], 2, "crop side is 20; expected a multiple of 8"),
        (adapt, ["--crop-side", "40"], 2, "at most 32, the view's side"),
        (adapt, ["--learning-rate", "0"], 2, "learning_rate is 0.0; expected a positive number"),
        (adapt, ["--sr3", "gone.pth"], 2, "gone.pth is not an SR3 checkpoint"),
        (train, ["--weights", "gone.safetensors"], 2, "gone.safetensors: no such weights file"),
        (train, ["--vit", "gone.pth"], 2, "gone.pth is not a ViT checkpoint"),
        (train, ["--batch", "100"], 1, "8 videos are fewer than a step's 100; lower --batch"),
        (train, ["--validation-percent", "10"], 1, "leave 6 to learn from and 2 opinions to choose an epoch by"),
    ],
)
def test_a_mistake_is_one_sentence(data, tmp_path, capsys, command, arguments, status, sentence):
    assert command(data, tmp_path / "run", *arguments) == status
    printed = capsys.readouterr()
    assert sentence in printed.err and printed.err.count("\n") == 1 and not printed.out


def test_a_run_in_a_folder_of_another_restorers_run_is_refused(data, tmp_path, capsys):
    assert train(data, tmp_path / "run") == 0
    network = random_network(dataclasses.replace(SMALLEST, kept=(1, 3)))
    save_weights(network, tmp_path / "other.safetensors", is_trained=False)
    capsys.readouterr()
    assert train(data, tmp_path / "run", weights=tmp_path / "other.safetensors") == 1
    assert "is of a run whose kept is [1, 2], now it is [1, 3]" in capsys.readouterr().err


def test_an_unknown_distortion_lists_the_known_ones(data, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        adapt(data, tmp_path, "--ladders", "fog,jpeg")
    assert ended.value.code == 2
    assert "fog is no type of distortion; expected some of scaling, " in capsys.readouterr().err


def test_each_metric_has_arguments_of_its_own(capsys):
    for metric, its, others in [("diffvqa", "--videomamba", "--vit"), ("diffv2iqa", "--vit", "--videomamba")]:
        with pytest.raises(SystemExit) as ended:
            main(["train", "--metric", metric, "--help"])
        said = capsys.readouterr().out
        assert ended.value.code == 0 and its in said and others not in said
    with pytest.raises(SystemExit) as ended:
        main(["train", "--metric", "vmaf", "--help"])
    with pytest.raises(SystemExit):
        main(["adapt", "--metric", "vmaf", "x", "--out", "y"])
    assert "invalid choice: 'vmaf'" in capsys.readouterr().err
