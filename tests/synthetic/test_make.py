"""The synthetic set from end to end: the same bytes again, after a kill too; what is kept; a manifest read back."""

import fcntl
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
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from synthetic_clips import small_config

from diffvqa_rt.errors import SyntheticSetError
from diffvqa_rt.extras import needs_package
from diffvqa_rt.synthetic import set_lock, vmaf
from diffvqa_rt.synthetic.clip_files import read_clip, write_clip
from diffvqa_rt.synthetic.clip_table import check_files, read_manifest
from diffvqa_rt.synthetic.distortions import CODECS_AND_SCALINGS, LADDERS
from diffvqa_rt.synthetic.make import SyntheticConfig, ladders_in_turn, main, make_synthetic_set
from diffvqa_rt.synthetic.pool import Pool


def contents_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def scenes_of(config: SyntheticConfig) -> dict[str, Counter[str]]:
    """How many clips each scene has of each distortion."""
    found: dict[str, Counter[str]] = {}
    for clip in read_manifest(config.out):
        found.setdefault(clip.scene, Counter())[clip.distortion] += 1
    return found


def test_held_out_scenes_have_all_five_severities_and_training_scenes_three(made):
    held_out = {"reference": 1, "h264": 5, "freeze": 5, "part_blur": 5}
    scenes = scenes_of(made)
    # Of what stands still a freeze is not seen, and 14 frames are one cut. Of a held-out photograph there is one too.
    assert scenes.pop("still-0") == {"reference": 1, "h264": 5, "part_blur": 5}
    assert scenes.pop("one-0") == scenes.pop("two-0") == held_out
    assert scenes == {f"moving-{cut}": {"reference": 1, "h264": 3} for cut in (0, 1)}
    clips = read_manifest(made.out)
    assert {clip.scene for clip in clips if clip.split == "train"} == set(scenes)
    # Three of the five, drawn for each scene.
    drawn = [[clip.severity for clip in clips if clip.scene == scene and clip.severity] for scene in sorted(scenes)]
    assert drawn[0] != drawn[1] and all(severities == sorted(severities) for severities in drawn)


def test_files_are_kept_of_held_out_contents_and_views_of_all(made):
    clips = read_manifest(made.out)
    held_out = [clip for clip in clips if clip.split == "validation"]
    files = {path.relative_to(made.out).as_posix() for path in made.out.rglob("*") if path.is_file()}
    # That of a second cut of `still` says that there is none.
    scenes = {f"scenes/{path.name}/clips.jsonl" for path in (made.out / "scenes").iterdir()}
    expected = {"settings.json", "manifest.csv", "making.lock", *scenes, *(clip.views for clip in clips)}
    assert files == expected | {clip.file for clip in held_out}
    for clip in held_out:
        path = made.out / clip.file
        assert hashlib.sha256(path.read_bytes()).hexdigest() == clip.sha256 and path.stat().st_size == clip.bytes
        assert read_clip(path).shape == (12, clip.height, clip.width, 3) and clip.frame_count == 12
    check_files(made.out, held_out)
    with pytest.raises(
        SyntheticSetError, match="has the views of its training clips, and not their files; make one wi"
    ):
        check_files(made.out, clips)


def test_rows_say_what_a_clip_is(made, pool):
    clips = read_manifest(made.out)
    for clip in clips:
        assert clip.seed == 0 and clip.frame_rate_hz in ((24, 25, 30, 50, 60) if clip.kind == "photo" else (15,))
        assert set(clip.versions) == {"diffvqa-rt", "av", "numpy", "pillow", "ffmpeg-quality-metrics", "ffmpeg"}
        if clip.distortion == "freeze":
            assert clip.label_kind == "order" and clip.label is None
        else:
            assert clip.label_kind == "vmaf_v1" and clip.label == clip.labels["vmaf_v1"] <= 100
        effects = {"reference": [], "part_blur": ["gaussian_blur", "part"]}.get(clip.distortion, [clip.distortion])
        assert [step["effect"] for step in clip.steps] == effects
    # A video gives a size that it is large enough for, and nothing in the pool is large enough for 800×450.
    sizes = {clip.content: (clip.width, clip.height) for clip in clips}
    assert sizes["moving"] == sizes["still"] == (216, 160) and set(sizes.values()) == {(216, 160), (160, 216)}
    # The split is of contents.
    sides = {content: {clip.split for clip in clips if clip.content == content} for content in sizes}
    assert sides == {"moving": {"train"}, "one": {"validation"}, "two": {"validation"}, "still": {"validation"}}


