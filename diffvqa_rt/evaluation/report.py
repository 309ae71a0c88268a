"""Evaluations as tables: laid out like the paper's Tables 1 to 4 and 6, and with everything that was measured."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from diffvqa_rt.evaluation.correlation import METRICS, Estimate, MetricName
from diffvqa_rt.evaluation.data_sets import DATA_SETS
from diffvqa_rt.evaluation.evaluate import Evaluation
from diffvqa_rt.evaluation.protocols import SPLITS, TEST_SHARE

HEADLINES: tuple[MetricName, ...] = ("srcc", "plcc")
"""The metrics that the paper's tables show of each test set."""

TITLES: dict[MetricName, str] = {
    "srcc": "SRCC↑",
    "plcc": "PLCC↑",
    "plcc_fitted": "PLCC, fitted↑",
    "krcc": "KRCC↑",
    "rmse": "RMSE, fitted↓",
}
METRIC_COLUMNS = (
    *("model", "trained_on", "data", "test_set", "protocol", "over", "videos", "metric", "value", "low", "high"),
)
"""`over`: `all` tested videos, `split 1` …, or the `mean`, `deviation` and `median` of the splits."""


@dataclass(frozen=True, slots=True)
class _TestSet:
    """A column group of the paper's tables."""

    trained_on: str | None
    data: str
    title: str

    @property
    def is_intra(self) -> bool:
        return self.trained_on in (None, self.data)


def report_markdown(evaluations: Sequence[Evaluation], resamples: int) -> str:
    """The whole report: the paper's table and its caption, every metric, and what a reader must know beside them."""
    remarks = remarks_markdown(evaluations)
    parts = [
        paper_markdown(evaluations),
        f"{caption(evaluations, resamples)}\n",
        details_markdown(evaluations),
        *([remarks] if remarks else []),
    ]
    return "\n".join(parts)


def paper_markdown(evaluations: Sequence[Evaluation]) -> str:
    """A table with a row for each model, and for each test set a column with its SRCC and one with its PLCC.

    Where training sets are known, a row above says which (Table 4), or which test sets are of the training set's own
    data set (Table 2). Of several models the best of a column is bold, of three or more the second-best underlined.
    """
    test_sets, models, cells = _arrange(evaluations)
    head = ["Test set", *_spread([test_set.title for test_set in test_sets])]
    above = _row_above(test_sets)
    rows = [["**Method**", *(f"**{TITLES[metric]}**" for _ in test_sets for metric in HEADLINES)]]
    if above:
        rows.insert(0, [f"**{cell}**" if cell else "" for cell in head])
        head = above
    marked = [mark_best([cells.get((model, *column)) for model in models]) for column in _columns(test_sets)]
    rows += [[_escape(model), *(column[index] for column in marked)] for index, model in enumerate(models)]
    return _markdown(head, rows)


def paper_csv(evaluations: Sequence[Evaluation]) -> str:
    """The same table for machines: one header line, values in full, nothing where a model was not tested."""
    test_sets, models, cells = _arrange(evaluations)
    header = ["model"]
    for test_set, metric in _columns(test_sets):
        origin = f"{_title(test_set.trained_on)} → " if test_set.trained_on else ""
        header.append(f"{origin}{test_set.title} {metric}")
    rows = [[model, *(_full(cells.get((model, *column))) for column in _columns(test_sets))] for model in models]
    return _csv(header, rows)


def details_markdown(evaluations: Sequence[Evaluation]) -> str:
    """Every metric of every evaluation: over all videos with its interval, and over the random splits if any."""
    rows = []
    for one in evaluations:
        first = [_escape(one.model), _title(one.trained_on) or "not known", one.test_set]
        if one.whole:
            values = [_with_interval(one.whole.metrics[metric]) for metric in METRICS]
            rows.append([*first, "all", str(one.whole.videos), *values])
        if one.splits:
            values = [
                f"{_short(one.headline(metric).value)} ± {_short(one.deviation(metric))} "
                f"(median {_short(one.median(metric))})"
                for metric in METRICS
            ]
            sizes = sorted({split.videos for split in one.splits})
            videos = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} … {sizes[-1]}"
            rows.append([*first, f"{len(one.splits)} test splits", videos, *values])
    head = ["Method", "Trained on", "Test set", "Over", "Videos", *(TITLES[metric] for metric in METRICS)]
    return _markdown(head, rows)


