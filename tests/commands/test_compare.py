"""`diffvqa compare` as a user meets it."""

import json

import pytest
from clips import make_clip
from instant_engines import instant_engines

from diffvqa_rt import Scorer, cli


@pytest.fixture
def compare(manifest, capsys, monkeypatch, tmp_path):
    """Runs `diffvqa compare ARGS` in the clips' folder; returns (status, stdout, stderr)."""
    monkeypatch.setattr(Scorer, "open", lambda folder, **options: Scorer(manifest, instant_engines(), "onnx"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(["compare", *arguments])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def clips(tmp_path) -> list[str]:
    """Four encodes of one source, each of more bits than the one before."""
    names = []
    for quantiser in (50, 40, 30, 10):
        names.append(f"{quantiser}.mp4")
        (tmp_path / names[-1]).write_bytes(make_clip(size=(256, 240), frames=8, options={"qp": str(quantiser)}))
    return names


def test_encodes_are_ranked_with_intervals_and_paired_differences(compare, clips, tmp_path):
    status, out, err = compare("--format", "json", "--crops", "3", *clips)
    result = json.loads(out)
    scores = [encode["score"] for encode in result["encodes"]]
    assert (status, err) == (0, "") and scores == sorted(scores, reverse=True)
    assert [encode["rank"] for encode in result["encodes"]] == [1, 2, 3, 4]
    assert all(len(encode["crop_scores"]) == 3 and encode["margin"] > 0 for encode in result["encodes"])
    assert len(result["differences"]) == 6 and all(pair["is_paired"] for pair in result["differences"])
    for pair in result["differences"]:
        assert pair["is_within_interval"] == (pair["difference"] <= pair["margin"])
    # Of a file: its bytes over its 0.32 s.
    expected = {name: (tmp_path / name).stat().st_size * 8 / 1000 / 0.32 for name in clips}
    assert {one["source"]: one["bit_rate_kbps"] for one in result["encodes"]} == pytest.approx(expected)


def test_the_table_says_where_a_difference_is_within_the_interval(compare, clips):
    (first, *_) = clips
    status, out, _ = compare("--crops", "3", first, first, "--bit-rates", "100,250.5")
    header, above, below = out.splitlines()
    assert status == 0 and header.split()[:2] == ["rank", "score"]
    assert above.split()[0] == "1" and above.split()[3] == "100.0" and "within" not in above
    assert below.split()[0] == "2" and "250.5  0.000 ± 0.000, within it" in below


def test_groups_have_a_bd_rate_against_the_first(compare, clips):
    # The same files at half of the rates: whatever the scores are, half of the bits for each.
    encodes = json.loads(compare("--format", "json", "--crops", "2", *clips)[1])["encodes"]
    order = [encode["source"] for encode in reversed(encodes)]
    rates = "100,200,400,800,50,100,200,400"
    groups = ["--group", "old", *order, "--group", "new", *order]
    status, out, err = compare("--crops", "2", "--bit-rates", rates, *groups)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1].startswith("BD-rate of new against old: -50.00 %, over scores from ")
    (rate,) = json.loads(compare("--format", "json", "--crops", "2", "--bit-rates", rates, *groups)[1])["bd_rates"]
    assert (rate["group"], rate["anchor"], rate["percent"]) == ("new", "old", pytest.approx(-50))


def test_a_bd_rate_that_cannot_be_had_is_a_sentence_and_the_ranking_stands(compare, clips):
    status, out, err = compare("--crops", "2", "--group", "a", *clips[:2], "--group", "b", clips[0], clips[0])
    assert status == 1 and len(out.splitlines()) == 5
    assert "diffvqa: b against a: no BD-rate: from " in err and "it must grow with the bit rate" in err


def test_a_video_that_cannot_be_scored_leaves_the_others_compared(compare, clips):
    status, out, err = compare("--crops", "2", "missing.mp4", *clips[:2])
    assert status == 1 and len(out.splitlines()) == 3 and "missing.mp4 cannot be read" in err


def test_durations_that_differ_are_noted(compare, clips, tmp_path):
    (tmp_path / "long.mp4").write_bytes(make_clip(size=(256, 240), frames=16))
    status, _, err = compare("--crops", "2", clips[0], "long.mp4")
    assert status == 0 and "The videos last 0.32 to 0.64 s; encodes of one source last as long." in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a.mp4"], "there are 1 videos to compare; give at least 2"),
        (["a.mp4", "b.mp4", "--bit-rates", "1,2,3"], "--bit-rates has 3 numbers for 2 videos"),
        (["a.mp4", "b.mp4", "--bit-rates", "1,-2"], "'1,-2' is not a list of numbers above 0"),
        (["a.mp4", "--group", "x", "b.mp4"], "a.mp4 is in no group"),
        (["--group", "x", "a.mp4", "--group", "x", "b.mp4"], "--group x appears twice"),
        (["--group", "x", "a.mp4", "--group", "y"], "--group y has no video"),
        (["a.mp4", "b.mp4", "--crops", "1"], "'1' is not a whole number from 2 to"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(compare, capsys, arguments, sentence):
    try:
        status, out, err = compare(*arguments)
    except SystemExit as end:  # argparse's own
        status, (out, err) = end.code, capsys.readouterr()
    assert status == 2 and out == "" and sentence in err
