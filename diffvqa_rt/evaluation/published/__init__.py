"""Numbers that papers report, to stand beside measured ones.

`NAME.csv` has a metric's results by its name, and `NAME-ablations.csv` those of its variants: a file is all that it
takes. `protocol` is what the paper's numbers are comparable with; where a paper does not say how it splits, its
authors' code does. `row 2` is one of a table whose ticks are lost in the text that the numbers were read from.

DiffV²IQA's Table III: that text has the header `LIVE`, `TID2013 CSIQ`, `CLIVE`, `LIVE`, `CLIVE TID2013`, `CSIQ`.
Training sets stand over the middle of their columns, as `Training` does over `Testing`.

AIGC-VQA's RMSE is taken as that of scores with the mean and the standard deviation of the MOS, which the field's code
measures (SPEC-aigc-vqa, 9); the paper does not say. Its models `fixed` were not trained on T2VQA-DB, and stand in the
same column all the same. Its Table 1 has no main scores; in Table 4 and 5, 0.8140 is not the mean of its row.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffvqa_rt.evaluation.mos_table import parse_number, read_csv

if TYPE_CHECKING:
    from diffvqa_rt.evaluation.correlation import MetricName  # SciPy, without which the command's help works

_FOLDER = Path(__file__).parent
_COLUMNS = ("table", "method", "trained_on", "data", "protocol", "distortion", "srcc", "plcc")

PUBLISHED = tuple(sorted(path.stem for path in _FOLDER.glob("*.csv")))
"""The names that `published_results` knows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedResult:
    """One place of a paper's table.

    Attributes:
        table: its number in the paper.
        method: the row's name.
        trained_on: the training data set, where that is another than `data`.
        data, protocol: the test set, as `Evaluation` has them.
        distortion: the one type that the number is of; None for all.
        metrics: what the table shows, by name.
    """

    table: str
    method: str
    trained_on: str | None
    data: str
    protocol: str
    distortion: str | None
    metrics: "dict[MetricName, float]"


def published_results(name: str) -> tuple[PublishedResult, ...]:
    """The numbers of one of `PUBLISHED`, in the order of the paper."""
    results = []
    metrics: tuple[MetricName, ...] = ("srcc", "plcc", "krcc", "rmse_matched", "main")
    for row in read_csv(_FOLDER / f"{name}.csv", _COLUMNS):
        cells = row.cells
        results.append(
            PublishedResult(
                table=cells["table"],
                method=f"{cells['method']}, published",
                trained_on=cells["trained_on"] or None,
                data=cells["data"],
                protocol=cells["protocol"],
                distortion=cells["distortion"] or None,
                metrics={
                    metric: parse_number(row.where, metric, cells[metric]) for metric in metrics if cells.get(metric)
                },
            )
        )
    return tuple(results)
