"""`diffvqa evaluate` as a user meets it, on engines, on a stand-in for them, and on predictions in files."""

import csv
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from clips import make_clip
from opinions import StandInScorer, write

from diffvqa_rt import Scorer, cli
from diffvqa_rt.extras import needs_package
from diffvqa_rt.results import ScoringFailure

COUNT = 60


def write_data_set(folder, count=COUNT, videos=True):
    """KoNViD-1k in small: opinions 1 … 5 in the order of the videos' numbers."""
    lines = [f"{1000 + i},{1 + 4 * i / count}" for i in range(count)]
    write(folder / "KoNViD_1k_mos.csv", "\n".join(["flickr_id,mos", *lines]) + "\n")
    for i in range(count if videos else 0):
        write(folder / f"KoNViD_1k_videos/{1000 + i}.mp4")
    return folder


def write_scores(path, shift=0, count=COUNT, names=None):
    """Predictions in the order of the opinions, but for one in five, which is `shift` off."""
    lines = [f"{name},{i + shift * (i % 5 == 0)}" for i, name in enumerate(names or range(1000, 1000 + count))]
    return write(path, "\n".join(["video,score", *lines]) + "\n")


@pytest.fixture
def evaluate(tmp_path, capsys):
    """Runs `diffvqa evaluate --out …/out ARGS`; returns (status, stdout, stderr)."""

    def run(*arguments):
        quick = ["--resamples", "20", "--out", str(tmp_path / "out")]
        status = cli.main(["evaluate", *quick, *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


def test_predictions_of_two_models_become_tables_and_pictures(evaluate, tmp_path):
    folder = write_data_set(tmp_path / "konvid", videos=False)
    good, bad = write_scores(tmp_path / "good.csv", 2), write_scores(tmp_path / "bad.csv", 40)
    status, out, err = evaluate(f"konvid-1k={folder}", "--scores", f"Good={good}", "--scores", f"Bad={bad}")
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "| Test set | KoNViD-1k |  |" and lines[3].startswith("| Good | **0.9")
    assert "the same scores are looked at in each of the 10 test sides" in out
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {
        "evaluation.md",
        "table.csv",
        "metrics.csv",
        "distortions.csv",
        "excluded.csv",
        "scatter-01-Good-KoNViD-1k.png",
        "scatter-02-Bad-KoNViD-1k.png",
    }
    assert (tmp_path / "out/evaluation.md").read_text() == out
    assert "wrote evaluation.md" in err and "EXCLUDED" not in err
    with (tmp_path / "out/metrics.csv").open() as file:
        rows = {(row["model"], row["over"], row["metric"]): row for row in csv.DictReader(file)}
    assert float(rows["Good", "mean", "srcc"]["value"]) > float(rows["Bad", "mean", "srcc"]["value"])
    assert rows["Good", "all", "srcc"]["low"] != "" and rows["Good", "all", "srcc"]["videos"] == str(COUNT)


def test_formats_for_machines_carry_the_same_number(evaluate, tmp_path):
    folder = write_data_set(tmp_path / "konvid", videos=False)
    command = [f"konvid-1k={folder}", "--scores", f"M={write_scores(tmp_path / 'm.csv', 7)}", "--protocol", "whole"]
    rows = [json.loads(line) for line in evaluate(*command, "--format", "json")[1].splitlines()]
    value = next(row["value"] for row in rows if row["metric"] == "srcc")
    (line,) = csv.DictReader(evaluate(*command, "--format", "csv")[1].splitlines())
    assert float(line["KoNViD-1k srcc"]) == value and {row["over"] for row in rows} == {"all"}
    assert evaluate(*command)[1].splitlines()[3].split("|")[2].strip() == f"{value:.3f}"


def test_training_sets_decide_the_protocol_and_files_follow_their_placeholders(evaluate, tmp_path):
    konvid = write_data_set(tmp_path / "konvid", videos=False)
    names = [f"v{i}" for i in range(COUNT)]
    lines = "".join(f"{name},{i},{i % 2}\n" for i, name in enumerate(names))
    write(tmp_path / "lsvq/labels_train_test.csv", f"name,mos,is_test\n{lines}")
    write_scores(tmp_path / "konvid-1k.csv", 5)
    write_scores(tmp_path / "lsvq.csv", 5, names=names)
    source = f"M@LSVQ={tmp_path}/{{data}}.csv"
    status, out, _ = evaluate(f"lsvq={tmp_path}/lsvq", f"konvid-1k={konvid}", "--scores", source)
    assert status == 0
    head, _, test_sets, *_ = out.splitlines()
    assert head == "| Trained on LSVQ | Intra-dataset |  | Cross-dataset |  |"
    assert test_sets == "| **Test set** | **LSVQ test** |  | **KoNViD-1k** |  |"
    assert "KoNViD-1k: all videos of the data set." in out and "LSVQ test: the published test split." in out


def test_a_model_for_each_split_has_a_file_for_each(evaluate, tmp_path):
    folder = write_data_set(tmp_path / "konvid", videos=False)
    for i in range(1, 11):
        write_scores(tmp_path / f"split{i}.csv", i)
    source = f"M@konvid-1k={tmp_path}/split{{split}}.csv"
    status, out, _ = evaluate(f"konvid-1k={folder}", "--scores", source)
    assert status == 0 and "M: a model was trained for each split" in out and "nothing was trained" not in out
    (tmp_path / "split7.csv").unlink()
    status, _, err = evaluate(f"konvid-1k={folder}", "--scores", source)
    assert status == 1 and "split7.csv cannot be read" in err


def test_a_video_without_a_score_is_excluded_loudly(evaluate, tmp_path):
    folder = write_data_set(tmp_path / "konvid", videos=False)
    scores = write_scores(tmp_path / "m.csv", 3, count=COUNT - 2)
    status, out, err = evaluate(f"konvid-1k={folder}", "--scores", f"M={scores}", "--protocol", "whole")
    assert status == 1
    assert "M on KoNViD-1k: 2 videos have no score and are EXCLUDED" in err
    assert "2 of 60 videos have no score and are excluded**: 1058, 1059." in out
    assert (tmp_path / "out/excluded.csv").read_text().splitlines()[1:] == ["M,KoNViD-1k,1058", "M,KoNViD-1k,1059"]


@pytest.fixture
def stand_in(monkeypatch):
    """A scorer in the place of an engine folder's; tests may swap `scorer`."""
    manifest = SimpleNamespace(
        weights=SimpleNamespace(sha256="abc", is_trained=True),
        backends={"onnx": SimpleNamespace(files={"head.onnx": "123"})},
        model_label="tiny",
        metric=SimpleNamespace(name="diffvqa", prompts=None),
    )
    holder = SimpleNamespace(scorer=StandInScorer(), manifest=manifest)

    def open_engines(*_, **__):
        return SimpleNamespace(manifest=manifest, score_many=holder.scorer.score_many)

    monkeypatch.setattr(Scorer, "open", open_engines)
    return holder


def test_an_interrupted_evaluation_goes_on_and_a_failure_is_listed(evaluate, stand_in, tmp_path):
    folder = write_data_set(tmp_path / "konvid")
    stand_in.scorer = StandInScorer(stops_at="1020")
    assert evaluate(f"konvid-1k={folder}", "--engines", "x")[0] == 130
    stand_in.scorer = StandInScorer(fails_at="1030")
    status, out, err = evaluate(f"konvid-1k={folder}", "--engines", "x", "--crops", "1", "--batch", "4")
    assert status == 1
    assert stand_in.scorer.scored == [str(1020 + i) for i in range(40)]
    assert stand_in.scorer.options == {"seed": 0, "crops": 1, "batch": 4}
    assert f"diffvqa: {folder}/KoNViD_1k_videos/1030.mp4 cannot be read" in err
    assert "tiny on KoNViD-1k: 1 videos have no score and are EXCLUDED" in err
    assert "| tiny |" in out
    stand_in.scorer = StandInScorer()
    assert evaluate(f"konvid-1k={folder}", "--engines", "x", "--model", "Mine", "--trained-on", "LSVQ")[0] == 0
    assert stand_in.scorer.scored == ["1030"]
    stand_in.manifest.backends["onnx"].files["head.onnx"] = "456"
    status, _, err = evaluate(f"konvid-1k={folder}", "--engines", "x")
    assert status == 1 and "a score with engines_sha256" in err and "choose another --out" in err


def test_engines_and_files_stand_in_one_table_and_only_tested_videos_are_scored(evaluate, stand_in, tmp_path):
    lines = [f"{1000 + i}.mp4,{i},{'train' if i < 30 else 'test'}" for i in range(COUNT)]
    table = write(tmp_path / "mine.csv", "video,mos,split\n" + "\n".join(lines) + "\n")
    for i in range(COUNT):
        write(tmp_path / f"{1000 + i}.mp4")
    scores = write_scores(tmp_path / "m.csv", 3, names=[f"{1000 + i}.mp4" for i in range(COUNT)])
    status, out, _ = evaluate(f"csv={table}", "--engines", "x", "--scores", f"M={scores}")
    assert status == 0
    assert stand_in.scorer.scored == [str(1030 + i) for i in range(30)]
    assert "| Test set | mine test |  |" in out and "| tiny |" in out and "| M | **0.9" in out


def write_prompted(folder, prompts):
    lines = [f"{1000 + i}.mp4,{i},{prompt}" for i, prompt in enumerate(prompts)]
    for i in range(len(prompts)):
        write(folder / f"{1000 + i}.mp4")
    return write(folder / "mine.csv", "video,mos,prompt\n" + "\n".join(lines) + "\n")


def test_a_metric_that_takes_prompts_gets_them_and_another_does_not(evaluate, stand_in, tmp_path):
    table = write_prompted(tmp_path, [f"cat {i // 2}" for i in range(COUNT)])
    assert evaluate(f"csv={table}", "--engines", "x")[0] == 0 and "prompts" not in stand_in.scorer.options
    shutil.rmtree(tmp_path / "out")
    stand_in.manifest.metric.prompts = "its way to read them"
    status, out, _ = evaluate(f"csv={table}", "--engines", "x")
    assert status == 0 and stand_in.scorer.options["prompts"] == [f"cat {i // 2}" for i in range(COUNT)]
    assert "| tiny |" in out and "tiny: each video is scored against its prompt." in out
    shutil.rmtree(tmp_path / "out")
    status, out, _ = evaluate(f"csv={write_prompted(tmp_path, [''] * COUNT)}", "--engines", "x")
    assert status == 0 and "| tiny, without prompt |" in out and "prompts" not in stand_in.scorer.options


def test_no_video_is_scored_of_tables_that_mix(evaluate, stand_in, tmp_path):
    folder = write_data_set(tmp_path / "konvid")
    table = write_prompted(tmp_path, ["a cat"] * (COUNT - 1) + [""])
    stand_in.manifest.metric.prompts = "its way to read them"
    status, out, err = evaluate(f"konvid-1k={folder}", f"csv={table}", "--engines", "x")
    assert status == 1 and out == "" and stand_in.scorer.scored == []
    assert "mine: 1 of 60 videos have no prompt, 1059.mp4 for one" in err


def test_missing_videos_refuse_a_data_set_or_are_skipped(evaluate, stand_in, tmp_path):
    folder = write_data_set(tmp_path / "konvid")
    (folder / "KoNViD_1k_videos/1007.mp4").unlink()
    status, out, err = evaluate(f"konvid-1k={folder}", "--engines", "x")
    assert status == 1 and out == ""
    assert (
        err
        == f"diffvqa: {folder}/KoNViD_1k_mos.csv, line 9: the video {folder}/KoNViD_1k_videos/1007.mp4 is not there\n"
    )
    stand_in.scorer = StandInScorer(fails_at="1007")
    status, _, err = evaluate(f"konvid-1k={folder}", "--engines", "x", "--skip-missing")
    assert status == 1 and "1 videos have no score and are EXCLUDED" in err


def test_when_nothing_can_be_scored_the_reasons_come_before_the_end(evaluate, stand_in, tmp_path, monkeypatch):
    folder = write_data_set(tmp_path / "konvid", count=12)

    def fail(sources, **_):
        return (ScoringFailure(source=str(path), error=f"{path} is empty") for path in sources)

    monkeypatch.setattr(stand_in.scorer, "score_many", fail)
    status, out, err = evaluate(f"konvid-1k={folder}", "--engines", "x")
    assert status == 1 and out == ""
    assert "1011.mp4 is empty" in err and "0 scores are too few to evaluate" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "NAME=PATH"),
        (["konvid=x"], "'konvid=x' is not NAME=PATH with a NAME of konvid-1k, live-vqc"),
        (["konvid-1k"], "is not NAME=PATH"),
        (["lsvq=x", "--scores", "file.csv"], "'file.csv' is not MODEL=FILE"),
        (["lsvq=x", "--scores", "=file.csv"], "is not MODEL=FILE"),
        (["lsvq=x", "--protocol", "ten"], "invalid choice"),
        (["lsvq=x", "--resamples", "-1"], "is not a whole number from 0"),
    ],
)
def test_misuse_is_status_2(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["evaluate", *arguments])
    assert exit_info.value.code == 2
    assert complaint in capsys.readouterr().err


