"""Evaluations by protocol, the tables that show them, and their pictures."""

import csv
import io
import math
import statistics

import numpy as np
import pytest
from opinions import make_table
from PIL import Image

from diffvqa_rt.errors import EvaluationError
from diffvqa_rt.evaluation import report
from diffvqa_rt.evaluation.correlation import METRICS, measure_agreement
from diffvqa_rt.evaluation.evaluate import EvaluationConfig, ModelScores, evaluate, rows_to_score
from diffvqa_rt.evaluation.protocols import random_splits
from diffvqa_rt.evaluation.scatter import draw_scatter
from diffvqa_rt.evaluation.scores import Scores

QUICK = EvaluationConfig(resamples=10)


def predict(table, noise: float, seed: int = 0, without=()) -> Scores:
    rng = np.random.default_rng(seed)
    guesses = {row.name: 20 * row.mos + noise * rng.normal() for row in table.rows}
    return Scores({name: guess for name, guess in guesses.items() if name not in without})


def model(table, name: str = "DiffVQA", noise: float = 5.0, trained_on=None, **options) -> ModelScores:
    return ModelScores(model=name, trained_on=trained_on, by_split=(predict(table, noise, **options),))


def rows_of(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in markdown.splitlines()]


def test_the_same_scores_are_looked_at_in_each_of_ten_test_sides():
    table = make_table(100)
    scores = model(table)
    (one,) = evaluate(table, scores, "splits", QUICK)
    by_name = scores.by_split[0].by_name
    for split, agreement in zip(random_splits(table), one.splits, strict=True):
        expected = measure_agreement(
            [by_name[row.name] for row in split.test], [row.mos for row in split.test], resamples=0
        )
        assert agreement.metrics["srcc"].value == expected.metrics["srcc"].value and agreement.videos == 20
    values = [split.metrics["plcc"].value for split in one.splits]
    assert one.headline("plcc").value == pytest.approx(statistics.mean(values))
    assert one.deviation("plcc") == pytest.approx(statistics.stdev(values))
    assert one.median("plcc") == pytest.approx(statistics.median(values))
    assert one.whole.videos == 100 and one.whole.metrics["plcc"].low < one.whole.metrics["plcc"].value
    assert not one.is_retrained and len(one.scores) == 100


def test_a_model_for_each_split_is_tested_on_its_own_split():
    table = make_table(100)
    splits = random_splits(table)
    # Each model is right on its own test side and nonsense elsewhere.
    by_split = tuple(
        Scores({row.name: (row.mos if row in split.test else -row.mos) for row in table.rows}) for split in splits
    )
    (one,) = evaluate(table, ModelScores(model="M", trained_on="konvid-1k", by_split=by_split), "splits", QUICK)
    assert one.is_retrained and one.over_splits("srcc") == pytest.approx([1.0] * 10)
    assert len(one.scores) == 20
    with pytest.raises(EvaluationError, match="M has scores for 9 splits; expected 10"):
        evaluate(table, ModelScores(model="M", trained_on=None, by_split=by_split[:9]), "splits", QUICK)
    with pytest.raises(EvaluationError, match="for each random split of KoNViD-1k, but its protocol is whole"):
        evaluate(table, ModelScores(model="M", trained_on=None, by_split=by_split), "whole", QUICK)


def test_each_published_split_is_a_test_set_and_training_videos_need_no_score():
    table = make_table(90, name="lsvq", splits=("train", "test", "1080p"))
    assert {row.split for row in rows_to_score(table, "published")} == {"test", "1080p"}
    train = {row.name for row in table.select("train")}
    first, second = evaluate(table, model(table, without=train), "published", QUICK)
    assert (first.test_set, second.test_set) == ("LSVQ test", "LSVQ 1080p")
    assert first.whole.videos == second.whole.videos == 30 and first.excluded == ()


def test_videos_without_a_score_are_excluded_by_name_and_move_no_other():
    table = make_table(100)
    lost = ("v003", "v050")
    (full,) = evaluate(table, model(table), "splits", QUICK)
    (one,) = evaluate(table, model(table, without=lost), "splits", QUICK)
    assert one.excluded == lost and one.whole.videos == 98
    sizes = [20 - sum(name in {row.name for row in split.test} for name in lost) for split in random_splits(table)]
    assert [split.videos for split in one.splits] == sizes
    untouched = [i for i, size in enumerate(sizes) if size == 20]
    assert untouched and all(one.splits[i] == full.splits[i] for i in untouched)


