"""The synthetic set from end to end: the same bytes again, after a kill too; labels that fall; a manifest read back."""

import hashlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import painting

from diffvqa_rt.errors import SyntheticSetError
from diffvqa_rt.synthetic.clip_files import read_clip, write_clip
from diffvqa_rt.synthetic.clip_table import SyntheticClip, read_manifest
from diffvqa_rt.synthetic.distortions import LADDERS
from diffvqa_rt.synthetic.make import SyntheticConfig, ladders_for, main, make_synthetic_set
from diffvqa_rt.synthetic.pool import Pool, PoolItem


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Pool:
    """Two photographs, a video that moves, one that stands still, and one that is not there."""
    folder = tmp_path_factory.mktemp("pool")
    painting(0, 500, 320).save(folder / "one.png")
    painting(1, 500, 320).save(folder / "two.png")
    wide = np.asarray(painting(2, 500, 200))
    write_clip(
        folder / "moving.mp4", np.stack([wide[:120, 5 * t : 5 * t + 200] for t in range(30)]), Fraction(15), crf=5
    )
    write_clip(folder / "still.mp4", np.stack([wide[:120, :200]] * 14), Fraction(15), crf=5)

    def item(name: str, kind: str, size: tuple[int, int]) -> PoolItem:
        path, content = folder / name, Path(name).stem
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "0" * 64
        return PoolItem(
            kind=kind,
            content=content,
            group=content,
            package="clips",
            path=name,
            sha256=digest,
            width=size[0],
            height=size[1],
            licence="CC0",
        )

    items = (
        item("one.png", "photo", (500, 320)),
        item("two.png", "photo", (500, 320)),
        item("absent.png", "photo", (500, 320)),
        item("moving.mp4", "video", (200, 120)),
        item("still.mp4", "video", (200, 120)),
    )
    files = {entry.content: folder / entry.path for entry in items if (folder / entry.path).exists()}
    return Pool(items=items, files=files, missing=())


def config(out: Path, **changes) -> SyntheticConfig:
    small = SyntheticConfig(
        out=out, width=96, height=56, frames=12, ladders=("h264", "gaussian_blur", "freeze"), validation_share=0.5
    )
    return replace(small, **changes)


def contents_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def made(ffmpeg, pool, tmp_path_factory) -> SyntheticConfig:
    """A small set, not to be changed."""
    small = config(tmp_path_factory.mktemp("set") / "a", jobs=2)
    make_synthetic_set(small, pool)
    return small


def test_a_set_holds_what_its_manifest_says(made, pool):
    clips = read_manifest(made.out)
    # Two photographs twice and two cuts of the moving video have three ladders; of 14 frames one cut, no freeze.
    names = {clip.scene: clip.split for clip in clips}
    assert sorted(names) == ["moving-0", "moving-1", "one", "one-1", "still-0", "two", "two-1"]
    assert len(clips) == 6 * 16 + 11
    assert not [clip for clip in clips if clip.scene == "still-0" and clip.distortion == "freeze"]
    for clip in clips:
        path = made.out / clip.file
        assert hashlib.sha256(path.read_bytes()).hexdigest() == clip.sha256 and path.stat().st_size == clip.bytes
        assert read_clip(path).shape == (12, 56, 96, 3) and clip.frame_count == 12
        assert clip.seed == 0 and set(clip.versions) == {"diffvqa-rt", "av", "numpy", "pillow", "ffmpeg"}
        assert clip.frame_rate_hz == (24 if clip.kind == "photo" else 15)
        if clip.label_kind == "order":
            assert clip.label is None and clip.distortion == "freeze"
        else:
            assert 0 <= clip.label <= 100
        assert [step["effect"] for step in clip.steps] == ([] if clip.severity == 0 else [clip.distortion])
    files = {path.relative_to(made.out).as_posix() for path in made.out.rglob("*.mp4")}
    assert files == {clip.file for clip in clips} and not list(made.out.rglob("*.part"))
    # The split is of contents.
    sides = {clip.group: {other.split for other in clips if other.group == clip.group} for clip in clips}
    assert all(len(side) == 1 for side in sides.values()) and {side.copy().pop() for side in sides.values()} == {
        "train",
        "validation",
    }