def test_recorded_parameters_make_the_clip_again(made, tmp_path):
    """The steps of a row, applied to its reference by hand, give its file."""
    clips = {clip.file: clip for clip in read_manifest(made.out)}
    clip, reference = clips["scenes/one-0/h264-4.mp4"], read_clip(made.out / "scenes/one-0/reference.mp4")
    rate = Fraction(clip.frame_rate_hz)
    write_clip(tmp_path / "again.mp4", reference, rate, codec="h264", crf=clip.steps[0]["crf"])
    assert hashlib.sha256((tmp_path / "again.mp4").read_bytes()).hexdigest() == clip.sha256
    frozen = clips["scenes/one-0/freeze-5.mp4"]
    write_clip(tmp_path / "frozen.mp4", reference[frozen.steps[0]["shown_frames"]], rate)
    assert hashlib.sha256((tmp_path / "frozen.mp4").read_bytes()).hexdigest() == frozen.sha256


def test_a_killed_run_goes_on_at_once_and_by_one_process_and_ends_with_the_same_bytes(made, pool, tmp_path):
    """Its processes outlive it by a second, in which they would write into the scenes that the new run makes."""
    small = small_config(tmp_path / "b", jobs=2)
    run = run_alone(tmp_path, small, pool)
    deadline = time.monotonic() + 60
    while len(list(small.out.rglob("*.npy"))) < 8 and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert 8 <= len(list(small.out.rglob("*.npy"))) < 40 and not (small.out / "manifest.csv").exists()
    make_synthetic_set(replace(small, jobs=1), pool)
    assert contents_of(small.out) == contents_of(made.out)


def test_a_set_has_the_same_bytes_again_after_damage(made, pool, tmp_path):
    again = replace(made, out=tmp_path / "c")
    shutil.copytree(made.out, again.out)
    # As interrupted runs, full disks and people leave things.
    scenes = again.out / "scenes"
    (scenes / "still-0" / "h264-2.mp4").write_bytes(b"half")
    (scenes / "moving-0" / "h264-3.npy").write_bytes(b"half")
    (scenes / "moving-1" / "clips.jsonl").write_text((scenes / "moving-1" / "clips.jsonl").read_text()[:-700])
    (scenes / "moving-1" / "clips.jsonl.17.part").write_bytes(b"half")
    (again.out / "manifest.csv").unlink()
    sound = scenes / "two-0" / "h264-1.mp4"
    kept = sound.stat().st_mtime_ns
    make_synthetic_set(again, pool)
    assert contents_of(again.out) == contents_of(made.out) and sound.stat().st_mtime_ns == kept


