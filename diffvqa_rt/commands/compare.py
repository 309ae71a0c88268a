"""`diffvqa compare`: encodes of one source, ranked by their scores, with intervals and BD-rates."""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffvqa_rt.arguments import UsageError, add_engine_arguments, whole_number
from diffvqa_rt.commands.command import Command
from diffvqa_rt.engines.describe import UNTRAINED_NOTE
from diffvqa_rt.errors import EvaluationError, printable
from diffvqa_rt.extras import needs_package
from diffvqa_rt.results import ScoringFailure, VideoScore
from diffvqa_rt.scoring import Scorer
from diffvqa_rt.standard_output import print_results
from diffvqa_rt.video import MAX_SEED
from diffvqa_rt.video.crops import MAX_CROPS

if TYPE_CHECKING:
    from diffvqa_rt.evaluation.encodes import BdRate, Encode

_CROPS = 8
_SAME_SECONDS = 0.1
"""Durations of encodes of one source differ by no more: a few frames at an end."""


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("videos", nargs="*", metavar="VIDEO", help="encodes of one source")
    command.add_argument(
        "--group",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "VIDEO"),
        help="in place of VIDEO …: the encodes of one codec or setting, at several bit rates. With several groups, the "
        "BD-rate of each against the first",
    )
    command.add_argument(
        "--bit-rates",
        type=_bit_rates,
        metavar="KBPS,KBPS,…",
        help="of each video in the order given, in kbit/s (default: a file's bytes over its duration, with sound and "
        "container)",
    )
    command.add_argument(
        "--crops",
        type=whole_number(2, MAX_CROPS),
        default=_CROPS,
        metavar="M",
        help="crop positions, the same in encodes of one size; more make narrower intervals (default: %(default)s)",
    )
    command.add_argument(
        "--seed",
        type=whole_number(0, MAX_SEED),
        default=0,
        metavar="N",
        help="where crops are cut (default: %(default)s)",
    )
    command.add_argument("--format", choices=("table", "json"), default="table", help="default: %(default)s")
    add_engine_arguments(command)


def _run(arguments: argparse.Namespace) -> int:
    """Compares the encodes. The exit status: 0 done, 1 where one has no score or a BD-rate cannot be had."""
    try:
        from diffvqa_rt.evaluation import encodes as measure
    except ModuleNotFoundError as error:
        raise EvaluationError(needs_package("compare", error.name, "train")) from error
    members = _members(arguments)
    rates = arguments.bit_rates or [None] * len(members)
    if len(rates) != len(members):
        raise UsageError(f"--bit-rates has {len(rates)} numbers for {len(members)} videos; give one for each")

    with Scorer.open(arguments.engines, backend=arguments.backend, threads=arguments.threads) as scorer:
        if not scorer.manifest.weights.is_trained:
            _say(UNTRAINED_NOTE)
        videos = [video for _, video in members]
        results = list(scorer.score_many(videos, seed=arguments.seed, crops=arguments.crops))
    status, encodes, scored = 0, [], []
    for (group, video), rate, result in zip(members, rates, results, strict=True):
        if isinstance(result, ScoringFailure):
            _say(result.error)
            status = 1
            continue
        for warning in result.warnings:
            _say(f"{result.source}: {warning.message}")
        scored.append(result)
        encode = measure.Encode(
            source=result.source,
            crop_scores=result.crop_scores,
            crop_regions=result.crop_regions,
            size=(result.video.width, result.video.height),
            bit_rate_kbps=_bit_rate_kbps(video, result) if rate is None else rate,
            group=group,
        )
        encodes.append(encode)
    _note_other_durations(scored)
    bd_rates: dict[str, BdRate] = {}
    names = list(dict.fromkeys(group for group, _ in members if group is not None))
    for name in names[1:]:
        try:
            bd_rates[name] = measure.bd_rate(*(_points(encodes, group) for group in (names[0], name)))
        except EvaluationError as error:
            _say(f"{name} against {names[0]}: {error}")
            status = 1
    text = _json if arguments.format == "json" else _table
    print_results(text(encodes, bd_rates, names))
    return status


def _members(arguments: argparse.Namespace) -> list[tuple[str | None, str]]:
    """Each video after the name of its group. Raises UsageError."""
    groups = {}
    for name, *videos in arguments.group:
        if name in groups:
            raise UsageError(f"--group {name} appears twice; give each group a name of its own")
        if not videos:
            raise UsageError(f"--group {name} has no video; give the name, then the videos")
        groups[name] = videos
    if groups and arguments.videos:
        raise UsageError(f"{arguments.videos[0]} is in no group; give all videos after a --group, or none")
    members = [(name, video) for name, videos in groups.items() for video in videos]
    members = members or [(None, video) for video in arguments.videos]
    if len(members) < 2:
        raise UsageError(f"there are {len(members)} videos to compare; give at least 2 encodes of one source")
    return members


