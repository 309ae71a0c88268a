"""README: its length, what its first screen prints, and that its links lead somewhere."""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from shell_blocks import ROOT, blocks, commands

README = ROOT / "README.md"
# What a newcomer looks for, and where README sends them.
WANTED = {
    "score a folder of videos to CSV": "docs/scoring.md#a-folder-to-csv",
    "know what the number means, and when not to trust it": "docs/meaning.md",
    "build engines for a GPU": "docs/building.md#for-a-gpu",
    "serve over gRPC, and watch the server": "docs/serving.md",
    "train on your own opinions": "docs/training.md#on-your-own-opinions",
}
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_readme_has_at_most_800_words():
    assert len(README.read_text(encoding="utf-8").split()) <= 800


@pytest.mark.parametrize("wish", WANTED)
def test_what_a_newcomer_looks_for_is_one_click_away(wish):
    text = README.read_text(encoding="utf-8")
    assert re.search(rf"^\| {re.escape(wish)} \| \[[^]]+\]\({re.escape(WANTED[wish])}\) \|$", text, re.MULTILINE)


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))], ids=str)
def test_links_lead_to_files_of_the_repository(page):
    targets = [target.partition("#")[0] for target in LINK.findall(page.read_text(encoding="utf-8"))]
    lost = [target for target in targets if target and "://" not in target and not (page.parent / target).exists()]
    assert lost == []


def assert_alike(printed: str, expected: str, tolerance: float) -> None:
    """The same words, and numbers that are off by no more than the tolerance: another processor rounds otherwise."""
    number = re.compile(r"\d+\.\d+")
    assert number.sub("#", printed) == number.sub("#", expected)
    found, wanted = ([float(text) for text in number.findall(side)] for side in (printed, expected))
    assert found == pytest.approx(wanted, abs=tolerance)


@pytest.fixture
def checkout(built_engines, tmp_path) -> Path:
    """The folder in which README's reader stands, once the engines are built."""
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "tiny").symlink_to(built_engines)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def test_the_command_prints_what_readme_shows(checkout):
    text = commands(README)[-1].text
    assert "diffvqa score" in text
    run = subprocess.run(["bash", "-c", text], cwd=checkout, env=os.environ, capture_output=True, text=True, check=True)
    without_seconds = re.compile(r"(\d\.\d{3} +) \d+\.\d\d ")
    printed, shown = (without_seconds.sub(r"\1", side) for side in (run.stdout, blocks(README, "")[0]))
    assert_alike(printed.replace(" ", ""), shown.replace(" ", ""), 0.01)


def test_python_prints_what_readme_shows(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    (block,), printed = blocks(README, "python"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, "README.md", "exec"), {})
    assert_alike(printed.getvalue(), blocks(README, "")[1], 0.11)
