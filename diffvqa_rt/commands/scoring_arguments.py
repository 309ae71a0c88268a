"""Arguments of `diffvqa score` and `diffvqa client`: the videos, and how each is to be scored."""

import argparse
import os
import sys
from typing import Any

from diffvqa_rt.arguments import UsageError, checked_arguments, whole_number
from diffvqa_rt.commands.libvmaf_logs import check_libvmaf_format
from diffvqa_rt.commands.prompts import add_prompt_arguments, prompts_of, result_count
from diffvqa_rt.commands.results_writer import FORMATS
from diffvqa_rt.metric import MAX_FRAMES, Metric, Request
from diffvqa_rt.video import MAX_SEED
from diffvqa_rt.video.container import OpenFile
from diffvqa_rt.video.crops import MAX_CROPS


def add_scoring_arguments(command: argparse.ArgumentParser, videos: str) -> None:
    """Adds the videos, which `videos` describes, and the options that scoring here and on a server have in common."""
    command.add_argument("videos", nargs="+", metavar="VIDEO", help=videos)
    command.add_argument(
        "--format",
        choices=FORMATS,
        default="table",
        help="table: for people; json: one object a line, with frame scores, stage timings and the decoder's facts; "
        "csv: one row a video; vmaf-json, vmaf-xml, vmaf-csv: one video, in the layout of libvmaf's log "
        "(default: %(default)s)",
    )
    add_prompt_arguments(command)
    add_request_arguments(command)
    command.add_argument(
        "--patch-maps",
        action="store_true",
        help="give the scores and weights of every patch, of a metric that has them; only with --format json",
    )


def add_request_arguments(command: argparse.ArgumentParser) -> None:
    """Adds what a request says of how each video is scored."""
    command.add_argument(
        "--seed",
        type=whole_number(0, MAX_SEED),
        default=0,
        metavar="N",
        help="where crops are cut; one seed, one score. It moves no crop of a network that places them by texture "
        "(`diffvqa info` says so): --crops shows more places (default: %(default)s)",
    )
    command.add_argument(
        "--crops",
        type=whole_number(1, MAX_CROPS),
        metavar="M",
        help="crop positions to score a video at; gives their mean and spread (default: the network's own number)",
    )
    command.add_argument(
        "--frames",
        type=whole_number(1, MAX_FRAMES),
        metavar="N",
        help="frames of a video to score, for a metric that scores frames alone (default: the metric's own number)",
    )
    command.add_argument(
        "--keep-interlaced",
        action="store_true",
        help="score interlaced frames combed, as they are stored (default: they are made into whole frames)",
    )


def scoring_options(arguments: argparse.Namespace, metric: Metric) -> dict[str, Any]:
    """The keywords of `Scorer.score_many` that say how to score.

    Raises:
        UsageError: the metric lacks an option, the prompts are not right, or the format is not for these results.
        MosTableError: the prompts' table cannot be read.
    """
    options = {name: getattr(arguments, name) for name in ("seed", "crops", "frames", "patch_maps", "keep_interlaced")}
    prompts = prompts_of(arguments, arguments.videos)
    with checked_arguments():
        metric.check(Request(**options, prompt=prompts[0][0] if prompts else None))
    if arguments.patch_maps and arguments.format != "json":
        raise UsageError(f"--patch-maps is for --format json; --format {arguments.format} has no place for them")
    check_libvmaf_format(arguments.format, metric, result_count(arguments.videos, prompts))
    return {**options, "prompts": prompts}


def video_sources(videos: list[str]) -> list[str | OpenFile]:
    """The videos as they were given; `-` is what standard input holds."""
    if "-" not in videos:
        return list(videos)
    # Where the caller has closed it, there is nothing in it.
    content = sys.stdin.buffer if sys.stdin else open(os.devnull, "rb")  # noqa: SIM115
    return [OpenFile(video, content) if video == "-" else video for video in videos]
