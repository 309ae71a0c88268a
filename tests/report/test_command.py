"""`diffvqa report` as a user meets it."""

import json

import pytest

from diffvqa_rt import cli


@pytest.fixture
def report(tmp_path, monkeypatch, capsys):
    """Runs `diffvqa report ARGS` in a folder of its own; returns (status, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return cli.main(["report", *arguments]), capsys.readouterr().err

    return run


def test_a_report_is_one_file_the_same_every_time(report, scored, tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps(scored("cat.mp4").as_dict()))
    assert report("scores.json") == (0, f"diffvqa: wrote report.html, {size(tmp_path):.1f} MB\n")
    html = (tmp_path / "report.html").read_bytes()
    assert b"cat.mp4" in html and b"not at hand" in html
    report("scores.json")
    assert (tmp_path / "report.html").read_bytes() == html


def size(folder):
    return (folder / "report.html").stat().st_size / 1e6


def test_a_bad_row_costs_itself_and_the_exit_status(report, scored, tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps(scored().as_dict()) + "\nnothing\n")
    status, said = report("scores.json", "--no-frames")
    assert status == 1 and said.startswith("diffvqa: line 2 of scores.json is left out")
    assert "line 2 of scores.json" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_ab_compares_two_files(report, scored, tmp_path):
    for name, gain in (("a", 0.0), ("b", 2.0)):
        rows = [json.dumps(scored(f"{name}/{i}.mp4", 40.0 + i + gain).as_dict()) for i in range(12)]
        (tmp_path / f"{name}.json").write_text("\n".join(rows))
    assert report("a.json", "b.json", "--ab", "--out", "ab.html")[0] == 0
    html = (tmp_path / "ab.html").read_text(encoding="utf-8")
    assert "<strong>+2.00</strong>" in html and "interval +2.00 to +2.00" in html


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["gone.json"], 1, "gone.json cannot be read (No such file or directory)"),
        (["empty.json"], 1, "no video of these results has a score"),
        (["empty.json", "--ab"], 2, "--ab compares two RESULTS, and 1 are given"),
        (["one.json", "--out", "one.json/x.html"], 1, "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(report, scored, tmp_path, arguments, status, sentence):
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "one.json").write_text(json.dumps(scored().as_dict()))
    found, said = report(*arguments)
    assert found == status and sentence in said and said.count("\n") == 1