def test_names_that_collide_are_misuse(evaluate, tmp_path):
    folder = write_data_set(tmp_path / "konvid", videos=False)
    scores = write_scores(tmp_path / "m.csv")
    status, _, err = evaluate(f"konvid-1k={folder}", "--scores", f"M={scores}", "--scores", f"M={scores}")
    assert status == 2 and "names the same model twice" in err
    status, _, err = evaluate(f"konvid-1k={folder}", f"konvid-1k={folder}", "--scores", f"M={scores}")
    assert status == 2 and "two data sets have the same name" in err


def test_an_output_folder_that_cannot_be_is_one_sentence(tmp_path, capsys):
    folder = write_data_set(tmp_path / "konvid", videos=False)
    scores = write_scores(tmp_path / "m.csv")
    out = scores / "below"
    assert cli.main(["evaluate", f"konvid-1k={folder}", "--scores", f"M={scores}", "--out", str(out)]) == 1
    assert capsys.readouterr().err == f"diffvqa: {out} cannot be written (Not a directory)\n"


def test_the_command_needs_no_extra_package_until_it_runs(tmp_path):
    """Help, and all that is no evaluation, works where SciPy, matplotlib, openpyxl and torch are missing."""
    folder = write_data_set(tmp_path / "konvid", videos=False)
    scores = write_scores(tmp_path / "m.csv")
    program = (
        "import sys\n"
        "absent = {'scipy', 'matplotlib', 'openpyxl', 'torch'}\n"
        "sys.modules |= dict.fromkeys(absent)\n"
        "from diffvqa_rt import Scorer, cli\n"
        "from diffvqa_rt.evaluation.data_sets import read_table\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "evaluate"]
    help_text = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert "konvid-1k    KoNViD_1k_metadata/KoNViD_1k_mos.csv" in help_text
    arguments = [f"konvid-1k={folder}", "--scores", f"M={scores}", "--out", str(tmp_path / "out")]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr == f"diffvqa: {needs_package('evaluation', 'scipy', 'train')}\n"


def test_real_engines_score_a_data_set(small_engines, evaluate, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(make_clip(frames=3))
    (tmp_path / "wide.mp4").write_bytes(make_clip(size=(96, 48), frames=3))
    names = [f"v{i}.mp4" for i in range(10)]
    for i, name in enumerate(names):
        shutil.copy(tmp_path / ("clip.mp4" if i % 2 else "wide.mp4"), tmp_path / name)
    text = "video,mos\n" + "".join(f"{name},{i}\n" for i, name in enumerate([*names, "broken.mp4"]))
    table = write(tmp_path / "mine.csv", text)
    write(tmp_path / "broken.mp4", "Dear diary")
    status, out, err = evaluate(f"csv={table}", "--engines", small_engines)
    assert status == 1 and "| tiny, 2 steps |" in out
    assert "untrained" not in err and "broken.mp4 is not a video" in err
    kept = [json.loads(line) for line in (tmp_path / "out/scores-mine.jsonl").read_text().splitlines()]
    assert [entry["video"] for entry in kept] == names
    score = Scorer.open(small_engines).score(tmp_path / "v0.mp4").score
    assert [entry["score"] for entry in kept] == [score if i % 2 == 0 else kept[1]["score"] for i in range(10)]
