"""The programs of examples/ run as their first lines say, and print what this package scores."""

import csv
import os
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from diffvqa_rt import Scorer

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs an example in this process; returns the lines that it prints."""

    def run_example(name: str, *arguments: object) -> list[str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run_example


@pytest.fixture
def score(small_engines, clip) -> float:
    with Scorer.open(small_engines) as scorer:
        return scorer.score(clip).score


def test_a_folder_is_scored_into_a_table(run, small_engines, clip, score, tmp_path):
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    (tmp_path / "videos" / "deep" / "frog.mp4").symlink_to(clip)
    (tmp_path / "videos" / "broken.mov").write_bytes(b"no video")
    (tmp_path / "videos" / "notes.txt").touch()
    out = tmp_path / "scores.csv"
    assert run("score_folder.py", small_engines, tmp_path / "videos", out) == [f"1 scored, 1 failed; {out}"]
    good, bad = csv.DictReader(out.read_text(encoding="utf-8").splitlines())
    assert good["video"].endswith("deep/frog.mp4") and float(good["score"]) == score
    assert float(good["worst_frame_seconds"]) >= 0
    assert (bad["score"], bad["video"]) == ("", str(tmp_path / "videos" / "broken.mov")) and "broken.mov" in bad[
        "notes"
    ]


def free_ports_in_a_row(count: int) -> int:
    """The first of them; another process may take one before it is used, which is seldom."""
    for first in range(20000, 30000, count):
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first
    raise AssertionError("no ports are free")


def test_a_server_scores(run, small_engines, clip, score):
    pytest.importorskip("served", reason="Triton server or its client is not installed")
    lines = run("serve_and_score.py", small_engines, free_ports_in_a_row(3), clip, "nowhere.mp4")
    assert lines[0] == f"{score:.3f} {clip}"
    assert lines[1].startswith("failed nowhere.mp4: ") and "cannot be read" in lines[1]


def test_own_weights_are_built_and_scored(run, small_engines, small_weights, clip, score, tmp_path):
    # A build takes up the steps of one before it: here those of the session's build of the same weights.
    for suffix in ("", ".work"):
        shutil.copytree(f"{small_engines}{suffix}", tmp_path / f"engines{suffix}")
    *_, facts, line = run("own_weights.py", small_weights, tmp_path / "engines", clip)
    assert facts.startswith("weights ") and facts.endswith("trained: True")
    assert line == f"{score:.3f} {clip}"


def test_a_metric_is_added(clip, tmp_path):
    # In a process of its own: it adds a name to the registry.
    command = [sys.executable, str(EXAMPLES / "add_a_metric.py"), str(tmp_path / "engines"), str(clip)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    score, video = done.stdout.splitlines()[-1].split()
    # As NumPy computes it of the frames, decoded to squares.
    assert video == str(clip) and float(score) == pytest.approx(contrast(clip), abs=1e-4)


def contrast(clip: Path) -> float:
    import numpy as np
    from PIL import Image

    from diffvqa_rt.video import sample_frames

    frames = sample_frames(clip, 4).frames
    pictures = np.array([np.asarray(Image.fromarray(frame).resize((64, 64))) for frame in frames]) / 255
    return float(np.abs(np.diff(pictures, axis=2)).mean())


def test_every_example_is_listed():
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"`{path.name}`" in page for path in EXAMPLES.iterdir() if path.name != "README.md")
