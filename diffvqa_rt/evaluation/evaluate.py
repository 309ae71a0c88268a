"""One evaluation: a model's scores against a data set's opinions, by a protocol of SPEC §5."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from diffvqa_rt.errors import EvaluationError
from diffvqa_rt.evaluation.correlation import Agreement, Estimate, MetricName, measure_agreement, rank_correlation
from diffvqa_rt.evaluation.data_sets import ProtocolName
from diffvqa_rt.evaluation.mos_table import Kind, MosRow, MosTable
from diffvqa_rt.evaluation.protocols import is_by_row, published_splits, random_splits
from diffvqa_rt.evaluation.scores import Scores


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """`split_seed`: of the random splits; `resamples` (0 for no intervals) and `bootstrap_seed`: of the intervals."""

    split_seed: int = 0
    resamples: int = 1000
    bootstrap_seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelScores:
    """A model's predictions for one data set.

    Attributes:
        model: its name.
        trained_on: the `MosTable.name` of what it was trained on; None where that is not known.
        by_split: one set of scores for all, or, where a model was trained for each random split, one for each.
        crops: the crop positions that a score is the mean of; None where that is not known.
        has_prompts: whether each video was scored against its prompt; None of a model that takes none, or where that is
            not known.
    """

    model: str
    trained_on: str | None
    by_split: tuple[Scores, ...]
    crops: int | None = None
    has_prompts: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """A model on one test set.

    Attributes:
        model: its name; one that takes prompts, and had none, is another model.
        trained_on, crops, has_prompts: as in `ModelScores`.
        data, kind, test_set: the data set's name, what is in it, and the test set's title, such as `LSVQ test`.
        protocol: how.
        whole: over all tested videos, with intervals; None where each random split has scores of its own.
        splits: over each random split's test videos; empty under other protocols.
        scores, mos: what `whole`, or else the first split, was measured on.
        excluded: the tested videos that have no score, and so are in no number here.
        distortions: SRCC within each type of distortion: the mean over the random splits, else over all. NaN where one
            of them has too few of a type.
    """

    model: str
    trained_on: str | None
    crops: int | None
    has_prompts: bool | None
    data: str
    kind: Kind
    test_set: str
    protocol: ProtocolName
    whole: Agreement | None
    splits: tuple[Agreement, ...]
    scores: tuple[float, ...]
    mos: tuple[float, ...]
    excluded: tuple[str, ...]
    distortions: Mapping[str, float]

    @property
    def is_retrained(self) -> bool:
        """True where each random split was tested with a model that was trained on the rest of it."""
        return self.whole is None

    @property
    def pictured(self) -> Agreement:
        """The agreement of `scores` and `mos`."""
        return self.whole or self.splits[0]

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of `whole`, then those of the random splits, each once and with the splits that it is about."""
        by_note: dict[str, list[int]] = {}
        for number, split in enumerate(self.splits, 1):
            for note in split.notes:
                by_note.setdefault(note, []).append(number)
        of_splits = [f"In split {', '.join(map(str, numbers))}: {note}" for note, numbers in by_note.items()]
        return (*(self.whole.notes if self.whole else ()), *of_splits)

    def headline(self, metric: MetricName) -> Estimate:
        """The value that a paper's table shows: the mean over the random splits, else the whole's with its interval."""
        if self.splits:
            return Estimate(value=statistics.fmean(self.over_splits(metric)))
        return self.pictured.metrics[metric]

    def over_splits(self, metric: MetricName) -> list[float]:
        """The values in the random splits, in their order."""
        return [split.metrics[metric].value for split in self.splits]

    def deviation(self, metric: MetricName) -> float:
        """The sample standard deviation over the random splits; NaN without any, or where one value is NaN."""
        values = self.over_splits(metric)
        return statistics.stdev(values) if len(values) > 1 and not any(map(math.isnan, values)) else math.nan

    def median(self, metric: MetricName) -> float:
        """The median over the random splits; NaN as `deviation` is."""
        values = self.over_splits(metric)
        return statistics.median(values) if values and not any(map(math.isnan, values)) else math.nan


def distinct_scores(evaluations: Iterable[Evaluation]) -> list[Evaluation]:
    """The evaluations whose scores no earlier one has: both kinds of random splits may look at the same."""
    first: dict[tuple[object, ...], Evaluation] = {}
    for one in evaluations:
        first.setdefault((one.model, one.trained_on, one.data, one.scores), one)
    return list(first.values())


def is_on_random_splits(protocol: ProtocolName) -> bool:
    """True for the protocols that test on random splits."""
    return protocol == "splits" or is_by_row(protocol)


def rows_to_score(table: MosTable, protocol: ProtocolName) -> tuple[MosRow, ...]:
    """The rows that need a score under a protocol. Raises EvaluationError where the table has no such split."""
    if protocol == "published":
        return tuple(row for split in published_splits(table) for row in split.test)
    return table.rows