def test_a_test_set_with_too_few_scores_is_named():
    table = make_table(40)
    with pytest.raises(EvaluationError, match=r"KoNViD-1k, split 1: 8 scores are too few to evaluate"):
        evaluate(table, model(table), "splits", QUICK)


def test_constant_scores_in_a_split_make_the_mean_undefined_and_not_a_number():
    table = make_table(100)
    scores = Scores(dict.fromkeys((row.name for row in table.rows), 3.0))
    (one,) = evaluate(table, ModelScores(model="M", trained_on=None, by_split=(scores,)), "splits", QUICK)
    assert math.isnan(one.headline("srcc").value) and math.isnan(one.deviation("srcc"))
    note = "All scores are 3: no metric is defined."
    assert one.notes == (note, f"In split 1, 2, 3, 4, 5, 6, 7, 8, 9, 10: {note}")
    assert "undefined" in report.paper_markdown([one]) and "no metric is defined" in report.remarks_markdown([one])


@pytest.fixture(scope="module")
def table_2():
    """Three models trained on LSVQ, tested on its two test sets and, without a fine-tuning, on two other data sets."""
    lsvq = make_table(90, name="lsvq", splits=("train", "test", "1080p"))
    konvid, live = make_table(40), make_table(40, name="live-vqc")
    evaluations = []
    for name, noise in [("Good|one", 0.3), ("Bad", 20.0), ("Middle", 2.0)]:
        evaluations += evaluate(lsvq, model(lsvq, name, noise, "lsvq"), "published", QUICK)
        evaluations += evaluate(konvid, model(konvid, name, noise, "lsvq"), "whole", QUICK)
        if name != "Bad":
            evaluations += evaluate(live, model(live, name, noise, "lsvq"), "whole", QUICK)
    return evaluations


def test_the_papers_second_table(table_2):
    head, rule, test_sets, methods, *models = rows_of(report.paper_markdown(table_2))
    assert head == ["Trained on LSVQ", "Intra-dataset", "", "", "", "Cross-dataset", "", "", ""]
    assert rule == ["---"] * 9
    titles = ["LSVQ test", "LSVQ 1080p", "KoNViD-1k", "LIVE-VQC"]
    assert test_sets == ["**Test set**", *(cell for title in titles for cell in (f"**{title}**", ""))]
    assert methods == ["**Method**", *["**SRCC↑**", "**PLCC↑**"] * 4]
    assert [row[0] for row in models] == [r"Good\|one", "Bad", "Middle"]
    good, bad, middle = models
    assert all(cell[:2] == cell[-2:] == "**" and float(cell[2:-2]) > 0.9 for cell in good[1:])
    assert bad[-2:] == ["N/A", "N/A"] and all(float(cell) < 0.9 for cell in bad[1:-2])
    # Second-best of three; of two, the other is just the worse.
    assert all(cell.startswith("<u>0.") for cell in middle[1:-2]) and all(float(cell) for cell in middle[-2:])
    value = next(one for one in table_2 if one.model == "Bad").headline("srcc").value
    assert bad[1] == f"{value:.3f}"


def test_the_papers_fourth_table_has_a_column_group_for_each_training_set():
    konvid, live = make_table(60), make_table(60, name="live-vqc")
    evaluations = [
        *evaluate(konvid, model(konvid, trained_on="live-vqc"), "whole", QUICK),
        *evaluate(live, model(live, trained_on="youtube-ugc"), "whole", QUICK),
        *evaluate(konvid, model(konvid, trained_on="youtube-ugc"), "whole", QUICK),
    ]
    head, _, test_sets, _, row = rows_of(report.paper_markdown(evaluations))
    assert head == ["Training set", "LIVE-VQC", "", "YouTube-UGC", "", "", ""]
    assert test_sets[1:] == ["**KoNViD-1k**", "", "**LIVE-VQC**", "", "**KoNViD-1k**", ""]
    assert "**" not in "".join(row), "one model alone is not the best"
    header, *lines = csv.reader(io.StringIO(report.paper_csv(evaluations)))
    assert header[:3] == ["model", "LIVE-VQC → KoNViD-1k srcc", "LIVE-VQC → KoNViD-1k plcc"]
    assert float(lines[0][1]) == evaluations[0].headline("srcc").value


