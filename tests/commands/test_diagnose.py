"""`diffvqa diagnose` as a user meets it."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from clips import make_clip
from synthetic_clips import clip_of
from training_runs import write_events

from diffvqa_rt import cli
from diffvqa_rt.extras import install_command
from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.models.diffvqa.network import random_network
from diffvqa_rt.models.weights import save_weights
from diffvqa_rt.synthetic.clip_table import write_manifest
from diffvqa_rt.training.diffvqa.decoder import VaeDecoder, save_decoder

SMALL = dataclasses.replace(TINY, frames=2, view_size=64)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Everything that the command takes, in one folder."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    save_weights(random_network(SMALL), folder / "weights.safetensors", is_trained=False)
    save_decoder(VaeDecoder(SMALL.vae), folder / "decoder.safetensors")
    (folder / "clip.mp4").write_bytes(make_clip(size=(96, 64), frames=3))
    write_events(folder / "run", [("loss", 1 / step, step) for step in range(1, 4)])
    clips = [
        clip_of(content, distortion, severity)
        for content in ("cat", "dog")
        for distortion in ("h264", "low_light")
        for severity in (3, 4, 5)
    ]
    for clip in clips:
        path = folder / "set" / clip.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_clip(size=(64 + 16 * clip.severity, 64), frames=2))
    write_manifest(folder / "set", clips)
    return folder


@pytest.fixture
def diagnose(tmp_path, capsys):
    """Runs `diffvqa diagnose --out …/out ARGS`; returns (status, stdout, stderr)."""

    def run(*arguments):
        status = cli.main(["diagnose", "--out", str(tmp_path / "out"), *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


def pictures(tmp_path):
    return {path.name for path in (tmp_path / "out").iterdir() if path.read_bytes().startswith(b"\x89PNG")}


def test_every_picture_whose_inputs_are_given_is_made(inputs, diagnose, tmp_path):
    network = ["--weights", inputs / "weights.safetensors"]
    status, out, err = diagnose(
        *network, "--decoder", inputs / "decoder.safetensors", "--data", inputs / "set", "--run", inputs / "run",
        inputs / "clip.mp4",
    )  # fmt: skip
    assert status == 0 and pictures(tmp_path) == {"curves.png", "reconstructions.png", "tsne.png"}
    assert "These weights are untrained" in err and err.count("diffvqa: wrote ") == 3
    lines = out.splitlines()
    assert [line.split("  ")[-1] for line in lines[2:4]] == [
        f"{inputs}/clip.mp4, {view} view" for view in ("semantic", "distortion")
    ]
    assert [line.partition(": ")[0] for line in lines[4:]] == [
        f"F_DFF-{view[0].upper()} ({view} view) by {by}"
        for view in ("semantic", "distortion")
        for by in ("content", "distortion")
    ]
    assert all("silhouette" in line and "(chance " in line for line in lines[4:])


def test_curves_need_no_weights(inputs, diagnose, tmp_path):
    status, out, err = diagnose("--run", inputs / "run")
    assert status == 0 and pictures(tmp_path) == {"curves.png"}
    assert out == "" and err == f"diffvqa: wrote {tmp_path}/out/curves.png\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "there is nothing to draw; give videos with --weights and --decoder, --data with --weights, or --run"),
        (["--weights", "w"], "there is nothing to draw; give"),
        (["--weights", "w", "clip.mp4"], "the reconstruction of videos needs --weights and --decoder"),
        (["--decoder", "d", "clip.mp4"], "the reconstruction of videos needs --weights and --decoder"),
        (["--data", "set"], "t-SNE of --data needs --weights"),
        (["--run", "r", "--decoder", "d"], "--decoder is for videos, and none is given"),
        (["--weights", "w", "--decoder", "d", *["clip.mp4"] * 21], "21 videos are too many for one picture"),
    ],
)
def test_arguments_that_do_not_fit_together_are_misuse(diagnose, tmp_path, arguments, sentence):
    status, out, err = diagnose(*arguments)
    assert status == 2 and out == "" and err.startswith(f"diffvqa: {sentence}") and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_video_that_cannot_be_read_is_left_out(inputs, diagnose, tmp_path):
    (tmp_path / "diary.mp4").write_text("Dear diary")
    command = ["--weights", inputs / "weights.safetensors", "--decoder", inputs / "decoder.safetensors"]
    status, out, err = diagnose(*command, tmp_path / "diary.mp4", inputs / "clip.mp4")
    assert status == 1 and "diary.mp4 is not a video" in err
    assert out.count(" view\n") == 2 and pictures(tmp_path) == {"reconstructions.png"}
    status, out, err = diagnose(*command, tmp_path / "diary.mp4")
    assert status == 1 and out == "" and "no video could be read" in err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--run", "nowhere"], "nowhere/tensorboard has no event files"),
        (["--weights", "nowhere", "--data", "{}/set"], "nowhere: no such weights file"),
        (["--weights", "{}/clip.mp4", "--data", "{}/set"], "clip.mp4 is not a safetensors file"),
        (["--weights", "{}/weights.safetensors", "--data", "nowhere"], "nowhere/manifest.csv cannot be read"),
        (["--weights", "{}/weights.safetensors", "--data", "{}/set", "--split", "train"], "the set has 0 clips of 0"),
        (
            ["--weights", "{}/weights.safetensors", "--decoder", "{}/weights.safetensors", "{}/clip.mp4"],
            "weights.safetensors does not fit this network",
        ),
    ],
)
def test_what_is_not_there_is_one_sentence(inputs, diagnose, arguments, complaint):
    status, out, err = diagnose(*(argument.format(inputs) for argument in arguments))
    assert status == 1 and out == "" and complaint in err
    assert [line.startswith("diffvqa: ") for line in err.splitlines()] == [True] * err.count("\n")


def test_training_clips_of_a_set_that_keeps_views_alone_are_one_sentence(inputs, diagnose, tmp_path):
    clips = [
        clip_of(content, distortion, severity, split="train")
        for content in ("cat", "dog")
        for distortion in ("h264", "low_light")
        for severity in (3, 4, 5)
    ]
    write_manifest(tmp_path, clips)
    command = ["--weights", inputs / "weights.safetensors", "--data", tmp_path, "--split", "train"]
    status, out, err = diagnose(*command)
    assert status == 1 and out == "" and err.count("\n") == 2 and "These weights are untrained" in err
    assert f"diffvqa: {tmp_path} has the views of its training clips, and not their files; make one with --keep-" in err


def test_weights_of_a_training_that_diverged_are_one_sentence(inputs, diagnose, tmp_path):
    network = random_network(SMALL)
    network.extractor.controller.conv_in.weight.data[0, 0, 0, 0] = torch.nan
    save_weights(network, tmp_path / "diverged.safetensors", is_trained=True)
    status, out, err = diagnose("--weights", tmp_path / "diverged.safetensors", "--data", inputs / "set")
    assert status == 1 and out == ""
    assert "has values in extractor.controller.conv_in.weight that are no finite numbers" in err


def test_the_command_needs_no_extra_package_until_it_runs(tmp_path):
    program = (
        "import sys\n"
        "absent = {'sklearn', 'matplotlib', 'tensorboard', 'diffusers', 'torch'}\n"
        "sys.modules |= dict.fromkeys(absent)\n"
        "from diffvqa_rt import cli\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "diagnose"]
    help_text = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert "reconstructions.png  --weights --decoder VIDEO..." in help_text
    result = subprocess.run([*command, "--run", str(tmp_path)], capture_output=True, text=True, check=False)
    assert result.returncode == 1 and result.stdout == ""
    assert f"which is not installed: {install_command('train')}\n" in result.stderr
    assert result.stderr.count("\n") == 1
