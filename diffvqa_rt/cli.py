"""The `diffvqa` command."""

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from diffvqa_rt import __version__
from diffvqa_rt.engines import BACKENDS, Manifest
from diffvqa_rt.engines.describe import UNTRAINED_NOTE, describe
from diffvqa_rt.errors import DiffVQAError
from diffvqa_rt.results import CSV_COLUMNS, ScoringFailure, VideoScore, csv_row
from diffvqa_rt.scoring import Scorer

DEFAULT_ENGINES = Path("build/tiny")
Result = VideoScore | ScoringFailure
Writer = Callable[[Iterator[Result]], None]


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="diffvqa",
        description="Score the quality of videos without a reference, with the DiffVQA network.",
        epilog="Exit status: 0 done, 1 something failed (a sentence on stderr says what), 2 wrong arguments.",
    )
    parser.add_argument("--version", action="version", version=f"diffvqa {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    score = commands.add_parser(
        "score",
        help="score videos or still images",
        description="Score videos (or still images), in the order given. A file that cannot be scored is reported, the "
        "others still are, and the exit status is 1.",
    )
    score.add_argument("videos", nargs="+", metavar="VIDEO", help="a video or image file")
    score.add_argument(
        "--engines",
        type=Path,
        default=DEFAULT_ENGINES,
        metavar="DIR",
        help="the engine folder that export/build_engines.py wrote (default: %(default)s)",
    )
    score.add_argument(
        "--format",
        choices=FORMATS,
        default="table",
        help="table: for people; json: one object a line, with frame scores, stage timings and the decoder's facts; "
        "csv: one row a video (default: %(default)s)",
    )
    score.add_argument(
        "--seed",
        type=_at_least(0),
        default=0,
        metavar="N",
        help="where the distortion view is cropped; one seed, one score (default: %(default)s)",
    )
    score.add_argument(
        "--crops",
        type=_at_least(1),
        default=1,
        metavar="M",
        help="crop positions to score a video at; gives their mean and spread (default: %(default)s)",
    )
    score.add_argument(
        "--batch",
        type=_at_least(1),
        default=1,
        metavar="V",
        help="videos that go through the engines together; changes no score (default: %(default)s)",
    )
    score.add_argument(
        "--threads", type=_at_least(1), metavar="N", help="CPU threads (default: all that this process may use)"
    )
    score.add_argument(
        "--backend", choices=BACKENDS, default="onnx", help="the runtime that plays the engines (default: %(default)s)"
    )

    info = commands.add_parser(
        "info",
        help="what an engine folder holds",
        description="Verify an engine folder and print its manifest: the network, its weights, where it was built, "
        "and how far its engines are from torch.",
    )
    info.add_argument("engines", type=Path, metavar="ENGINES", help="an engine folder")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed, 2 bad arguments (from argparse)."""
    arguments = parse_arguments(argv)
    try:
        return _score(arguments) if arguments.command == "score" else _info(arguments)
    except DiffVQAError as error:
        print(f"diffvqa: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _score(arguments: argparse.Namespace) -> int:
    scorer = Scorer.open(arguments.engines, backend=arguments.backend, threads=arguments.threads)
    if not scorer.manifest.weights.is_trained:
        print(f"diffvqa: {UNTRAINED_NOTE}", file=sys.stderr)
    failures = 0
    bar = tqdm(total=len(arguments.videos), unit="video", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False)

    def results() -> Iterator[Result]:
        nonlocal failures
        for result in scorer.score_many(
            arguments.videos, seed=arguments.seed, crops=arguments.crops, batch=arguments.batch
        ):
            if isinstance(result, ScoringFailure):
                failures += 1
                tqdm.write(f"diffvqa: {result.error}", file=sys.stderr)
            # The bar and the rows may share a terminal: the bar steps aside while a row is written.
            with tqdm.external_write_mode(file=sys.stdout):
                yield result
                sys.stdout.flush()
            bar.update()

    with bar:
        FORMATS[arguments.format](results())
    return 1 if failures else 0


def _info(arguments: argparse.Namespace) -> int:
    manifest = Manifest.read(arguments.engines)
    manifest.verify(arguments.engines)
    print(describe(manifest))
    return 0


def _write_table(results: Iterator[Result]) -> None:
    print(f"{'score':>8}  {'spread':>7}  {'seconds':>7}  {'model':<16}  video")
    for result in results:
        if isinstance(result, ScoringFailure):
            print(f"{'failed':>8}  {'':>7}  {'':>7}  {'':<16}  {result.source}")
            continue
        spread = f"{result.crop_spread:7.3f}" if len(result.crop_scores) > 1 else f"{'':>7}"
        seconds = sum(result.stage_seconds.values())
        print(f"{result.score:8.3f}  {spread}  {seconds:7.2f}  {result.model_label:<16}  {result.source}")


def _write_json(results: Iterator[Result]) -> None:
    for result in results:
        print(json.dumps(result.as_dict()))


def _write_csv(results: Iterator[Result]) -> None:
    writer = csv.DictWriter(sys.stdout, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for result in results:
        writer.writerow(csv_row(result))


FORMATS: dict[str, Writer] = {"table": _write_table, "json": _write_json, "csv": _write_csv}


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return number

    return parse


if __name__ == "__main__":
    sys.exit(main())