def test_tables_one_three_and_six_have_no_row_above():
    table = make_table(100, name="live-vqc")
    evaluations = [
        one for name in ("w/o TCAB", "DiffVQA") for one in evaluate(table, model(table, name), "splits", QUICK)
    ]
    head, _, methods, *models = rows_of(report.paper_markdown(evaluations))
    assert head == ["Test set", "LIVE-VQC", ""] and methods[0] == "**Method**"
    # Equal as shown: both are the best.
    assert models[0][1:] == models[1][1:] and models[0][1].startswith("**")


def test_the_best_is_marked_by_what_is_shown():
    assert report.mark_best([0.9001, 0.9004, 0.5, None, math.nan]) == [
        "**0.900**",
        "**0.900**",
        "<u>0.500</u>",
        "N/A",
        "undefined",
    ]
    assert report.mark_best([-0.2, -0.1]) == ["-0.200", "**-0.100**"]
    assert report.mark_best([0.9, None]) == ["0.900", "N/A"]
    assert report.mark_best([0.9, 0.9, 0.9]) == ["**0.900**"] * 3
    assert report.mark_best([9.1, 9.0, 11.0], is_low_good=True) == ["<u>9.100</u>", "**9.000**", "11.000"]


def test_the_caption_says_what_splits_without_training_mean(table_2):
    table = make_table(100)
    (one,) = evaluate(table, model(table), "splits", QUICK)
    text = report.caption([one], 10)
    assert "KoNViD-1k: the mean over the test sides of 10 random 8:2 splits" in text
    assert "DiffVQA: nothing was trained on the splits; the same scores are looked at in each" in text
    assert "bootstrap 95 % intervals (percentiles of 10 resamples)" in text
    published = report.caption(table_2, 0)
    assert "LSVQ test, LSVQ 1080p: the published test split" in published
    assert "splits;" not in published and "bootstrap" not in published
    assert "KoNViD-1k, LIVE-VQC: all videos" in published


def test_details_hold_every_metric_and_remarks_what_is_missing():
    table = make_table(100)
    (one,) = evaluate(table, model(table, without={f"v{i:03}" for i in range(12)}), "splits", QUICK)
    _, _, whole, splits = rows_of(report.details_markdown([one]))
    assert whole[:5] == ["DiffVQA", "not known", "KoNViD-1k", "all", "88"] and len(whole) == 5 + len(METRICS)
    assert all("[" in cell for cell in whole[5:])
    assert splits[3] == "10 test splits" and "±" in splits[5] and "median" in splits[5]
    remarks = report.remarks_markdown([one])
    assert (
        "12 of 100 videos have no score and are excluded" in remarks and "v000" in remarks and "and 2 more" in remarks
    )
    assert list(csv.reader(io.StringIO(report.excluded_csv([one]))))[1] == ["DiffVQA", "KoNViD-1k", "v000"]


def test_every_number_is_in_the_long_table():
    table = make_table(100)
    (one,) = evaluate(table, model(table), "splits", QUICK)
    rows = list(csv.DictReader(io.StringIO(report.metrics_csv([one]))))
    assert len(rows) == len(METRICS) * (1 + 10 + 3)
    by_key = {(row["over"], row["metric"]): row for row in rows}
    assert float(by_key["mean", "srcc"]["value"]) == one.headline("srcc").value
    assert float(by_key["all", "rmse"]["low"]) == one.whole.metrics["rmse"].low
    assert by_key["split 3", "krcc"]["low"] == "" and by_key["split 3", "krcc"]["videos"] == "20"


def test_a_scatter_plot_shows_points_and_curve(tmp_path):
    table = make_table(100)
    (one,) = evaluate(table, model(table, "A $weird_ na|me", 10.0), "whole", QUICK)
    path = tmp_path / "plot.png"
    draw_scatter(one, path)
    with Image.open(path) as picture:
        assert picture.size == (1200, 1050)
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    red, blue = (214, 39, 40), (31, 119, 180)
    assert (np.abs(pixels - red).sum(axis=1) < 30).sum() > 1000, "the curve"
    # Half transparent on white.
    faint = (np.array(blue) + 255) // 2
    assert (np.abs(pixels - faint).sum(axis=1) < 30).sum() > 1000, "the points"


def test_a_scatter_plot_of_constant_scores_has_no_curve(tmp_path):
    table = make_table(20)
    constant = Scores(dict.fromkeys((row.name for row in table.rows), 3.0))
    (one,) = evaluate(table, ModelScores(model="M", trained_on=None, by_split=(constant,)), "whole", QUICK)
    draw_scatter(one, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000