def run_alone(folder: Path, config: SyntheticConfig, pool: Pool) -> subprocess.Popen:
    """A process that makes the set."""
    script = folder / "run.py"
    script.write_text(
        "import pickle, sys\n"
        "from diffvqa_rt.synthetic.make import make_synthetic_set\n"
        "if __name__ == '__main__':\n"
        "    make_synthetic_set(*pickle.loads(sys.stdin.buffer.read()))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    run = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, env=environment)
    run.stdin.write(pickle.dumps((config, pool)))
    run.stdin.close()
    return run


def test_a_set_that_another_run_is_making_is_left_alone(made, pool, monkeypatch):
    monkeypatch.setattr(set_lock, "_PATIENCE_SECONDS", 0.3)
    before = contents_of(made.out)
    with open(made.out / "making.lock") as held:
        # As each process of a run holds it.
        fcntl.flock(held, fcntl.LOCK_SH)
        with pytest.raises(SyntheticSetError, match="is being made by another run; wait until its pro"):
            make_synthetic_set(made, pool)
    assert contents_of(made.out) == before
    make_synthetic_set(made, pool)


def test_a_process_whose_run_is_over_does_not_join_the_next_one(tmp_path):
    code = "import sys; from pathlib import Path; from diffvqa_rt.synthetic.set_lock import join_run\n"
    code += "join_run(Path(sys.argv[1])); print('joined')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def join() -> tuple[int, str]:
        command = [sys.executable, "-c", code, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        return done.returncode, done.stdout

    assert join() == (0, "joined\n")
    with set_lock.only_run(tmp_path):
        assert join() == (0, "joined\n")
    with open(tmp_path / "making.lock") as held:
        # As the next run does, while it begins.
        fcntl.flock(held, fcntl.LOCK_EX)
        assert join() == (1, "")


def test_a_set_grows_and_what_was_there_stays(ffmpeg, pool, tmp_path):
    small = small_config(
        tmp_path / "d", contents=1, ladders=("h264",), cuts_per_content=1, severities=1, validation_share=0.0
    )
    few = make_synthetic_set(small, pool)
    before = contents_of(small.out)
    many = make_synthetic_set(replace(small, contents=3), pool)
    assert {clip.content for clip in few} < {clip.content for clip in many}
    after = contents_of(small.out)
    assert all(after[name] == content for name, content in before.items() if name != "manifest.csv")


def test_files_of_training_clips_are_kept_where_asked_for(ffmpeg, pool, tmp_path, capsys):
    small = small_config(
        tmp_path / "e", contents=1, ladders=("h264",), cuts_per_content=1, severities=1, validation_share=0.0,
        keeps_training_files=True,
    )  # fmt: skip
    calls: list[tuple[int, int]] = []
    clips = make_synthetic_set(small, pool, lambda done, expected: calls.append((done, expected)))
    assert [(small.out / clip.file).stat().st_size for clip in clips] == [clip.bytes for clip in clips]
    assert {clip.split for clip in clips} == {"train"} and calls == [(1, 1)]
    check_files(small.out, clips)


def test_other_settings_are_refused_for_a_folder(made, pool):
    for change, sentence in [
        ({"seed": 1}, "holds a set whose seed is 0, now it is 1; choose another folder"),
        ({"frames": 14}, "holds a set whose frames is 12, now it is 14"),
        ({"keeps_training_files": True}, "holds a set whose keeps_training_files is False, now it is True"),
        ({"sizes": ((216, 160),)}, "holds a set whose sizes is"),
    ]:
        with pytest.raises(SyntheticSetError, match=sentence):
            make_synthetic_set(replace(made, **change), pool)


def test_a_run_stops_at_its_disk_limit_with_a_manifest_of_what_is_there(made, pool, tmp_path):
    small = replace(made, out=tmp_path / "f", jobs=1, max_gigabytes=1e-4)
    shutil.copytree(made.out, small.out)
    with pytest.raises(SyntheticSetError, match=r"0.00 GB after [12] of 6 scenes, over its limit of 0.0001"):
        make_synthetic_set(small, pool)
    assert read_manifest(small.out) == read_manifest(made.out)


def test_a_source_that_is_gone_is_a_sentence(ffmpeg, pool, tmp_path):
    lost = replace(pool, files={"one": tmp_path / "gone.png"})
    with pytest.raises(SyntheticSetError, match=r"gone.png cannot be read \(No such file or directory\); start again"):
        make_synthetic_set(small_config(tmp_path / "g"), lost)


def test_without_the_package_of_vmafs_models_nothing_is_made(monkeypatch, pool, tmp_path):
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(vmaf, "version", absent)
    with pytest.raises(SyntheticSetError, match=re.escape(needs_package("VMAF v1", "ffmpeg-quality-metrics", "train"))):
        make_synthetic_set(small_config(tmp_path / "h"), pool)
    assert not (tmp_path / "h").exists()


def turns(tmp_path: Path, scene: str = "one-0", **changes) -> list[str]:
    return ladders_in_turn(small_config(tmp_path, ladders=tuple(LADDERS), **changes), scene)


def test_codecs_and_scalings_take_turns_with_other_faults(tmp_path):
    for scene in ("one-0", "one-1", "two-0"):
        ladders = turns(tmp_path, scene)
        assert sorted(ladders) == sorted(LADDERS)
        is_field = [name in CODECS_AND_SCALINGS for name in ladders]
        assert is_field[:18] == [True, False] * 9 and not any(is_field[18:])


def test_the_ladders_of_a_scene_depend_on_the_seed_and_its_name_alone(tmp_path):
    first = turns(tmp_path)
    assert first == turns(tmp_path / "other", contents=1, jobs=7, max_gigabytes=1.0, validation_share=0.1)
    assert first != turns(tmp_path, seed=1) and first != turns(tmp_path, "two-0")
    # Over all scenes none is rare: of 9 and of 16, a share of 400, and five deviations.
    counts = Counter(name for scene in range(400) for name in turns(tmp_path, f"scene {scene}")[:2])
    assert set(counts) == set(LADDERS)
    assert all(abs(count - 400 / (9 if name in CODECS_AND_SCALINGS else 16)) < 32 for name, count in counts.items())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sizes": ((353, 192),)}, "sizes has 353x192; expected even numbers"),
        ({"sizes": ((352, 144),)}, "sizes has 352x144; expected even numbers, .* of at least 160 and 216"),
        ({"sizes": ()}, r"sizes is \(\); expected at least one"),
        ({"sizes": ((352, 192), (352, 192))}, "sizes is .*; expected at least one, and none of them twice"),
        ({"frames": 7}, "frames is 7; expected at least 8"),
        ({"jobs": 0}, "jobs is 0; expected at least 1"),
        ({"contents": 0}, "contents is 0; expected at least 1, or None"),
        ({"cuts_per_content": 0}, "cuts_per_content is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"severities": 6}, "severities is 6; expected a whole number from 1 to 5"),
        ({"validation_share": 1.0}, "validation_share is 1.0; expected a number from 0 to under 1"),
        ({"max_gigabytes": 0.0}, "max_gigabytes is 0.0"),
        ({"ladders_per_scene": 1.5}, "ladders_per_scene is 1.5; expected a whole number"),
        ({"validation_ladders_per_scene": 0}, "validation_ladders_per_scene is 0; expected at least 1"),
        ({"ladders": ("fog",)}, "ladders has fog; expected some of h264"),
        ({"ladders": ()}, r"ladders is \(\); expected at least one"),
    ],
)
def test_a_bad_setting_is_refused(tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        small_config(tmp_path, **change)


def test_settings_of_numpy_are_settings(tmp_path):
    sizes = np.array([(216, 160)])
    one = small_config(tmp_path, sizes=sizes, contents=np.uint8(2), validation_share=np.float32(0.25))
    assert one == small_config(tmp_path, sizes=((216, 160),), contents=2, validation_share=0.25)
    json.dumps([one.sizes, one.contents, one.validation_share])


def test_a_malformed_manifest_is_named_with_its_line(made, tmp_path):
    lines = (made.out / "manifest.csv").read_text().splitlines()
    lines[3] = lines[3].replace(",12,", ",twelve,")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    with pytest.raises(SyntheticSetError, match="manifest.csv, line 4 is malformed"):
        read_manifest(tmp_path)
    with pytest.raises(SyntheticSetError, match="cannot be read .No such file.*; make the set first"):
        read_manifest(tmp_path / "nowhere")


def test_the_command_makes_a_set_and_says_what_is_missing(ffmpeg, pool, tmp_path, capsys):
    media = next(iter(pool.files.values())).parent
    folders = {"--out": tmp_path / "set", "--pool": tmp_path / "cache", "--media": media}
    arguments = [part for name, path in folders.items() for part in (name, str(path))]
    arguments += ["--jobs", "1", "--sizes", "216x160,160x216", "--frames", "12", "--contents", "2"]
    arguments += ["--cuts-per-content", "1", "--ladders", "freeze,judder", "--ladders-per-scene", "1"]
    assert main(arguments, pool.items) == 0
    out, err = capsys.readouterr()
    clips = read_manifest(tmp_path / "set")
    # What is there, and not what was made and removed.
    kept = sum(path.stat().st_size for kind in ("*.mp4", "*.npy") for path in (tmp_path / "set").rglob(kind))
    assert f"{len(clips)} clips, " in out and f" {kept / 1e6:.0f} MB, in " in out
    assert "left out: media: absent.png is not in it; 1 content is left out" in err
    assert {clip.distortion for clip in clips} <= {"reference", "freeze", "judder"}
    assert main([*arguments, "--seed", "3"], pool.items) == 1
    assert "error: " in (err := capsys.readouterr().err) and "seed is 0, now it is 3" in err
    for wrong in (["--sizes", "96"], ["--ladders", "fog"], ["--frames", "3"], ["--ladders-per-scene", "0"]):
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, *wrong], pool.items)
        assert stopped.value.code == 2
    assert "ladders_per_scene is 0; expected at least 1" in capsys.readouterr().err


def test_help_says_what_every_setting_is(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--ladders-per-scene N of them, drawn for each training scene (default: 2)" in text
    options = {f"--{field.name.replace('_', '-')}" for field in fields(SyntheticConfig)} - {"--keeps-training-files"}
    # Nobody has asked to choose the others at a prompt.
    fixed = {"--validation-ladders-per-scene", "--severities", "--views"}
    assert (options | {"--keep-training-files"}) - fixed <= set(re.findall(r"--[a-z-]+", text))


def test_scoring_does_not_import_training():
    code = "import sys, diffvqa_rt.scoring; print([m for m in sys.modules if 'training' in m or 'imageio' in m])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == "[]"
