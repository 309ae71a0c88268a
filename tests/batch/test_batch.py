"""`diffvqa batch` on a real Ray cluster: every video once, its score the one of `diffvqa score`, whoever was killed."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clips import make_clip

pytest.importorskip("ray", reason="the extra `batch` is not installed")
pytest.importorskip("pyarrow", reason="the extra `batch` is not installed")

import psutil

from diffvqa_rt import Scorer, cli
from diffvqa_rt.batch.objects import write_object
from diffvqa_rt.batch.output import read_results
from diffvqa_rt.batch.run import rows_a_block
from diffvqa_rt.files import sha256_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_pipeline.py"


@pytest.fixture(scope="module")
def sources(tmp_path_factory, clip) -> list[Path]:
    folder = tmp_path_factory.mktemp("sources")
    (folder / "small.mp4").write_bytes(make_clip(size=(320, 240)))
    (folder / "wide.mkv").write_bytes(make_clip("libx264", "matroska", size=(400, 120), frames=5))
    return [clip, folder / "small.mp4", folder / "wide.mkv"]


@pytest.fixture(scope="module")
def expected(small_engines, sources) -> dict[str, float]:
    """The score of each source by the SHA-256 of its file."""
    with Scorer.open(small_engines) as scorer:
        return {sha256_of(path): scorer.score(path).score for path in sources}


def copies(folder: Path, sources: list[Path], count: int) -> Path:
    """A folder of so many videos, copies of the sources in turn."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        source = sources[number % len(sources)]
        shutil.copy(source, folder / f"{number:04}{source.suffix}")
    return folder


def assert_each_once(out: object, folder: Path, expected: dict[str, float]) -> None:
    rows = list(read_results(str(out)))
    assert sorted(row["id"] for row in rows) == sorted(map(str, folder.iterdir()))
    assert {row["score"] == expected[sha256_of(Path(row["source"]))] for row in rows} == {True}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "diffvqa_rt.cli", "batch", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def finished(arguments: list[str]) -> tuple[int, str]:
    """The exit status and standard error of a process: Ray reads the environment once, when it is imported."""
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment(), check=False)
    assert done.stdout == "" and "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_catalogue_is_scored_once_and_what_fails_is_a_row(
    ray_address, bucket, small_engines, sources, expected, tmp_path
):
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    write_object(f"{bucket}/clips/small.mp4", sources[1].read_bytes())
    rows = [
        ("frog", sources[0]),
        ("object", f"{bucket}/clips/small.mp4"),
        ("gone", f"{bucket}/clips/gone.mp4"),
        ("broken", tmp_path / "broken.mp4"),
        ("", ""),
        ("wide", f"file://{sources[2]}"),
    ]
    table = tmp_path / "list.csv"
    table.write_text("id,video\n" + "".join(f"{id},{video}\n" for id, video in rows) + "short row\n")
    out = f"{bucket}/scores"
    arguments = command(table, "--out", out, "--engines", small_engines, "--ray-address", ray_address)

    status, err = finished(arguments)
    first = {row["id"]: row for row in read_results(out)}
    scores = list(expected.values())
    assert [first[id]["score"] for id in ("frog", "object", "wide")] == scores
    assert [first[id]["source"] for id in ("frog", "object", "wide")] == [str(rows[n][1]) for n in (0, 1, 5)]
    failures = {id: row["error"] for id, row in first.items() if row["error"] is not None}
    assert failures == {
        "gone": f"{bucket}/clips/gone.mp4 is not there; check the name",
        "broken": failures["broken"],
        f"{table}, line 6": f"{table}, line 6: names no video",
        f"{table}, line 8": f"{table}, line 8: has 1 cells, and the header 2",
    }
    assert "broken.mp4 is not a video or image" in failures["broken"]
    assert status == 1
    assert sorted(err.splitlines()) == sorted(
        f"diffvqa: {line}" for line in (*failures.values(), f"3 scored, 4 failed, 0 left as they were; {out}")
    )

    write_object(f"{bucket}/clips/gone.mp4", sources[1].read_bytes())
    status, err = finished(arguments)
    assert status == 1 and "1 scored, 3 failed, 3 left as they were" in err
    second = {row["id"]: row for row in read_results(out)}
    assert second.keys() == first.keys() and second["gone"]["score"] == scores[1]
    assert second["frog"] == first["frog"]

    changed = [*arguments, "--seed", "1", "--model-changed-only"]
    table.write_text(table.read_text().replace("short row", f"new,{sources[0]}"))
    status, err = finished(changed)
    assert status == 1 and "4 scored, 1 failed, 2 left as they were" in err
    assert sorted(row["id"] for row in read_results(out) if row["seed"] == 1) == ["frog", "gone", "object", "wide"]


@pytest.mark.slow
def test_a_full_disk_ends_the_run_in_a_sentence_and_the_next_one_goes_on(
    ray_address, small_engines, sources, expected, tmp_path
):
    folder = copies(tmp_path / "videos", sources, 12)
    arguments = command(folder, "--out", tmp_path / "out", "--engines", small_engines, "--ray-address", ray_address)
    arguments += ["--rows-a-file", "4"]
    # No file of this process and its children may grow beyond a few kilobytes, fewer than a file of results takes.
    limited = ["bash", "-c", 'ulimit -f 4; trap "" XFSZ; exec "$@"', "bash", *arguments]
    status, err = finished(limited)
    assert status == 1 and "cannot be written (File too large)" in err
    assert not list(read_results(str(tmp_path / "out")))
    assert finished(arguments)[0] == 0
    assert_each_once(tmp_path / "out", folder, expected)


