"""The commands and the Python of docs/ that take no time: they run, page by page, on files as a reader has."""

import contextlib
import csv
import importlib.util
import io
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from PIL import Image
from shell_blocks import ROOT, ShellCommand, blocks, commands

CHEAP = {"score", "info", "plan", "evaluate"}
# What in a command says that it needs more than that, and what it needs.
NEEDS = {
    "=/data/": "a data set that others publish",
    "runs/": "a network that was trained",
    "build/mine": "a network that was trained",
    "tensorrt": "an NVIDIA GPU",
}
PAGES = ["scoring", "pictures", "generated-videos", "building", "planning", "evaluating"]
PYTHON_PAGES = ["scoring", "generated-videos"]


def cheap_commands(page: str) -> list[ShellCommand]:
    of_page = commands(ROOT / "docs" / f"{page}.md")
    ours = [command for command in of_page if command.program == "diffvqa" and command.words[1] in CHEAP]
    return [command for command in ours if not any(sign in command.text for sign in NEEDS)]


@pytest.fixture
def readers_folder(small_engines, diffv2iqa_engines, prompted_engines, clip, tmp_path) -> Path:
    """Engines and media by the names that the pages use, and tables of opinions and scores."""
    (tmp_path / "build").mkdir()
    engines = {"tiny": small_engines, "diffv2iqa-tiny": diffv2iqa_engines, "aigc_vqa-tiny": prompted_engines}
    for name, folder in engines.items():
        (tmp_path / "build" / name).symlink_to(folder)
    for name in ("clip.mp4", "other.mov", "videos/first.mp4", "samples/a.mp4", "a.mp4", "b.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(clip, tmp_path / name)
    Image.effect_noise((320, 240), 64).convert("RGB").save(tmp_path / "photo.jpg")
    frames = [Image.effect_noise((320, 240), 64).convert("RGB") for _ in range(8)]
    frames[0].save(tmp_path / "sample.gif", save_all=True, append_images=frames[1:], duration=100)
    (tmp_path / "prompts.csv").write_text("video,prompt\na.mp4,a cat\n")
    clips = [f"clips/{number:03}.mp4" for number in range(40)]
    (tmp_path / "clips").mkdir()
    for name in clips:
        (tmp_path / name).touch()
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    tables = {"mine.csv": ("mos", 1), "dover.csv": ("score", 3), "mine_scores.csv": ("score", 7)}
    for name, (column, step) in tables.items():
        rows = [f"{video},{(step * place) % 40 + 1}" for place, video in enumerate(clips)]
        (tmp_path / name).write_text("\n".join([f"video,{column}", *rows]))
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_run(page, readers_folder):
    scripts = sysconfig.get_path("scripts")
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}"}
    ours = cheap_commands(page)
    assert ours
    for command in ours:
        line = ["bash", "-c", command.text]
        run = subprocess.run(line, cwd=readers_folder, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, f"{command}\n{run.stdout}{run.stderr}"
        assert run.stdout or command.writes, command
    if page == "scoring":
        with (readers_folder / "scores.csv").open() as file:
            (row,) = csv.DictReader(file)
        assert row["source"] == "videos/first.mp4" and float(row["score"]) and row["error"] == ""
    if page == "planning":
        assert run.stdout in (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_the_python_runs(page, readers_folder, monkeypatch):
    monkeypatch.chdir(readers_folder)
    for block in blocks(ROOT / "docs" / f"{page}.md", "python"):
        if "import pyiqa" in block and importlib.util.find_spec("pyiqa") is None:
            continue  # no test needs it to be installed
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, page, "exec"), {})
        assert printed.getvalue()