def metrics_csv(evaluations: Sequence[Evaluation]) -> str:
    """Every number, one a line, under `METRIC_COLUMNS`; what is not defined, or was not asked for, is empty."""
    return _csv(METRIC_COLUMNS, (list(row.values()) for row in metric_rows(evaluations)))


def excluded_csv(evaluations: Sequence[Evaluation]) -> str:
    """The videos that have no score, one a line: `model,test_set,video`."""
    rows = [(one.model, one.test_set, video) for one in evaluations for video in one.excluded]
    return _csv(("model", "test_set", "video"), rows)


def metric_rows(evaluations: Sequence[Evaluation]) -> list[dict[str, str | int | float | None]]:
    """The records of `metrics_csv`, by column; None where it has nothing."""
    records = []
    for one in evaluations:
        for metric in METRICS:
            numbers: list[tuple[str, int, Estimate]] = []
            if one.whole:
                numbers.append(("all", one.whole.videos, one.whole.metrics[metric]))
            numbers += [(f"split {i}", split.videos, split.metrics[metric]) for i, split in enumerate(one.splits, 1)]
            if one.splits:
                videos = sum(split.videos for split in one.splits)
                numbers.append(("mean", videos, one.headline(metric)))
                numbers.append(("deviation", videos, Estimate(value=one.deviation(metric))))
                numbers.append(("median", videos, Estimate(value=one.median(metric))))
            for over, videos, estimate in numbers:
                ends = (estimate.value, estimate.low, estimate.high)
                origin = (one.model, one.trained_on, one.data, one.test_set, one.protocol)
                values = (*origin, over, videos, metric, *(None if math.isnan(end) else end for end in ends))
                records.append(dict(zip(METRIC_COLUMNS, values, strict=True)))
    return records


def caption(evaluations: Sequence[Evaluation], resamples: int) -> str:
    """Sentences that say what the numbers are: the protocols that occur, what is fitted, the intervals."""
    sentences = [
        "PLCC is of the raw scores; fitted PLCC and RMSE (in units of the MOS) are after a 4-parameter logistic."
    ]
    titles = {protocol: _titles(evaluations, protocol) for protocol in ("splits", "published", "whole")}
    share = f"{round(10 - 10 * TEST_SHARE)}:{round(10 * TEST_SHARE)}"
    if titles["splits"]:
        sentences.append(f"{titles['splits']}: the mean over the test sides of {SPLITS} random {share} splits.")
    same = [one for one in evaluations if one.protocol == "splits" and not one.is_retrained]
    if same:
        sentences.append(
            f"{_models(same)}: nothing was trained on the splits; the same scores are looked at in each of the "
            f"{SPLITS} test sides. Their mean is therefore close to the value over all videos, their spread says how "
            "much a test set of that size varies, and neither compares with models that were fine-tuned on the splits."
        )
    if retrained := [one for one in evaluations if one.is_retrained]:
        sentences.append(f"{_models(retrained)}: a model was trained for each split, on the rest of the data set.")
    if titles["published"]:
        sentences.append(f"{titles['published']}: the published test split.")
    if titles["whole"]:
        sentences.append(f"{titles['whole']}: all videos of the data set.")
    if resamples:
        sentences.append(f"In brackets: bootstrap 95 % intervals (percentiles of {resamples} resamples).")
    return " ".join(sentences)