def test_recorded_parameters_make_the_clip_again(made, tmp_path):
    """The steps of a row, applied to its reference by hand, give its file."""
    clips = read_manifest(made.out)
    clip = next(clip for clip in clips if clip.distortion == "h264" and clip.severity == 4 and clip.scene == "one")
    reference = read_clip(made.out / "scenes/one/reference.mp4")
    write_clip(tmp_path / "again.mp4", reference, Fraction(24), codec="h264", crf=clip.steps[0]["crf"])
    assert hashlib.sha256((tmp_path / "again.mp4").read_bytes()).hexdigest() == clip.sha256
    frozen = next(
        clip for clip in clips if clip.distortion == "freeze" and clip.severity == 5 and clip.scene == "moving-0"
    )
    shown = frozen.steps[0]["shown_frames"]
    source = read_clip(made.out / "scenes/moving-0/reference.mp4").astype(float)
    error = np.abs(read_clip(made.out / frozen.file) - source[shown]).mean()
    assert error < 3 < np.abs(source - source[shown]).mean()


def test_a_set_has_the_same_bytes_again_by_one_process_and_after_damage(made, pool, tmp_path):
    again = config(tmp_path / "b")
    make_synthetic_set(again, pool)
    expected = contents_of(made.out)
    assert contents_of(again.out) == expected
    # As interrupted runs, full disks and people leave things.
    scene = again.out / "scenes" / "one"
    (scene / "h264-2.mp4").unlink()
    (scene / "h264-4.mp4").write_bytes(b"half")
    (scene / "gaussian_blur.jsonl").write_text((scene / "gaussian_blur.jsonl").read_text()[:-700])
    (scene / "freeze.jsonl").unlink()
    (again.out / "manifest.csv").unlink()
    kept = (scene / "h264-1.mp4").stat().st_mtime_ns
    make_synthetic_set(again, pool)
    assert contents_of(again.out) == expected and (scene / "h264-1.mp4").stat().st_mtime_ns == kept


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(made, pool, tmp_path):
    small = config(tmp_path / "c", jobs=2)
    script = tmp_path / "run.py"
    script.write_text(
        "import pickle, sys\n"
        "from diffvqa_rt.synthetic.make import make_synthetic_set\n"
        "if __name__ == '__main__':\n"
        "    make_synthetic_set(*pickle.loads(sys.stdin.buffer.read()))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    run = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, env=environment)
    run.stdin.write(pickle.dumps((small, pool)))
    run.stdin.close()
    deadline = time.monotonic() + 60
    while len(list(small.out.rglob("*.mp4"))) < 8 and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    # Its processes notice within a second, and write no more.
    time.sleep(2)
    count = len(list(small.out.rglob("*.mp4")))
    assert 8 <= count < 75
    time.sleep(0.5)
    assert len(list(small.out.rglob("*.mp4"))) == count and not (small.out / "manifest.csv").exists()
    make_synthetic_set(small, pool)
    assert contents_of(small.out) == contents_of(made.out)


def test_a_set_grows_and_what_was_there_stays(made, pool, tmp_path):
    small = config(tmp_path / "d", contents=2, ladders=("h264",))
    few = make_synthetic_set(small, pool)
    before = contents_of(small.out)
    many = make_synthetic_set(replace(small, contents=5), pool)
    assert {clip.content for clip in few} < {clip.content for clip in many}
    after = contents_of(small.out)
    assert all(after[name] == content for name, content in before.items() if name != "manifest.csv")


def test_other_settings_are_refused_for_a_folder(made, pool):
    for change, sentence in [
        ({"seed": 1}, "holds a set whose seed is 0, now it is 1; choose another folder"),
        ({"frames": 14}, "holds a set whose frames is 12, now it is 14"),
    ]:
        with pytest.raises(SyntheticSetError, match=sentence):
            make_synthetic_set(replace(made, **change), pool)


def test_a_run_stops_at_its_disk_limit_with_a_manifest_of_what_is_there(ffmpeg, pool, tmp_path):
    small = config(tmp_path / "e", max_gigabytes=1e-4)
    with pytest.raises(
        SyntheticSetError, match=r"the set has 0.00 GB after \d+ of \d+ clips, over its limit of 0.0001"
    ):
        make_synthetic_set(small, pool)
    clips = read_manifest(small.out)
    assert 0 < len(clips) < 30 and sum(clip.bytes for clip in clips) > 1e5


def ladders_of(clips: list[SyntheticClip]) -> dict[str, list[str]]:
    """The ladders of each scene, in the manifest's order."""
    found: dict[str, list[str]] = {}
    for clip in clips:
        ladders = found.setdefault(clip.scene, [])
        if clip.severity == 1:
            ladders.append(clip.distortion)
    return found


def test_a_narrower_set_lists_the_drawn_ladders_of_a_folder_that_holds_more(made, pool, tmp_path):
    wide = replace(made, out=tmp_path / "f")
    shutil.copytree(made.out, wide.out)
    narrow = make_synthetic_set(replace(wide, ladders_per_scene=2), pool)
    assert narrow == read_manifest(wide.out) and ladders_of(narrow) == {
        "moving-0": ["gaussian_blur", "freeze"],
        "moving-1": ["h264", "freeze"],
        "one": ["h264", "freeze"],
        "one-1": ["gaussian_blur", "freeze"],
        # Of what stands still a freeze is not seen: there is none to draw.
        "still-0": ["h264", "gaussian_blur"],
        "two": ["h264", "freeze"],
        "two-1": ["h264", "gaussian_blur"],
    }
    make_synthetic_set(wide, pool)
    assert contents_of(wide.out) == contents_of(made.out)


def test_a_set_makes_as_many_ladders_of_each_scene_as_were_asked_for_and_counts_to_them(ffmpeg, pool, tmp_path):
    calls: list[tuple[int, int]] = []
    narrow = config(tmp_path / "g", ladders=("h264", "freeze", "judder"), ladders_per_scene=2)
    clips = make_synthetic_set(narrow, pool, lambda done, expected: calls.append((done, expected)))
    ladders = ladders_of(clips)
    # Two of the three need motion.
    assert ladders.pop("still-0") == ["h264"] and {len(names) for names in ladders.values()} == {2}
    assert {path.relative_to(narrow.out).as_posix() for path in narrow.out.rglob("*.mp4")} == {c.file for c in clips}
    assert calls[-1] == (len(clips), len(clips)) and [done for done, _ in calls] == sorted(done for done, _ in calls)


def drawn(made: SyntheticConfig, scene: str = "one", **changes) -> list[str]:
    """The ladders of a scene that moves."""
    reference = next(clip for clip in read_manifest(made.out) if clip.file == "scenes/one/reference.mp4")
    drawing = replace(made, ladders=tuple(LADDERS), **{"ladders_per_scene": 6} | changes)
    return ladders_for(drawing, [replace(reference, scene=scene)])


def test_the_ladders_of_a_scene_depend_on_the_seed_and_its_name_alone(made, tmp_path):
    first = drawn(made)
    assert first == drawn(made, out=tmp_path, contents=1, jobs=7, max_gigabytes=1.0, validation_share=0.1)
    assert first != drawn(made, seed=1) and first != drawn(made, scene="two")
    # A wider set keeps what a narrower one drew; over all scenes no ladder is rare.
    assert set(drawn(made, ladders_per_scene=3)) < set(first)
    assert drawn(made, ladders_per_scene=None) == drawn(made, ladders_per_scene=99) == list(LADDERS)
    counts = Counter(name for scene in range(400) for name in drawn(made, scene=f"scene {scene}"))
    # A share of 6 / 20 of 400, and five deviations.
    assert set(counts) == set(LADDERS) and all(abs(count - 120) < 46 for count in counts.values())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"width": 353}, "the size is 353x56; expected even numbers"),
        ({"frames": 7}, "frames is 7; expected at least 8"),
        ({"jobs": 0}, "jobs is 0; expected at least 1"),
        ({"contents": 0}, "contents is 0; expected at least 1, or None"),
        ({"seed": -1}, "seed is -1"),
        ({"validation_share": 1.0}, "validation_share is 1.0; expected a number from 0 to under 1"),
        ({"max_gigabytes": 0.0}, "max_gigabytes is 0.0"),
        ({"ladders_per_scene": 0}, "ladders_per_scene is 0; expected at least 1, or None for all"),
        ({"ladders": ("fog",)}, "ladders has fog; expected some of h264"),
    ],
)
def test_a_bad_setting_is_refused(tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        config(tmp_path, **change)


def test_settings_of_numpy_are_settings_and_others_are_no_whole_numbers(tmp_path):
    one = config(tmp_path, width=np.int64(96), contents=np.uint8(2), validation_share=np.float32(0.25))
    assert one == config(tmp_path, width=96, contents=2, validation_share=0.25)
    json.dumps([one.width, one.contents, one.validation_share])
    with pytest.raises(ValueError, match="ladders_per_scene is 1.5; expected a whole number"):
        config(tmp_path, ladders_per_scene=1.5)


def test_a_malformed_manifest_is_named_with_its_line(made, tmp_path):
    lines = (made.out / "manifest.csv").read_text().splitlines()
    lines[3] = lines[3].replace(",12,", ",twelve,")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    with pytest.raises(SyntheticSetError, match="manifest.csv, line 4 is malformed"):
        read_manifest(tmp_path)
    with pytest.raises(SyntheticSetError, match="cannot be read .No such file.*; make the set first"):
        read_manifest(tmp_path / "nowhere")


def test_the_command_makes_a_set_and_says_what_is_missing(ffmpeg, pool, tmp_path, capsys):
    clips = next(iter(pool.files.values())).parent
    folders = {"--out": tmp_path / "set", "--pool": tmp_path / "cache", "--clips": clips}
    arguments = [part for name, path in folders.items() for part in (name, str(path))]
    arguments += ["--jobs", "1", "--size", "96x56", "--frames", "12", "--contents", "2"]
    arguments += ["--ladders", "freeze,judder", "--ladders-per-scene", "1"]
    assert main(arguments, pool.items) == 0
    out, err = capsys.readouterr()
    assert "clips, " in out and "MB" in out
    assert "left out: clips: absent.png is not in it; 1 content is left out" in err
    ladders = ladders_of(read_manifest(tmp_path / "set"))
    assert ladders and all(len(names) == 1 for names in ladders.values())
    assert main([*arguments, "--seed", "3"], pool.items) == 1
    assert "error: " in (err := capsys.readouterr().err) and "seed is 0, now it is 3" in err
    for wrong in (["--size", "96"], ["--ladders", "fog"], ["--frames", "3"], ["--ladders-per-scene", "0"]):
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, *wrong], pool.items)
        assert stopped.value.code == 2
    assert "ladders_per_scene is 0; expected at least 1, or None for all" in capsys.readouterr().err


def test_help_says_what_every_setting_is(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--ladders-per-scene N of them, drawn for each scene (default: all)" in text
    options = {f"--{field.name.replace('_', '-')}" for field in fields(SyntheticConfig)}
    # The size is one option.
    assert options - {"--width", "--height"} <= set(re.findall(r"--[a-z-]+", text))


def test_scoring_does_not_import_training():
    code = "import sys, diffvqa_rt.scoring; print([m for m in sys.modules if 'training' in m or 'imageio' in m])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == "[]"
