"""Evaluations as tables: laid out like the papers' tables, and with everything that was measured.

DiffVQA's Tables 1 to 4 and 6, DiffV²IQA's I, III, IV and those of its ablations and AIGC-VQA's have one layout,
DiffV²IQA's Table II has another. Published numbers stand below the measured ones where they are comparable.
"""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from diffvqa_rt.evaluation.correlation import METRICS, Estimate, MetricName
from diffvqa_rt.evaluation.data_sets import DATA_SETS, ProtocolName
from diffvqa_rt.evaluation.evaluate import Evaluation, distinct_scores, is_on_random_splits
from diffvqa_rt.evaluation.protocols import SPLITS, TEST_SHARE
from diffvqa_rt.evaluation.published import PublishedResult

HEADLINES: tuple[MetricName, ...] = ("srcc", "plcc")
"""The metrics that the paper's tables show of each test set, beside those that a published row has more."""

TITLES: dict[MetricName, str] = {
    "srcc": "SRCC↑",
    "plcc": "PLCC↑",
    "plcc_fitted": "PLCC, fitted↑",
    "krcc": "KRCC↑",
    "rmse": "RMSE, fitted↓",
    "rmse_matched": "RMSE, matched↓",
    "main": "Main score↑",
}
LOW_IS_GOOD: tuple[MetricName, ...] = ("rmse", "rmse_matched")
METRIC_COLUMNS = (
    *("model", "trained_on", "data", "test_set", "protocol", "over", "videos", "metric", "value", "low", "high"),
    "crops",
)
"""`over`: `all` tested videos, `split 1` …, or the `mean`, `deviation` and `median` of the splits."""


@dataclass(frozen=True, slots=True)
class _TestSet:
    """A column group of the paper's tables."""

    trained_on: str | None
    data: str
    title: str
    protocol: str

    @property
    def is_intra(self) -> bool:
        return self.trained_on in (None, self.data)

    def matches(self, result: PublishedResult) -> bool:
        """True where a published number is of this test set, by this protocol, after the same training."""
        wanted = (result.data, result.protocol, result.trained_on or result.data)
        return wanted == (self.data, self.protocol, self.trained_on or self.data)


def report_markdown(
    evaluations: Sequence[Evaluation], resamples: int, published: Sequence[PublishedResult] = ()
) -> str:
    """The whole report: the paper's tables and their caption, every metric, and what a reader must know beside them."""
    parts = [
        paper_markdown(evaluations, published),
        f"{caption(evaluations, resamples, published)}\n",
        *distortions_markdown(evaluations, published),
        details_markdown(evaluations),
        remarks_markdown(evaluations),
    ]
    return "\n".join(part for part in parts if part)


def paper_markdown(evaluations: Sequence[Evaluation], published: Sequence[PublishedResult] = ()) -> str:
    """A table with a row for each model, and for each test set a column with its SRCC and one with its PLCC.

    A test set has a column more for each other metric that a published row has of it.
    Where training sets are known, a row above says which (Table 4), or which test sets are of the training set's own
    data set (Table 2). Of several models the best of a column is bold, of three or more the second-best underlined.
    """
    columns, models, cells = _arrange(evaluations, published)
    head = ["Test set", *_spread([test_set.title for test_set, _ in columns])]
    above = _row_above([test_set for test_set, _ in columns])
    rows = [["**Method**", *(f"**{TITLES[metric]}**" for _, metric in columns)]]
    if above:
        rows.insert(0, [f"**{cell}**" if cell else "" for cell in head])
        head = above
    marked = [
        mark_best([cells.get((model, test_set, metric)) for model in models], is_low_good=metric in LOW_IS_GOOD)
        for test_set, metric in columns
    ]
    rows += [[_escape(model), *(column[index] for column in marked)] for index, model in enumerate(models)]
    return _markdown(head, rows)


def paper_csv(evaluations: Sequence[Evaluation], published: Sequence[PublishedResult] = ()) -> str:
    """The same table for machines: one header line, values in full, nothing where a model was not tested."""
    columns, models, cells = _arrange(evaluations, published)
    header = ["model"]
    for test_set, metric in columns:
        origin = f"{_title(test_set.trained_on)} → " if test_set.trained_on else ""
        header.append(f"{origin}{test_set.title} {metric}")
    rows = [[model, *(_full(cells.get((model, *column))) for column in columns)] for model in models]
    return _csv(header, rows)