def evaluate(table: MosTable, model: ModelScores, protocol: ProtocolName, config: EvaluationConfig) -> list[Evaluation]:
    """A model on the test sets of a data set: one for each published split, else one.

    The random splits are made of the whole table, before videos without a score are left out, so that a failure moves
    no other video from train to test.

    Raises:
        EvaluationError: a test set has too few videos with scores, or there are scores for another number of splits.
    """
    if is_on_random_splits(protocol):
        return [_on_random_splits(table, model, protocol, config)]
    if len(model.by_split) > 1:
        raise EvaluationError(
            f"{model.model} has scores for each random split of {table.title}, but its protocol is {protocol}"
        )
    test_sets = (
        [(f"{table.title} {split.name}", split.test) for split in published_splits(table)]
        if protocol == "published"
        else [(table.title, table.rows)]
    )
    (scores,) = model.by_split
    evaluations = []
    for title, rows in test_sets:
        scored, excluded = _divide(rows, scores)
        whole = _measure(title, scored, scores, config)
        evaluations.append(_evaluation(table, model, protocol, title, whole, (), [(scored, scores)], scored, excluded))
    return evaluations


def _on_random_splits(
    table: MosTable, model: ModelScores, protocol: ProtocolName, config: EvaluationConfig
) -> Evaluation:
    by_row = is_by_row(protocol)
    title = f"{table.title} {protocol.removeprefix('splits-').replace('-', ' ')}" if by_row else table.title
    splits = random_splits(table, by_row=by_row, seed=config.split_seed)
    is_retrained = len(model.by_split) > 1
    if is_retrained and len(model.by_split) != len(splits):
        raise EvaluationError(f"{model.model} has scores for {len(model.by_split)} splits; expected {len(splits)}")
    agreements: list[Agreement] = []
    tested: list[_Scored] = []
    excluded: list[str] = []
    without_intervals = EvaluationConfig(resamples=0)
    for split, scores in zip(splits, model.by_split if is_retrained else model.by_split * len(splits), strict=True):
        scored, lost = _divide(split.test, scores)
        excluded += [f"{name} ({split.name})" for name in lost]
        agreements.append(_measure(f"{title}, {split.name}", scored, scores, without_intervals))
        tested.append((scored, scores))
    if is_retrained:
        first, _ = tested[0]
        return _evaluation(table, model, protocol, title, None, agreements, tested, first, excluded)
    scored, lost = _divide(table.rows, model.by_split[0])
    whole = _measure(title, scored, model.by_split[0], config)
    return _evaluation(table, model, protocol, title, whole, agreements, tested, scored, lost)


_Scored = tuple[Sequence[MosRow], Scores]
"""Rows that all have a score, and the scores."""


def _evaluation(
    table: MosTable,
    model: ModelScores,
    protocol: ProtocolName,
    test_set: str,
    whole: Agreement | None,
    splits: Sequence[Agreement],
    tested: Sequence[_Scored],
    scored: Sequence[MosRow],
    excluded: Sequence[str],
) -> Evaluation:
    return Evaluation(
        model=f"{model.model}, without prompt" if model.has_prompts is False else model.model,
        trained_on=model.trained_on,
        crops=model.crops,
        has_prompts=model.has_prompts,
        data=table.name,
        kind=table.kind,
        test_set=test_set,
        protocol=protocol,
        whole=whole,
        splits=tuple(splits),
        scores=tuple(model.by_split[0].by_name[row.name] for row in scored),
        mos=tuple(row.mos for row in scored),
        excluded=tuple(excluded),
        distortions=_within_distortions(table, tested),
    )


def _within_distortions(table: MosTable, tested: Sequence[_Scored]) -> dict[str, float]:
    """The SRCC within each type of distortion, in the table's order, and the mean over what was tested."""
    result = {}
    for distortion in dict.fromkeys(row.distortion for row in table.rows if row.distortion):
        values = []
        for rows, scores in tested:
            of_type = [row for row in rows if row.distortion == distortion]
            values.append(rank_correlation([scores.by_name[row.name] for row in of_type], [row.mos for row in of_type]))
        result[distortion] = statistics.fmean(values)
    return result


def _divide(rows: Sequence[MosRow], scores: Scores) -> tuple[list[MosRow], list[str]]:
    """The rows with a score, and the names of those without."""
    scored = [row for row in rows if row.name in scores.by_name]
    return scored, [row.name for row in rows if row.name not in scores.by_name]


def _measure(title: str, rows: Sequence[MosRow], scores: Scores, config: EvaluationConfig) -> Agreement:
    has_contents = any(row.content for row in rows)
    try:
        return _agreement(
            tuple(scores.by_name[row.name] for row in rows),
            tuple(row.mos for row in rows),
            tuple(row.content or row.name for row in rows) if has_contents else None,
            config,
        )
    except EvaluationError as error:
        raise EvaluationError(f"{title}: {error}") from error


# Both kinds of random splits of a data set have the same whole, and intervals of ten thousand images take a minute.
@lru_cache(maxsize=32)
def _agreement(
    scores: tuple[float, ...], mos: tuple[float, ...], contents: tuple[str, ...] | None, config: EvaluationConfig
) -> Agreement:
    return measure_agreement(scores, mos, contents=contents, resamples=config.resamples, seed=config.bootstrap_seed)
