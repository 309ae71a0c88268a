"""Results of many videos on standard output, one after another, in the format asked for."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from tqdm import tqdm

from diffvqa_rt.errors import printable
from diffvqa_rt.results import CSV_COLUMNS, ScoringFailure, VideoScore, csv_row
from diffvqa_rt.standard_output import print_results

Result = VideoScore | ScoringFailure


def write_results(results: Iterable[Result], count: int, format_name: str) -> int:
    """Prints `count` results as they come; failures and warnings are sentences on stderr, too.

    Returns:
        The exit status: 0, or 1 where any is a failure.
    """
    chosen = FORMATS[format_name]
    if chosen.header is not None:
        print_results(chosen.header)
    status = 0
    # The bar appears below the table's header.
    is_hidden = not sys.stderr.isatty()
    with tqdm(total=count, unit="video", file=sys.stderr, disable=is_hidden, leave=False) as bar:
        for result in results:
            if isinstance(result, ScoringFailure):
                status = 1
                sentences = [result.error]
            else:
                sentences = [f"{result.source}: {warning.message}" for warning in result.warnings]
            for sentence in sentences:
                tqdm.write(f"diffvqa: {printable(sentence)}", file=sys.stderr)
            # The bar and the rows may share a terminal: the bar steps aside while a row is written.
            with tqdm.external_write_mode(file=sys.stdout):
                print_results(chosen.row(result))
            bar.update()
    return status


@dataclass(frozen=True, slots=True)
class Format:
    """A layout of results: the line above them, and the line of each."""

    header: str | None
    row: Callable[[Result], str]


def _table_row(result: Result) -> str:
    if isinstance(result, ScoringFailure):
        return f"{'failed':>8}  {'':>7}  {'':>7}  {'':<16}  {printable(result.source)}"
    spread = f"{result.crop_spread:7.3f}" if len(result.crop_scores) > 1 else f"{'':>7}"
    seconds = sum(result.stage_seconds.values())
    mark = "!" if result.warnings else " "
    return f"{result.score:8.3f}{mark} {spread}  {seconds:7.2f}  {result.model:<16}  {printable(result.source)}"


def _csv_line(cells: Mapping[str, object]) -> str:
    line = io.StringIO()
    csv.DictWriter(line, CSV_COLUMNS, lineterminator="").writerow(cells)
    return line.getvalue()


FORMATS = {
    "table": Format(f"{'score':>8}  {'spread':>7}  {'seconds':>7}  {'model':<16}  video", _table_row),
    "json": Format(None, lambda result: json.dumps(result.as_dict())),
    "csv": Format(_csv_line({column: column for column in CSV_COLUMNS}), lambda result: _csv_line(csv_row(result))),
}