def distortions_markdown(evaluations: Sequence[Evaluation], published: Sequence[PublishedResult] = ()) -> list[str]:
    """A table for each test set whose types of distortion are known: SRCC within each, a row for each model."""
    tables = []
    for test_set in _test_sets(evaluations):
        tested = [one for one in evaluations if _test_set(one) == test_set and one.distortions]
        types = list(dict.fromkeys(name for one in tested for name in one.distortions))
        cells = {(one.model, name): value for one in tested for name, value in one.distortions.items()}
        for result in published:
            if result.distortion in types and test_set.matches(result):
                cells[result.method, result.distortion] = result.metrics["srcc"]
        models = list(dict.fromkeys(model for model, _ in cells))
        marked = [mark_best([cells.get((model, name)) for model in models]) for name in types]
        if types:
            trained_on = f" (trained on {_title(test_set.trained_on)})" if test_set.trained_on else ""
            head = [f"SRCC↑ on {test_set.title}{trained_on}, within", *types]
            rows = ([_escape(model), *(column[index] for column in marked)] for index, model in enumerate(models))
            tables.append(_markdown(head, rows))
    return tables


def details_markdown(evaluations: Sequence[Evaluation]) -> str:
    """Every metric of every evaluation: over all videos with its interval, and over the random splits if any."""
    rows = []
    distinct = [id(one) for one in distinct_scores(evaluations)]
    for one in evaluations:
        first = [_escape(one.model), _title(one.trained_on) or "not known", one.test_set]
        if one.whole and id(one) in distinct:
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
    head = [
        "Method",
        "Trained on",
        "Test set",
        "Over",
        _kinds(evaluations).capitalize(),
        *(TITLES[metric] for metric in METRICS),
    ]
    return _markdown(head, rows)


def metrics_csv(evaluations: Sequence[Evaluation]) -> str:
    """Every number, one a line, under `METRIC_COLUMNS`; what is not defined, or was not asked for, is empty."""
    return _csv(METRIC_COLUMNS, (list(row.values()) for row in metric_rows(evaluations)))


def distortions_csv(evaluations: Sequence[Evaluation]) -> str:
    """SRCC within each type of distortion, one a line; empty where it is not defined."""
    rows = [
        (
            one.model,
            one.trained_on or "",
            one.data,
            one.test_set,
            one.protocol,
            name,
            "" if math.isnan(value) else value,
        )
        for one in evaluations
        for name, value in one.distortions.items()
    ]
    return _csv(("model", "trained_on", "data", "test_set", "protocol", "distortion", "srcc"), rows)


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
                values = (*origin, over, videos, metric, *(None if math.isnan(end) else end for end in ends), one.crops)
                records.append(dict(zip(METRIC_COLUMNS, values, strict=True)))
    return records


def caption(evaluations: Sequence[Evaluation], resamples: int, published: Sequence[PublishedResult] = ()) -> str:
    """Sentences that say what the numbers are: the protocols that occur, what is fitted, the intervals."""
    sentences = [
        "PLCC is of the raw scores; fitted PLCC and RMSE (in units of the MOS) are after a 4-parameter logistic; "
        "matched RMSE is of scores with the mean and standard deviation of the MOS; main score: (SRCC + PLCC) / 2."
    ]
    titles = {protocol: _titles(evaluations, protocol) for protocol in get_args(ProtocolName)}
    kinds = _kinds(evaluations)
    share = f"{round(10 - 10 * TEST_SHARE)}:{round(10 * TEST_SHARE)}"
    if titles["splits"]:
        sentences.append(f"{titles['splits']}: the mean over the test sides of {SPLITS} random {share} splits.")
    if titles["splits-by-image"]:
        sentences.append(
            f"{titles['splits-by-image']}: the same, but splits by image, which have versions of one content on both "
            "sides; that raises the numbers of models that were trained on the splits, and much published code does it."
        )
    if titles["splits-by-video"]:
        sentences.append(
            f"{titles['splits-by-video']}: the same, but splits by video, which have videos of one prompt on both "
            "sides, and equal shares of the generators that the table names; AIGC-VQA's paper splits so."
        )
    same = [one for one in evaluations if is_on_random_splits(one.protocol) and not one.is_retrained]
    if same:
        sentences.append(
            f"{_models(same)}: nothing was trained on the splits; the same scores are looked at in each of the "
            f"{SPLITS} test sides. Their mean is therefore close to the value over all {kinds}, their spread says how "
            "much a test set of that size varies, and neither compares with models that were fine-tuned on the splits."
        )
    if retrained := [one for one in evaluations if one.is_retrained]:
        sentences.append(f"{_models(retrained)}: a model was trained for each split, on the rest of the data set.")
    if titles["published"]:
        sentences.append(f"{titles['published']}: the published test split.")
    if titles["whole"]:
        sentences.append(f"{titles['whole']}: all {kinds} of the data set.")
    with_prompts, without = ([one for one in evaluations if one.has_prompts is has] for has in (True, False))
    if with_prompts:
        sentences.append(f"{_models(with_prompts)}: each video is scored against its prompt.")
    if without:
        sentences.append(
            f"{_models(without)}: the video alone, on another scale; not comparable with scores of prompts."
        )
    for model, crops in dict.fromkeys((one.model, one.crops) for one in evaluations if one.crops):
        sentences.append(f"{_escape(model)}: {crops} crop position{'s' if crops > 1 else ''} of each.")
    test_sets = _test_sets(evaluations)
    shown = [result for result in published if any(test_set.matches(result) for test_set in test_sets)]
    if shown:
        tables = ", ".join(dict.fromkeys(result.table for result in shown))
        sentences.append(
            f"Published: the numbers of Table {tables} of the paper, in the columns whose kind of splits it has."
        )
    if resamples:
        sentences.append(f"In brackets: bootstrap 95 % intervals (percentiles of {resamples} resamples).")
    return " ".join(sentences)


