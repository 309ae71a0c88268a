"""Arguments of `diffvqa score` and `diffvqa client`: the videos, and how each is to be scored."""

import argparse
import os
import sys

from diffvqa_rt.arguments import whole_number
from diffvqa_rt.commands.results_writer import FORMATS
from diffvqa_rt.video import MAX_SEED
from diffvqa_rt.video.container import OpenFile
from diffvqa_rt.video.crops import MAX_CROPS


def add_scoring_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the videos and the options that scoring here and scoring on a server have in common."""
    command.add_argument(
        "videos", nargs="+", metavar="VIDEO", help="a video or image file, or - for one on standard input"
    )
    command.add_argument(
        "--format",
        choices=FORMATS,
        default="table",
        help="table: for people; json: one object a line, with frame scores, stage timings and the decoder's facts; "
        "csv: one row a video (default: %(default)s)",
    )
    command.add_argument(
        "--seed",
        type=whole_number(0, MAX_SEED),
        default=0,
        metavar="N",
        help="where the distortion view is cropped; one seed, one score (default: %(default)s)",
    )
    command.add_argument(
        "--crops",
        type=whole_number(1, MAX_CROPS),
        default=1,
        metavar="M",
        help="crop positions to score a video at; gives their mean and spread (default: %(default)s)",
    )
    command.add_argument(
        "--keep-interlaced",
        action="store_true",
        help="score interlaced frames combed, as they are stored (default: they are made into whole frames)",
    )


def video_sources(videos: list[str]) -> list[str | OpenFile]:
    """The videos as they were given; `-` is what standard input holds."""
    if "-" not in videos:
        return list(videos)
    # Where the caller has closed it, there is nothing in it.
    content = sys.stdin.buffer if sys.stdin else open(os.devnull, "rb")  # noqa: SIM115
    return [OpenFile(video, content) if video == "-" else video for video in videos]
