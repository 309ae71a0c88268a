"""`diffvqa report`: results as one HTML file for a person to look at."""

import argparse
import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from diffvqa_rt.arguments import UsageError
from diffvqa_rt.commands.command import Command
from diffvqa_rt.errors import ReportError, printable
from diffvqa_rt.extras import needs_package
from diffvqa_rt.files import write_whole
from diffvqa_rt.results import VideoScore


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "results",
        nargs="+",
        type=Path,
        metavar="RESULTS",
        help="what `diffvqa score --format json` printed, or Parquet of `diffvqa batch`, a file or a folder",
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="the report, an HTML file (default: %(default)s)",
    )
    command.add_argument(
        "--ab",
        action="store_true",
        help="compare two RESULTS, A and B: two encodes of the same sources, or two engines' scores of the same files",
    )
    command.add_argument("--no-frames", action="store_true", help="show no frames, and decode no video")


def _run(arguments: argparse.Namespace) -> int:
    """Writes the report. The exit status: 0 done, 1 where rows are left out."""
    if arguments.ab and len(arguments.results) != 2:
        raise UsageError(f"--ab compares two RESULTS, and {len(arguments.results)} are given")
    try:
        from diffvqa_rt.report.page import build_report
        from diffvqa_rt.report.pictures import ScoredFrames
        from diffvqa_rt.report.reading import read_results
    except ModuleNotFoundError as error:
        raise ReportError(needs_package("a report", error.name, "report")) from error
    results = [read_results(path) for path in arguments.results]
    problems = [problem for file in results for problem in file.problems]
    for problem in problems:
        print(f"diffvqa: {printable(problem)}", file=sys.stderr)
    pictures = None if arguments.no_frames else ScoredFrames()
    with contextlib.closing(pictures) if pictures else contextlib.nullcontext():
        html = build_report(results, is_comparison=arguments.ab, pictures=pictures, progress=_tracked)
    content = html.encode()
    write_whole(arguments.out, lambda part: part.write_bytes(content))
    print(f"diffvqa: wrote {arguments.out}, {len(content) / 1e6:.1f} MB", file=sys.stderr)
    return 1 if problems else 0


def _tracked(scores: Iterable[VideoScore]) -> Iterable[VideoScore]:
    return tqdm(scores, unit="video", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False)


COMMAND = Command(
    name="report",
    help="show results as a page: ranking, curves, frames, A against B",
    description="Make one HTML file of results, which needs no network and no other file: the ranking with "
    "percentiles, and of each video the curve, the frames that were scored with their crops, and the parts of its "
    "score. Frames are shown of videos that are at hand, at the path that the results name, from here or from the "
    "results' folder. A row that is no result is reported and left out, and the exit status is 1.",
    add_arguments=_add_arguments,
    run=_run,
)
