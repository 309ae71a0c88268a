"""Prompts on the command line: a text for all videos, or a table with one for each."""

import csv
import io
import json

import pytest
from clips import make_clip

from diffvqa_rt import cli

CAT, CAR = "a cat on a sofa", "two red cars, at night"


@pytest.fixture
def score(prompted_engines, capsys):
    """Runs `diffvqa score --engines … ARGS` in this process; returns (status, stdout, stderr)."""

    def run(*arguments):
        try:
            status = cli.main(["score", "--engines", str(prompted_engines), *map(str, arguments)])
        except SystemExit as error:
            status = error.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name in ("one.mp4", "two.mp4"):
        (folder / name).write_bytes(make_clip(size=(96, 80), frames=9))
    return [folder / "one.mp4", folder / "two.mp4"]


def test_each_prompt_gives_each_video_a_row_and_the_table_shows_it(score, clips):
    status, out, _ = score("--prompt", CAT, "--prompt", CAR, *clips)
    rows = out.splitlines()[1:]
    assert status == 0 and [row.split("  ")[-1] for row in rows] == [f"“{CAT}”", f"“{CAR}”"] * 2
    assert [str(clips[0]) in row for row in rows] == [True, True, False, False]


def test_a_table_has_a_prompt_for_each_video_by_its_path_or_its_files_name(score, clips, tmp_path):
    table = tmp_path / "prompts.csv"
    table.write_text(f'prompt,video\n"{CAR}",two.mp4\n{CAT},{clips[0]}\nunused,other.mp4\n')
    _, out, _ = score("--prompts", table, "--format", "json", *clips)
    assert [json.loads(line)["prompt"] for line in out.splitlines()] == [CAT, CAR]


def test_a_csv_has_the_prompt_and_a_part_that_is_not_there_is_empty(score, clips):
    (asked,) = csv.DictReader(io.StringIO(score("--prompt", CAR, "--format", "csv", clips[0])[1]))
    (seen,) = csv.DictReader(io.StringIO(score("--format", "csv", clips[0])[1]))
    assert asked["prompt"] == CAR and asked["is_prompt_truncated"] == "True" and float(asked["part_alignment"])
    assert asked.keys() == seen.keys() and seen["prompt"] == seen["part_alignment"] == seen["vision_seconds"] == ""
    assert (asked["model"], seen["model"]) == ("tiny (untrained)", "tiny (untrained), without prompt")


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("one.mp4,a\n", "prompts.csv has no row for {two}; add one, under this name or two.mp4"),
        ("one.mp4,a\ntwo.mp4,b\none.mp4,c\n", "prompts.csv, line 4: one.mp4 appears twice; first in {table}, line 2"),
        ("one.mp4,a\ntwo.mp4, \n", "prompts.csv, line 3: prompt is blank"),
        ("one.mp4\n", "prompts.csv, line 2: 1 cells, but the header has 2"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_before_anything_is_scored(score, clips, tmp_path, rows, sentence):
    table = tmp_path / "prompts.csv"
    table.write_text(f"video,prompt\n{rows}")
    status, out, err = score("--prompts", table, *clips)
    assert status != 0 and out == "" and "Traceback" not in err
    assert sentence.format(two=clips[1], table=table) in err


def test_a_table_without_its_columns_or_that_is_not_there_is_refused(score, clips, tmp_path):
    (tmp_path / "prompts.csv").write_text("video,text\none.mp4,a\n")
    assert "expected one column 'prompt'" in score("--prompts", tmp_path / "prompts.csv", clips[0])[2]
    assert "cannot be read" in score("--prompts", tmp_path / "none.csv", clips[0])[2]


def test_one_way_of_giving_prompts_at_a_time_and_no_blank_one(score, clips, tmp_path):
    assert "not allowed with argument" in score("--prompts", tmp_path / "p.csv", "--prompt", CAT, clips[0])[2]
    status, out, err = score("--prompt", "  ", clips[0])
    assert status == 2 and out == "" and "--prompt: prompt is blank; leave it out" in err
