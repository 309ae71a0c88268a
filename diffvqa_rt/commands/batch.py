"""`diffvqa batch`: the scores of a catalogue, into a folder of Parquet files, on this machine or on a Ray cluster."""

import argparse
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from diffvqa_rt.arguments import add_engine_arguments, checked_arguments, whole_number
from diffvqa_rt.commands.command import Command
from diffvqa_rt.commands.scoring_arguments import add_request_arguments
from diffvqa_rt.engines import Manifest
from diffvqa_rt.engines.describe import UNTRAINED_NOTE
from diffvqa_rt.errors import BatchError, printable
from diffvqa_rt.extras import needs_package
from diffvqa_rt.metric import Request

if TYPE_CHECKING:
    from diffvqa_rt.batch.run import BatchSummary


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "places",
        nargs="+",
        metavar="VIDEOS",
        help="a table (.csv or .parquet with the column video, and perhaps prompt and id), a folder, a pattern with *, "
        "or a video; a path or a URL (s3://, gs://, file://)",
    )
    command.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="the folder of the scores, a path or a URL; what it holds is not scored again",
    )
    add_engine_arguments(command, threads="CPU threads of an engine worker; changes no score (default: 1)")
    command.add_argument(
        "--batch",
        type=whole_number(1),
        default=1,
        metavar="V",
        help="videos that go through the engines together; changes no score (default: %(default)s)",
    )
    add_request_arguments(command)
    command.add_argument(
        "--ray-address", metavar="HOST:PORT", help="the Ray cluster to run on (default: this machine, for this run)"
    )
    command.add_argument(
        "--rows-a-file",
        type=whole_number(1),
        default=1000,
        metavar="N",
        help="the most rows of an output file; a file is written after half a minute at the latest, and a killed run "
        "loses what is not written and what the workers are at (default: %(default)s)",
    )
    command.add_argument(
        "--model-changed-only",
        action="store_true",
        help="score only the videos of which --out has scores by other engines or options",
    )


def _run(arguments: argparse.Namespace) -> int:
    """Scores the catalogue. The exit status: 0 done, 1 where a video has no score."""
    for package in ("fsspec", "pyarrow", "ray"):
        if importlib.util.find_spec(package) is None:
            raise BatchError(needs_package("diffvqa batch", package, "batch"))
    from diffvqa_rt.batch.manifest import read_entries
    from diffvqa_rt.batch.run import BatchJob, run_batch

    with checked_arguments():
        request = Request(
            seed=arguments.seed,
            crops=arguments.crops,
            frames=arguments.frames,
            keep_interlaced=arguments.keep_interlaced,
        )
        manifest = Manifest.read(arguments.engines)
        manifest.metric.check(request)
    if not manifest.weights.is_trained:
        print(f"diffvqa: {UNTRAINED_NOTE}", file=sys.stderr)
    job = BatchJob(
        engines=arguments.engines,
        backend=arguments.backend,
        request=request,
        out=arguments.out,
        ray_address=arguments.ray_address,
        threads=arguments.threads or 1,
        batch=arguments.batch,
        rows_a_file=arguments.rows_a_file,
        is_model_changed_only=arguments.model_changed_only,
    )
    with tqdm(unit="video", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as bar:

        def begin(count: int) -> None:
            bar.reset(total=count)

        def report(row: dict[str, Any]) -> None:
            sentences = (
                [row["error"]] if row["error"] else [f"{row['source']}: {w['message']}" for w in row["warnings"]]
            )
            for sentence in sentences:
                tqdm.write(f"diffvqa: {printable(sentence)}", file=sys.stderr)
            bar.update()

        summary = run_batch(job, read_entries(arguments.places), begin, report)
    print(f"diffvqa: {_counts(summary)}; {arguments.out}", file=sys.stderr)
    return 1 if summary.failed else 0


def _counts(summary: "BatchSummary") -> str:
    return f"{summary.scored:,} scored, {summary.failed:,} failed, {summary.skipped:,} left as they were"


COMMAND = Command(
    name="batch",
    help="score a catalogue into Parquet, resumably, here or on a Ray cluster",
    description="Score a catalogue of videos on Ray Data, into a folder of Parquet files with a row a video. A run "
    "that was killed goes on where it was: what the folder holds is not scored again, and what failed is tried again. "
    "A video that cannot be scored has a row that says why, the others are scored, and the exit status is 1.",
    add_arguments=_add_arguments,
    run=_run,
    memory_advice="use a smaller --batch or fewer --crops",
)
