"""`diffvqa score`: the scores of videos, by the engines of a folder."""

import argparse
import sys

from diffvqa_rt.arguments import add_engine_arguments, whole_number
from diffvqa_rt.commands.command import Command
from diffvqa_rt.commands.prompts import result_count
from diffvqa_rt.commands.results_writer import write_results
from diffvqa_rt.commands.scoring_arguments import add_scoring_arguments, scoring_options, video_sources
from diffvqa_rt.decoding import DecodeLimits
from diffvqa_rt.engines.describe import UNTRAINED_NOTE
from diffvqa_rt.results import csv_columns
from diffvqa_rt.scoring import Scorer
from diffvqa_rt.video.pipes import PIPE_LIMITS

_LIMITS = DecodeLimits()


def _add_arguments(command: argparse.ArgumentParser) -> None:
    add_scoring_arguments(
        command,
        "a video or image file, a folder of numbered pictures (00000.png, 00001.png, …), which is one video, or - for "
        "a file or YUV4MPEG2 on standard input, of which "
        f"{PIPE_LIMITS.max_bytes >> 30} GiB are kept in TMPDIR",
    )
    add_engine_arguments(command)
    command.add_argument(
        "--batch",
        type=whole_number(1),
        default=1,
        metavar="V",
        help="videos that go through the engines together; changes no score (default: %(default)s)",
    )


def _run(arguments: argparse.Namespace) -> int:
    """Scores the videos. The exit status: 0 done, 1 where a video has no score."""
    with Scorer.open(arguments.engines, backend=arguments.backend, threads=arguments.threads) as scorer:
        if not scorer.manifest.weights.is_trained:
            print(f"diffvqa: {UNTRAINED_NOTE}", file=sys.stderr)
        if arguments.backend != "torch" and scorer.manifest.backends[arguments.backend].parity is None:
            print(
                f"diffvqa: These {arguments.backend} engines were not compared with PyTorch. Rebuild them on this "
                "machine with export/build_engines.py to compare them.",
                file=sys.stderr,
            )
        manifest = scorer.manifest
        options = scoring_options(arguments, manifest.metric)
        results = scorer.score_many(video_sources(arguments.videos), batch=arguments.batch, **options)
        columns = csv_columns(manifest.metric.stages, manifest.metric.part_names(manifest.config))
        count = result_count(arguments.videos, options["prompts"])
        return write_results(results, count, arguments.format, columns)


COMMAND = Command(
    name="score",
    help="score videos or still images",
    description="Score videos (or still images), in the order given. A file that cannot be scored is reported, the "
    "others still are, and the exit status is 1. Files are decoded in a process of their own, which may take "
    f"{_LIMITS.max_decode_seconds / 60:g} minutes and {_LIMITS.max_decode_memory_bytes >> 30} GiB of memory for one.",
    add_arguments=_add_arguments,
    run=_run,
    memory_advice="use a smaller --batch or fewer --crops",
)
