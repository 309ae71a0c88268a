"""`diffvqa evaluate` on image data sets: both kinds of random splits, published numbers, folders that are wrong."""

import csv
from types import SimpleNamespace

import pytest
from image_sets import LIVE_COUNTS, write_koniq_10k, write_live, write_spaq
from opinions import StandInScorer, write
from PIL import Image

from diffvqa_rt import Scorer, cli

DISTORTED = [f"{place}/img{number}.bmp" for place in LIVE_COUNTS for number in range(1, 61)]


def make_live(folder):
    """300 distorted pictures of 60 references."""
    write_live(folder, {name: (i % 60, f"photo{i % 60}.bmp") for i, name in enumerate(DISTORTED)})
    return folder


def write_scores(path, shift=0):
    """Predictions in the order of the opinions, but for one in five, which is `shift` off."""
    lines = [f"{name},{-(i % 60) + shift * (i % 5 == 0)}" for i, name in enumerate(DISTORTED)]
    return write(path, "\n".join(["video,score", *lines]) + "\n")


@pytest.fixture
def evaluate(tmp_path, capsys):
    """Runs `diffvqa evaluate --out …/out ARGS`; returns (status, stdout, stderr)."""

    def run(*arguments):
        status = cli.main(["evaluate", "--resamples", "0", "--out", str(tmp_path / "out"), *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def stand_in(monkeypatch):
    """A scorer of a metric that has published numbers."""
    manifest = SimpleNamespace(
        weights=SimpleNamespace(sha256="abc", is_trained=True),
        backends={"onnx": SimpleNamespace(files={"head.onnx": "123"})},
        model_label="tiny",
        metric=SimpleNamespace(name="diffv2iqa", prompts=None),
    )
    scorer = StandInScorer()
    engines = SimpleNamespace(
        manifest=manifest, score_many=lambda *args, **options: scorer.score_many(*args, **options)
    )
    monkeypatch.setattr(Scorer, "open", lambda *_, **__: engines)
    return scorer


def test_engines_get_both_columns_types_and_the_papers_numbers(evaluate, stand_in, tmp_path):
    folder = make_live(tmp_path / "live")
    status, out, err = evaluate(f"live={folder}", "--engines", "x", "--crops", "20")
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "| Test set | LIVE |  | LIVE by image |  |"
    assert [line.split(" | ")[0] for line in lines[3:7]] == [
        "| tiny",
        *(f"| DiffV²IQA {ratio}, published" for ratio in ("8:2", "7:1:2", "6:2:2")),
    ]
    assert "| SRCC↑ on LIVE, within | JP2K | JPEG | WN | GBLUR | FF |" in lines
    assert "| SRCC↑ on LIVE by image, within | JP2K | JPEG | WN | GBLUR | FF |" in lines
    assert "tiny: 20 crop positions of each." in out
    assert len(stand_in.scored) == 300 and stand_in.options["crops"] == 20, "each picture once for both columns"
    with (tmp_path / "out/distortions.csv").open() as file:
        assert [row["distortion"] for row in csv.DictReader(file)] == ["JP2K", "JPEG", "WN", "GBLUR", "FF"] * 2
    assert len(list((tmp_path / "out").glob("scatter-*.png"))) == 1 and "1 scatter plots" in err


def test_two_numbers_of_crops_are_two_folders_and_one_table(evaluate, stand_in, tmp_path, capsys):
    folder = make_live(tmp_path / "live")
    for crops in ("1", "20"):
        out = tmp_path / crops
        assert cli.main(["evaluate", f"live={folder}", "--crops", crops, "--out", str(out), "--resamples", "0"]) == 0
    capsys.readouterr()
    models = [f"{crops} crops={tmp_path}/{crops}/scores-{{data}}.jsonl" for crops in ("1", "20")]
    status, out, _ = evaluate(
        f"live={folder}", "--scores", models[0], "--scores", models[1], "--published", "diffv2iqa"
    )
    assert status == 0 and "| 1 crops | " in out and "| 20 crops | " in out and "| DiffV²IQA 8:2, published | " in out


def test_models_that_were_trained_by_content_are_not_tested_by_image(evaluate, tmp_path):
    folder = make_live(tmp_path / "live")
    for i in range(1, 11):
        write_scores(tmp_path / f"content-{i}.csv", 5 * i)
        write_scores(tmp_path / f"image-{i}.csv")
    status, out, err = evaluate(f"live={folder}", "--scores", f"M@live={tmp_path}/content-{{split}}.csv")
    assert status == 2 and out == ""
    assert "LIVE is split by content and by image" in err and "put {by} into it" in err and "\n" not in err.strip()
    status, out, _ = evaluate(f"live={folder}", "--scores", f"M@live={tmp_path}/{{by}}-{{split}}.csv")
    assert status == 0 and "M: a model was trained for each split" in out
    cells = out.splitlines()[4].split("|")
    assert float(cells[2]) < 0.99 and float(cells[4]) == 1.0
    pattern = f"M@live={tmp_path}/content-{{split}}.csv"
    assert evaluate(f"live={folder}", "--scores", pattern, "--protocol", "splits")[0] == 0


def test_published_numbers_of_ablations_come_when_they_are_asked_for(evaluate, tmp_path):
    folder = tmp_path / "koniq"
    write_koniq_10k(folder, {f"{i}.jpg": 1 + i / 20 for i in range(60)})
    scores = write(tmp_path / "m.csv", "video,score\n" + "".join(f"{i}.jpg,{i}\n" for i in range(60)))
    command = [f"koniq-10k={folder}", "--scores", f"M={scores}"]
    assert "ublished" not in evaluate(*command)[1]
    _, out, _ = evaluate(*command, "--published", "diffv2iqa-ablations")
    assert (
        "| IX restorer from PIPAL, published | <u>0.917</u> | <u>0.940</u> |" in out and "Table IX of the paper" in out
    )
    with pytest.raises(SystemExit) as exit_info:
        evaluate(*command, "--published", "musiq")
    assert exit_info.value.code == 2


def test_spaqs_pictures_reach_the_scorer_shrunk(evaluate, stand_in, tmp_path, monkeypatch):
    folder = tmp_path / "spaq"
    write_spaq(folder, {f"{i}.png": i for i in range(50)})
    for path in (folder / "TestImage").iterdir():
        Image.new("RGB", (1040, 520)).save(path)
    shapes = []

    def score(sources, **_):
        for picture in sources:
            shapes.append(picture.shape)
            yield SimpleNamespace(raw_score=float(len(shapes)))

    monkeypatch.setattr(stand_in, "score_many", score)
    assert evaluate(f"spaq={folder}", "--engines", "x")[0] == 0
    assert shapes == [(512, 1024, 3)] * 50


def test_a_folder_that_is_wrong_empty_or_incomplete_is_one_sentence(evaluate, stand_in, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, sentence in (("empty", "has no dmos_realigned.mat"), ("absent", "is not a folder")):
        assert evaluate(f"live={tmp_path / folder}", "--engines", "x") == (
            1,
            "",
            f"diffvqa: {tmp_path / folder} {sentence}\n",
        )
    folder = make_live(tmp_path / "live")
    (folder / "jp2k/img7.bmp").unlink()
    status, out, err = evaluate(f"live={folder}", "--engines", "x")
    assert (status, out) == (1, "")
    assert err == (
        f"diffvqa: {folder}/dmos_realigned.mat, row 7 of dmos_new: the image {folder}/jp2k/img7.bmp is not there\n"
    )


def test_help_lists_images_apart_from_videos(capsys):
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--help"])
    text = capsys.readouterr().out
    videos, images = text.split("\nImages:\n")
    assert "  kvq " in videos and "  live         dmos_realigned.mat, refnames_all.mat, jp2k/" in images
