"""Results of many videos on standard output, one after another, in the format asked for."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from diffvqa_rt.commands.libvmaf_logs import LIBVMAF_FORMATS, LibvmafLog, libvmaf_log
from diffvqa_rt.errors import printable
from diffvqa_rt.results import ScoringFailure, VideoScore, csv_row
from diffvqa_rt.standard_output import print_results

Result = VideoScore | ScoringFailure


def write_results(results: Iterable[Result], count: int, format_name: str, columns: Sequence[str]) -> int:
    """Prints `count` results as they come; failures and warnings are sentences on stderr, too.

    `columns` are those of a CSV.

    Returns:
        The exit status: 0, or 1 where any is a failure.
    """
    chosen = FORMATS[format_name](columns)
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
                if (row := chosen.row(result)) is not None:
                    print_results(row)
            bar.update()
    return status


@dataclass(frozen=True, slots=True)
class Format:
    """A layout of results: the line above them, and the text of each; None where it has no place for a failure."""

    header: str | None
    row: Callable[[Result], str | None]


def _table_row(result: Result) -> str:
    if isinstance(result, ScoringFailure):
        return f"{'failed':>8}  {'':>7}  {'':>7}  {'':<16}  {printable(result.source)}"
    spread = f"{result.crop_spread:7.3f}" if len(result.crop_scores) > 1 else f"{'':>7}"
    seconds = sum(result.stage_seconds.values())
    mark = "!" if result.warnings else " "
    prompt = f"  “{printable(result.prompt)}”" if result.prompt is not None else ""
    return f"{result.score:8.3f}{mark} {spread}  {seconds:7.2f}  {result.model:<16}  {printable(result.source)}{prompt}"


def _table(columns: Sequence[str]) -> Format:
    return Format(f"{'score':>8}  {'spread':>7}  {'seconds':>7}  {'model':<16}  video", _table_row)


def _json(columns: Sequence[str]) -> Format:
    return Format(None, lambda result: json.dumps(result.as_dict()))


def _csv(columns: Sequence[str]) -> Format:
    def line(cells: Mapping[str, object]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, columns, lineterminator="").writerow(cells)
        return text.getvalue()

    return Format(line({column: column for column in columns}), lambda result: line(csv_row(result, columns)))


def _libvmaf(text: Callable[[LibvmafLog], str]) -> Callable[[Sequence[str]], Format]:
    def row(result: Result) -> str | None:
        return text(libvmaf_log(result)) if isinstance(result, VideoScore) else None

    return lambda columns: Format(None, row)


FORMATS: dict[str, Callable[[Sequence[str]], Format]] = {
    "table": _table,
    "json": _json,
    "csv": _csv,
    **{name: _libvmaf(text) for name, text in LIBVMAF_FORMATS.items()},
}
"""By name, what makes the layout, given the columns of a CSV."""