def remarks_markdown(evaluations: Sequence[Evaluation]) -> str:
    """A list of what else a reader must know: videos that are in no number, fits that failed. Empty if nothing."""
    lines = []
    distinct = [id(one) for one in distinct_scores(evaluations)]
    for one in evaluations:
        place = f"{_escape(one.model)} on {one.test_set}"
        if one.excluded and id(one) in distinct:
            total = len(one.excluded) + len(one.scores)
            of_all = f" of {total}" if not one.is_retrained else ""
            names = ", ".join(_escape(name) for name in one.excluded[:10])
            more = f" and {len(one.excluded) - 10} more" if len(one.excluded) > 10 else ""
            lines.append(
                f"* **{place}: {len(one.excluded)}{of_all} {one.kind}s have no score and are excluded**: {names}{more}."
            )
        lines += [f"* {place}: {note}" for note in one.notes]
    return "".join(f"{line}\n" for line in lines)


_Column = tuple[_TestSet, MetricName]
_Cells = dict[tuple[str, _TestSet, MetricName], float]


def _arrange(
    evaluations: Sequence[Evaluation], published: Sequence[PublishedResult]
) -> tuple[list[_Column], list[str], _Cells]:
    """Columns by training set, models in their order, and the headline value of each that was measured, or published.

    A published row comes after the measured ones; one that has no number for any of the test sets is left out.
    """
    cells: _Cells = {}
    for one in evaluations:
        for metric in METRICS:
            cells[one.model, _test_set(one), metric] = one.headline(metric).value
    test_sets = _test_sets(evaluations)
    wanted = {(test_set, metric) for test_set in test_sets for metric in HEADLINES}
    for result in published:
        for test_set in test_sets:
            if not result.distortion and test_set.matches(result):
                for metric, value in result.metrics.items():
                    cells[result.method, test_set, metric] = value
                    wanted.add((test_set, metric))
    columns = [(test_set, metric) for test_set in test_sets for metric in METRICS if (test_set, metric) in wanted]
    return columns, list(dict.fromkeys(model for model, _, _ in cells)), cells


def _test_set(one: Evaluation) -> _TestSet:
    return _TestSet(one.trained_on, one.data, one.test_set, one.protocol)


def _test_sets(evaluations: Sequence[Evaluation]) -> list[_TestSet]:
    """Each test set once, those of one training set together."""
    test_sets = list(dict.fromkeys(map(_test_set, evaluations)))
    origins = list(dict.fromkeys(test_set.trained_on for test_set in test_sets))
    return sorted(test_sets, key=lambda test_set: origins.index(test_set.trained_on))


def _row_above(test_sets: Sequence[_TestSet]) -> list[str]:
    """The cells above the columns' test sets."""
    origins = {test_set.trained_on for test_set in test_sets}
    if origins == {None}:
        return []
    if len(origins) == 1 and len({test_set.is_intra for test_set in test_sets}) == 2:
        kinds = ["Intra-dataset" if test_set.is_intra else "Cross-dataset" for test_set in test_sets]
        return [f"Trained on {_title(test_sets[0].trained_on)}", *_spread(kinds)]
    return ["Training set", *_spread([_title(test_set.trained_on) or "not known" for test_set in test_sets])]


def _spread(titles: Sequence[str]) -> list[str]:
    """The columns' titles: Markdown has no merged cells, so each stands in the first column of a run of it."""
    return ["" if index and titles[index - 1] == title else title for index, title in enumerate(titles)]


def mark_best(column: Sequence[float | None], *, is_low_good: bool = False) -> list[str]:
    """A column's cells: the best of several bold, the second-best of three or more underlined, by what is shown."""
    texts = ["N/A" if value is None else _short(value) for value in column]
    shown = sorted({float(text) for text in texts if text not in ("N/A", "undefined")}, reverse=not is_low_good)
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


def _kinds(evaluations: Sequence[Evaluation]) -> str:
    """The word for what the data sets hold: `videos`, `images`, or both."""
    return " or ".join(f"{kind}s" for kind in dict.fromkeys(one.kind for one in evaluations))


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