def test_engines_that_no_worker_can_open_end_the_run_in_a_sentence(ray_address, engines_copy, sources, tmp_path):
    manifest = json.loads((engines_copy / "manifest.json").read_text())
    (engines_copy / manifest["backends"]["onnx"]["engines"]["head"]["file"]).write_bytes(b"damaged")
    given = ["--out", tmp_path / "out", "--engines", engines_copy, "--ray-address", ray_address]
    status, err = finished(command(sources[0], *given))
    assert status == 1 and "the workers fail" in err and "EngineMismatchError" in err


def test_an_address_without_a_cluster_is_a_sentence(small_engines, sources, tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "out"), "--engines", str(small_engines), "--ray-address", "127.0.0.1:1"]
    assert cli.main(["batch", str(sources[0]), *arguments]) == 1
    assert "no Ray cluster can be reached at 127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "batch", "workers", "expected"),
    [
        (1, 1, 2, 1),
        (200, 1, 2, 1),
        (640, 1, 2, 5),
        (2000, 1, 2, 8),
        (2000, 4, 2, 12),
        (2000, 1, 64, 1),
        (10**7, 1, 2, 100),
    ],
)
def test_blocks_are_many_for_every_worker_and_no_more_than_ray_can_bear(rows, batch, workers, expected):
    assert rows_a_block(rows, batch, workers) == expected


def test_what_cannot_be_meant_is_refused_before_anything_starts(small_engines, sources, tmp_path, capsys):
    given = ["--out", str(tmp_path / "out"), "--engines", str(small_engines)]
    assert cli.main(["batch", str(sources[0]), *given, "--frames", "4"]) == 2
    assert "frames is 4" in capsys.readouterr().err
    assert cli.main(["batch", str(tmp_path / "nothing"), *given]) == 1
    assert "is not there" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_example_runs(small_engines, sources, expected):
    arguments = [sys.executable, EXAMPLE, small_engines, "0", *sources]
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    printed = [line.split() for line in done.stdout.splitlines() if line.endswith("CC-BY")]
    assert [score for score, _, _ in printed] == [f"{score:.3f}" for score in sorted(expected.values(), reverse=True)]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "DecodeVideos", "ScoreVideos"])
def test_whoever_is_killed_each_video_is_scored_once(small_engines, sources, expected, tmp_path, victim):
    folder = copies(tmp_path / "videos", sources, 200)
    arguments = command(folder, "--out", tmp_path / "out", "--engines", small_engines, "--rows-a-file", "10")
    with subprocess.Popen(arguments, env=environment()) as run:
        wait_for_files(tmp_path / "out", 3, run)
        os.kill(run.pid if victim == "driver" else workers_below(run.pid, victim)[0], signal.SIGKILL)
        status = run.wait()
    assert status == (-signal.SIGKILL if victim == "driver" else 0)
    done = len(list(read_results(str(tmp_path / "out"))))
    assert done < 200 if victim == "driver" else done == 200
    assert subprocess.run(arguments, env=environment(), check=False).returncode == 0
    assert_each_once(tmp_path / "out", folder, expected)


POISON = """
import os, signal
from diffvqa_rt.scoring import Scorer

sound = Scorer.score_prepared

def score_prepared(self, videos):
    if any("poison" in video.name for video in videos):
        os.kill(os.getpid(), signal.SIGKILL)
    return sound(self, videos)

Scorer.score_prepared = score_prepared
"""


@pytest.mark.slow
def test_a_video_that_ends_its_worker_costs_itself_alone(small_engines, sources, expected, tmp_path, monkeypatch):
    folder = copies(tmp_path / "videos", sources, 6)
    poison = folder / "poison.mp4"
    shutil.copy(sources[1], poison)
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(POISON)
    monkeypatch.syspath_prepend(tmp_path / "hook")
    status, err = finished(command(folder, "--out", tmp_path / "out", "--engines", small_engines))
    assert status == 1 and "6 scored, 1 failed" in err
    errors = {row["source"]: row["error"] for row in read_results(str(tmp_path / "out")) if row["error"] is not None}
    assert errors.keys() == {str(poison)} and "ended its worker" in errors[str(poison)]


@pytest.mark.slow
def test_two_nodes_share_the_work(small_engines, sources, expected, tmp_path, two_nodes):
    address, nodes = two_nodes
    folder = copies(tmp_path / "videos", sources, 60)
    given = ["--out", tmp_path / "out", "--engines", small_engines, "--ray-address", address]
    at_work = set()
    with subprocess.Popen(command(folder, *given), env=environment()) as run:
        while run.poll() is None:
            at_work |= {node for node in nodes if workers_below(node, "ScoreVideos")}
            time.sleep(0.2)
    assert run.returncode == 0 and at_work == set(nodes)
    assert_each_once(tmp_path / "out", folder, expected)


def wait_for_files(out: Path, count: int, run: subprocess.Popen, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert run.poll() is None, "the run has ended before it was killed"
        if len(list(out.rglob("*.parquet"))) >= count:
            return
        time.sleep(0.05)
    pytest.fail("no results come")


def workers_below(process: int, stage: str) -> list[int]:
    """The processes of a stage's workers among the descendants of a node, or of the driver that has started one."""
    found = []
    for child in psutil.Process(process).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [child.pid] * (stage in " ".join(child.cmdline()[:1]))
    return found
