"""The recipe of the bundled weights from end to end, at the smallest size."""

import dataclasses
import json
import shutil

import ablation
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from synthetic_clips import clip_of
from training_network import SMALLEST

from diffvqa_rt.errors import TrainingError
from diffvqa_rt.models.diffvqa.checkpoints import load_weights
from diffvqa_rt.synthetic.clip_table import read_manifest, write_manifest
from diffvqa_rt.synthetic.pool import Pool
from diffvqa_rt.synthetic.views import write_views
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
    head=FEW, diffusion_head_epochs=1, head_epochs=1, head_batch=2,
    train_ladders_per_scene=1, held_out_ladders_per_scene=1, cache_bytes=10**9,
)  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A set of two scenes to train on and one that is held out, each with one ladder: its views, and no files."""
    folder = tmp_path_factory.mktemp("work")
    made = []
    generator = np.random.default_rng(0)
    for scene in ("a", "b", "c"):
        for severity in range(6):
            label = 99.0 - 15 * severity
            split, distortion = "validation" if scene == "c" else "train", "h264" if severity else "reference"
            made.append(clip_of(scene, distortion, severity, [label, label - 2], split=split))
            views = folder / "synthetic" / made[-1].views
            views.parent.mkdir(parents=True, exist_ok=True)
            write_views(views, generator.integers(0, 255, (4, SMALLEST.frames, 3, 64, 64), np.uint8))
    write_manifest(folder / "synthetic", made)
    return folder


def test_a_set_that_was_stopped_is_completed_and_one_that_is_complete_is_not_made_again(tmp_path):
    made = []

    def make(config, pool, show):
        made.append(config)
        write_manifest(config.out, [])
        if len(made) == 1:
            raise KeyboardInterrupt

    build = WeightsBuild(SMALL, tmp_path, workers=0)

    def run():
        build.synthetic_set(tmp_path, None, fetch=lambda pool, media: Pool(items=(), files={}, missing=()), make=make)

    with pytest.raises(KeyboardInterrupt):
        run()
    run()
    run()
    assert len(made) == 2


@pytest.fixture(scope="module")
def build(work):
    made = WeightsBuild(SMALL, work, workers=0)
    made.head()
    return made


def test_every_stage_leaves_half_precision_weights_that_the_next_one_kept(build, work):
    names = ("vae", "unet", "tiny/controller", "tiny/diffusion-head", "tiny/head")
    files = {name.rpartition("/")[2]: load_file(work / f"{name}.safetensors") for name in names}
    assert all(x.dtype == torch.float16 for file in files.values() for x in file.values() if x.is_floating_point())
    before = {f"extractor.vae.{name}": tensor for name, tensor in files["vae"].items() if "decoder" not in name}
    for name, part in [
        ("unet", "vae"),
        ("controller", "unet"),
        ("diffusion-head", "controller"),
        ("head", "controller"),
    ]:
        kept = [key for key in files[name] if key.startswith(f"extractor.{part}.")]
        assert kept and all(torch.equal(files[name][key], before[key]) for key in kept)
        before = files[name]
    network, is_trained = load_weights(build.head())
    assert is_trained and network.config == SMALLEST
    assert load_decoder(build.decoder(), SMALLEST.vae)(torch.zeros(1, 4, 8, 8)).shape == (1, 3, 64, 64)


def test_a_second_call_makes_nothing_again(build, work):
    times = {path: path.stat().st_mtime_ns for path in work.rglob("*.safetensors")}
    WeightsBuild(SMALL, work, workers=0).head()
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*.safetensors")} == times


def test_networks_share_all_but_the_controller_and_the_head(build, work):
    """Of which `tiny-fast` has its own, of one step."""
    fast = SMALLEST.with_steps(1)
    fast = dataclasses.replace(fast, name="small-fast")
    before = {path: path.stat().st_mtime_ns for path in work.glob("*.safetensors")}
    made = WeightsBuild(dataclasses.replace(SMALL, network=fast), work, workers=0)
    network, _ = load_weights(made.head())
    assert made.head() == work / "small-fast" / "head.safetensors" and network.config == fast
    assert {path: path.stat().st_mtime_ns for path in work.glob("*.safetensors")} == before
    unet = load_weights(build.head())[0].extractor.unet.state_dict()
    assert all(torch.equal(x, unet[name]) for name, x in network.extractor.unet.state_dict().items())


def test_a_stage_that_is_there_does_not_ask_for_the_ones_before(build, work, tmp_path):
    kept = tmp_path / "tiny" / "controller.safetensors"
    kept.parent.mkdir()
    shutil.copyfile(build.controller(), kept)
    assert WeightsBuild(SMALL, tmp_path, workers=0).controller() == kept
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]


def test_a_run_of_another_start_is_not_taken_for_this_one(build, work):
    changed = dataclasses.replace(SMALL, draws=3)
    path = build.controller().rename(work / "kept")
    try:
        with pytest.raises(TrainingError, match="is of a run whose draws is 2, now it is 3"):
            WeightsBuild(changed, work, workers=0).controller()
    finally:
        path.rename(work / "tiny" / "controller.safetensors")


def test_pictures_are_drawn_again_where_the_recipe_or_the_set_is_another(work, tmp_path):
    shutil.copytree(work / "synthetic", tmp_path / "synthetic")

    def drawn(**changes):
        for run in ("vae.safetensors", "vae"):
            shutil.rmtree(tmp_path / run, ignore_errors=True)
            (tmp_path / run).unlink(missing_ok=True)
        WeightsBuild(dataclasses.replace(SMALL, **changes), tmp_path, workers=0).vae()
        return (tmp_path / "pictures.npy").read_bytes(), (tmp_path / "pictures-labels.npy").stat().st_mtime_ns

    (first, made), again, (other, _) = drawn(), drawn(), drawn(pictures_seed=6)
    assert again == (first, made) and other != first
    clips = read_manifest(tmp_path / "synthetic")
    write_manifest(tmp_path / "synthetic", [dataclasses.replace(clip, sha256="other") for clip in clips])
    # The same numbers are drawn, of what the set holds now.
    (redrawn, then) = drawn()
    assert redrawn == first and then > made


def test_a_tcab_of_another_recipe_is_named(build, tmp_path):
    other = ReadTcab(SMALLEST, frames=1)
    save_file(other.state_dict(), tmp_path / "tcab.safetensors")
    with pytest.raises(TrainingError, match="tcab.safetensors is of another recipe; delete it and head"):
        WeightsBuild(SMALL, tmp_path, workers=0).tcab()


def test_sources_that_the_set_is_without_are_named(tmp_path, capsys):
    made = []
    found = Pool(items=(), files={}, missing=("/none is not a folder of media; 533 contents are left out",))
    build = WeightsBuild(SMALL, tmp_path, workers=0)
    build.synthetic_set(
        tmp_path / "pool",
        tmp_path / "none",
        fetch=lambda pool, media: found,
        make=lambda config, pool, show: made.append((config.views.frames, config.views.size, pool)),
    )
    # The views are of as many frames as the network takes, and as large.
    assert made == [(2, 64, found)]
    assert "weights will be others: /none is not a folder of media; 533 contents are" in capsys.readouterr().err


def test_the_report_is_of_what_was_held_out(build):
    rows = build.report()
    assert [(row.name, row.clips, row.ladders) for row in rows] == [
        ("h264", 5, 1), ("codecs and scalings", 5, 1), ("all", 5, 1),
    ]  # fmt: skip


@pytest.mark.slow
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