def _bit_rates(text: str) -> list[float]:
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < math.inf for rate in rates):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers above 0, as in 800,1600,3200")
    return rates


def _bit_rate_kbps(video: str, result: VideoScore) -> float | None:
    """A file's bytes over its duration; None of what is no file, or has none."""
    if not Path(video).is_file() or not result.video.duration_seconds or result.video.frame_rate_hz is None:
        return None
    return os.path.getsize(video) * 8 / 1000 / result.video.duration_seconds


def _points(encodes: Sequence["Encode"], group: str) -> list[tuple[float, float]]:
    """(bit rate, score) of a group's encodes. Raises EvaluationError where a bit rate is not known."""
    members = [encode for encode in encodes if encode.group == group]
    for encode in members:
        if encode.bit_rate_kbps is None:
            raise EvaluationError(f"no BD-rate: the bit rate of {encode.source} is not known; give --bit-rates")
    return [(encode.bit_rate_kbps or 0.0, encode.score) for encode in members]


def _note_other_durations(results: Sequence[VideoScore]) -> None:
    seconds = [result.video.duration_seconds for result in results]
    if seconds and max(seconds) - min(seconds) > _SAME_SECONDS:
        _say(f"The videos last {min(seconds):.2f} to {max(seconds):.2f} s; encodes of one source last as long.")


def _table(encodes: Sequence["Encode"], bd_rates: dict[str, "BdRate"], names: Sequence[str]) -> str:
    return "\n".join((*_ranking(encodes), *_bd_lines(bd_rates, names)))


def _ranking(encodes: Sequence["Encode"]) -> Iterator[str]:
    """A line an encode, and how far it is below the one above it."""
    from diffvqa_rt.evaluation.encodes import difference_of, ranked

    yield f"{'rank':>4}  {'score':>7}  {'± 95 %':>7}  {'kbit/s':>9}  {'to the one above':<32}  video"
    above = None
    for rank, encode in enumerate(ranked(encodes), 1):
        step = ""
        if above is not None:
            apart = difference_of(encode, above)
            verdict = ", within it" if apart.is_within_interval else ""
            step = f"{apart.difference:.3f} ± {apart.margin:.3f}{verdict}"
        rate = "" if encode.bit_rate_kbps is None else f"{encode.bit_rate_kbps:.1f}"
        name = f"{encode.group}: {encode.source}" if encode.group is not None else encode.source
        yield f"{rank:>4}  {encode.score:7.3f}  {encode.margin:7.3f}  {rate:>9}  {step:<32}  {printable(name)}"
        above = encode


def _bd_lines(bd_rates: dict[str, "BdRate"], names: Sequence[str]) -> Iterator[str]:
    for name, rate in bd_rates.items():
        sides = f"{printable(name)} against {printable(names[0])}"
        yield f"BD-rate of {sides}: {rate.percent:+.2f} %, over scores from {rate.low:.3f} to {rate.high:.3f}"


def _json(encodes: Sequence["Encode"], bd_rates: dict[str, "BdRate"], names: Sequence[str]) -> str:
    from diffvqa_rt.evaluation.encodes import CONFIDENCE, pairs_of_ranked, ranked

    rows: list[dict[str, Any]] = [
        {
            "rank": rank,
            "source": encode.source,
            "group": encode.group,
            "score": encode.score,
            "margin": encode.margin,
            "bit_rate_kbps": encode.bit_rate_kbps,
            "crop_scores": encode.crop_scores,
        }
        for rank, encode in enumerate(ranked(encodes), 1)
    ]
    differences = [
        {
            "better": better.source,
            "worse": worse.source,
            "difference": apart.difference,
            "margin": apart.margin,
            "is_paired": apart.is_paired,
            "is_within_interval": apart.is_within_interval,
        }
        for better, worse, apart in pairs_of_ranked(encodes)
    ]
    rates = [
        {"group": name, "anchor": names[0], "percent": rate.percent, "from_score": rate.low, "to_score": rate.high}
        for name, rate in bd_rates.items()
    ]
    return json.dumps({"confidence": CONFIDENCE, "encodes": rows, "differences": differences, "bd_rates": rates})


def _say(sentence: str) -> None:
    print(f"diffvqa: {printable(sentence)}", file=sys.stderr)


COMMAND = Command(
    name="compare",
    help="rank encodes of one source, with intervals and BD-rates",
    description="Score encodes of one source at several crop positions and rank them. The intervals (95 %) are over "
    "the positions: of an encode, by Student's t; of a difference, by the paired t where the crops show the same "
    "places, else by Welch's. A difference within its interval may turn around at other positions. With groups, print "
    "the Bjøntegaard delta rate of each against the first: log(bit rate) over the score, piecewise cubic and monotone.",
    add_arguments=_add_arguments,
    run=_run,
    memory_advice="use fewer --crops",
)
