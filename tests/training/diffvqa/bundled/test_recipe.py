"""The recipe of the bundled weights from end to end, at the smallest size."""

import dataclasses
import json
import shutil

import ablation
import pytest
import torch
from clips import make_clip
from safetensors.torch import load_file, save_file
from training_network import SMALLEST

from diffvqa_rt.errors import TrainingError
from diffvqa_rt.models.diffvqa.checkpoints import load_weights
from diffvqa_rt.synthetic.clip_table import SyntheticClip, write_manifest
from diffvqa_rt.synthetic.pool import Pool
from diffvqa_rt.training.diffvqa.bundled.recipe import Recipe, TrainingStage
from diffvqa_rt.training.diffvqa.bundled.stages import WeightsBuild
from diffvqa_rt.training.diffvqa.bundled.tcab_pretraining import ReadTcab
from diffvqa_rt.training.diffvqa.decoder import load_decoder
from diffvqa_rt.training.loop import FitConfig

FEW = FitConfig(steps=2, learning_rate=1e-3, weight_decay=0.0)
SMALL = Recipe(
    network=SMALLEST, pictures=6, normalized_over=4,
    vae=FEW, vae_batch=2, vae_patch=64, unet=FEW, controller=FEW, denoising_batch=2, draws=2,
    tcab=(
        TrainingStage(name="tcab-parts", frames=1, across=2, batch=8, fit=FEW),
        TrainingStage(name="tcab-clips", frames=SMALLEST.frames, across=1, batch=2, fit=FEW),
    ),
    head=FEW, head_epochs=1, head_batch=2, train_ladders_per_scene=1, held_out_ladders_per_scene=1, cache_bytes=10**9,
)  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A set of two scenes to train on and one that is held out, each with one ladder."""
    folder = tmp_path_factory.mktemp("work")
    made = []
    for number, scene in enumerate(("a", "b", "c")):
        for severity in range(6):
            file = folder / "synthetic" / "scenes" / scene / f"{severity}.mp4"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(make_clip(size=(80, 64), frames=4 + number + 3 * severity))
            made.append(
                SyntheticClip(
                    file=f"scenes/{scene}/{severity}.mp4", content=scene, group=scene, kind="photo", scene=scene,
                    split="validation" if scene == "c" else "train", distortion="h264" if severity else "reference",
                    severity=severity, label_kind="vmaf", label=99.0 - 15 * severity, steps=[], frame_count=4,
                    frame_rate_hz=25.0, motion_levels=1.0, source={}, seed=0, sha256="", bytes=1, versions={},
                )
            )  # fmt: skip
    write_manifest(folder / "synthetic", made)
    return folder


@pytest.fixture(scope="module")
def build(work):
    made = WeightsBuild(SMALL, work, workers=0)
    made.head()
    return made


def test_every_stage_leaves_half_precision_weights_that_the_next_one_kept(build, work):
    files = {name: load_file(work / f"{name}.safetensors") for name in ("vae", "unet", "controller", "head")}
    assert all(x.dtype == torch.float16 for file in files.values() for x in file.values() if x.is_floating_point())
    before = {f"extractor.vae.{name}": tensor for name, tensor in files["vae"].items() if "decoder" not in name}
    for name, part in [("unet", "vae"), ("controller", "unet"), ("head", "controller")]:
        kept = [key for key in files[name] if key.startswith(f"extractor.{part}.")]
        assert kept and all(torch.equal(files[name][key], before[key]) for key in kept)
        before = files[name]
    network, is_trained = load_weights(work / "head.safetensors")
    assert is_trained and network.config == SMALLEST
    assert load_decoder(build.decoder(), SMALLEST.vae)(torch.zeros(1, 4, 8, 8)).shape == (1, 3, 64, 64)


def test_a_second_call_makes_nothing_again(build, work):
    times = {path: path.stat().st_mtime_ns for path in work.glob("*.safetensors")}
    WeightsBuild(SMALL, work, workers=0).head()
    assert {path: path.stat().st_mtime_ns for path in work.glob("*.safetensors")} == times


def test_a_stage_that_is_there_does_not_ask_for_the_ones_before(build, work, tmp_path):
    shutil.copyfile(work / "controller.safetensors", tmp_path / "controller.safetensors")
    assert WeightsBuild(SMALL, tmp_path, workers=0).controller() == tmp_path / "controller.safetensors"
    assert [path.name for path in tmp_path.iterdir()] == ["controller.safetensors"]


def test_a_run_of_another_start_is_not_taken_for_this_one(build, work):
    changed = dataclasses.replace(SMALL, draws=3)
    (work / "controller.safetensors").rename(work / "kept")
    try:
        with pytest.raises(TrainingError, match="is of a run whose draws is 2, now it is 3"):
            WeightsBuild(changed, work, workers=0).controller()
    finally:
        (work / "kept").rename(work / "controller.safetensors")


def test_arrays_that_were_made_of_something_else_are_made_again(build, work):
    kept = json.loads((work / "pictures.json").read_text())
    assert kept["count"] == 6 and (work / "frames.json").exists()
    made = []

    def make(path, show):
        path.write_text("")
        made.append(path.name)

    def made_after(**changes):
        WeightsBuild(SMALL, work, workers=0).array_file("array", kept | changes, make)
        return len(made)

    changes = [{}, {}, {"seed": 1}, {"decoding": 1}, {"decoding": 1}]
    assert [made_after(**change) for change in changes] == [1, 1, 2, 3, 3]


def test_a_tcab_of_another_recipe_is_named(build, tmp_path):
    other = ReadTcab(SMALLEST, frames=1)
    save_file(other.state_dict(), tmp_path / "tcab.safetensors")
    with pytest.raises(TrainingError, match="tcab.safetensors is of another recipe; delete it and head"):
        WeightsBuild(SMALL, tmp_path, workers=0).tcab()


def test_sources_that_the_set_is_without_are_named(tmp_path, capsys):
    made = []
    found = Pool(items=(), files={}, missing=("/none is not a folder of clips; 14 contents are left out",))
    build = WeightsBuild(SMALL, tmp_path, workers=0)
    build.synthetic_set(
        tmp_path / "pool",
        tmp_path / "none",
        fetch=lambda pool, clips: found,
        make=lambda config, pool, show: made.append(pool),
    )
    assert made == [found]
    assert "weights will be others: /none is not a folder of clips; 14 contents are left out" in capsys.readouterr().err


def test_the_report_is_of_what_was_held_out(build):
    rows = build.report()
    assert [(row.name, row.clips, row.ladders) for row in rows] == [
        ("h264", 5, 1), ("codecs and scalings", 5, 1), ("all", 5, 1),
    ]  # fmt: skip


def test_ablations_train_and_are_measured_alike(build, work, capsys):
    out = work / "ablation.json"
    arguments = ["--work", str(work), "--out", str(out), "--lines", "no TCAB,K=1"]
    arguments += ["--epochs", "1", "--train-scenes", "2", "--held-out-scenes", "1"]
    assert ablation.main(arguments, SMALL) == 0
    lines = json.loads(out.read_text())["lines"]
    assert list(lines) == ["no TCAB", "K=1"] and all(row[-1]["clips"] == 5 for row in lines.values())
    assert "| no TCAB: codecs and scalings |" in capsys.readouterr().out


def test_a_line_that_there_is_not_is_named(work, capsys):
    with pytest.raises(SystemExit, match="2"):
        ablation.main(["--work", str(work), "--out", "x.json", "--lines", "K=3"])
    assert "there is no line K=3; expected some of K=10, no Controller" in capsys.readouterr().err