def remarks_markdown(evaluations: Sequence[Evaluation]) -> str:
    """A list of what else a reader must know: videos that are in no number, fits that failed. Empty if nothing."""
    lines = []
    for one in evaluations:
        place = f"{_escape(one.model)} on {one.test_set}"
        if one.excluded:
            total = len(one.excluded) + len(one.scores)
            of_all = f" of {total}" if not one.is_retrained else ""
            names = ", ".join(_escape(name) for name in one.excluded[:10])
            more = f" and {len(one.excluded) - 10} more" if len(one.excluded) > 10 else ""
            lines.append(
                f"* **{place}: {len(one.excluded)}{of_all} videos have no score and are excluded**: {names}{more}."
            )
        lines += [f"* {place}: {note}" for note in one.notes]
    return "".join(f"{line}\n" for line in lines)


_Cells = dict[tuple[str, _TestSet, MetricName], float]


def _arrange(evaluations: Sequence[Evaluation]) -> tuple[list[_TestSet], list[str], _Cells]:
    """Test sets by training set, models in their order, and the headline value of each that was measured."""
    cells: _Cells = {}
    for one in evaluations:
        for metric in HEADLINES:
            cells[one.model, _TestSet(one.trained_on, one.data, one.test_set), metric] = one.headline(metric).value
    test_sets = list(dict.fromkeys(test_set for _, test_set, _ in cells))
    origins = list(dict.fromkeys(test_set.trained_on for test_set in test_sets))
    test_sets.sort(key=lambda test_set: origins.index(test_set.trained_on))
    return test_sets, list(dict.fromkeys(one.model for one in evaluations)), cells


def _columns(test_sets: Sequence[_TestSet]) -> list[tuple[_TestSet, MetricName]]:
    return [(test_set, metric) for test_set in test_sets for metric in HEADLINES]


def _row_above(test_sets: Sequence[_TestSet]) -> list[str]:
    origins = {test_set.trained_on for test_set in test_sets}
    if origins == {None}:
        return []
    if len(origins) == 1 and len({test_set.is_intra for test_set in test_sets}) == 2:
        kinds = ["Intra-dataset" if test_set.is_intra else "Cross-dataset" for test_set in test_sets]
        return [f"Trained on {_title(test_sets[0].trained_on)}", *_spread(kinds)]
    return ["Training set", *_spread([_title(test_set.trained_on) or "not known" for test_set in test_sets])]


def _spread(titles: Sequence[str]) -> list[str]:
    """Each title over its columns: Markdown has no merged cells, so it stands in the first of them, once for a run."""
    cells = []
    for index, title in enumerate(titles):
        cells += ["" if index and titles[index - 1] == title else title, *[""] * (len(HEADLINES) - 1)]
    return cells


def mark_best(column: Sequence[float | None]) -> list[str]:
    """A column's cells: the best of several bold, the second-best of three or more underlined, by what is shown."""
    texts = ["N/A" if value is None else _short(value) for value in column]
    shown = sorted({float(text) for text in texts if text not in ("N/A", "undefined")}, reverse=True)
    measured = sum(text != "N/A" for text in texts)
    for index, text in enumerate(texts):
        if text in ("N/A", "undefined") or measured < 2:
            continue
        if float(text) == shown[0]:
            texts[index] = f"**{text}**"
        elif measured > 2 and float(text) == shown[1]:
            texts[index] = f"<u>{text}</u>"
    return texts


def _title(name: str | None) -> str:
    if name is None:
        return ""
    return DATA_SETS[name].title if name in DATA_SETS else name


def _titles(evaluations: Sequence[Evaluation], protocol: str) -> str:
    return ", ".join(dict.fromkeys(one.test_set for one in evaluations if one.protocol == protocol))


def _models(evaluations: Sequence[Evaluation]) -> str:
    return ", ".join(dict.fromkeys(one.model for one in evaluations))


def _short(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"


def _with_interval(estimate: Estimate) -> str:
    if math.isnan(estimate.low):
        return _short(estimate.value)
    return f"{_short(estimate.value)} [{_short(estimate.low)}, {_short(estimate.high)}]"


def _full(value: float | None) -> str:
    return "" if value is None else repr(value)


def _escape(text: str) -> str:
    """Text that a Markdown table shows as it is."""
    text = "".join(c if c.isprintable() else " " for c in text)
    for character in "\\|*_`<>[]":
        text = text.replace(character, f"\\{character}")
    return text


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
