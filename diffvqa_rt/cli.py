"""The `diffvqa` command."""

import argparse
import csv
import io
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
from diffvqa_rt.video import MAX_SEED

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
        type=_whole_number(0, MAX_SEED),
        default=0,
        metavar="N",
        help="where the distortion view is cropped; one seed, one score (default: %(default)s)",
    )
    score.add_argument(
        "--crops",
        type=_whole_number(1),
        default=1,
        metavar="M",
        help="crop positions to score a video at; gives their mean and spread (default: %(default)s)",
    )
    score.add_argument(
        "--batch",
        type=_whole_number(1),
        default=1,
        metavar="V",
        help="videos that go through the engines together; changes no score (default: %(default)s)",
    )
    score.add_argument(
        "--threads", type=_whole_number(1), metavar="N", help="CPU threads (default: all that this process may use)"
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
    if sys.stderr is None:  # closed by the caller, and print() would then write to stdout
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        print("diffvqa: standard output is closed, and the results go there", file=sys.stderr)
        return 1
    for stream in (sys.stdout, sys.stderr):
        # A file name may hold what the terminal's encoding lacks; that must not cost the results.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = parse_arguments(argv)
    try:
        status = _score(arguments) if arguments.command == "score" else _info(arguments)
        sys.stdout.flush()
        return status
    except DiffVQAError as error:
        print(f"diffvqa: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"diffvqa: the results cannot be written ({error.strerror or error})", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(f"diffvqa: not enough memory ({error}); use a smaller --batch or fewer --crops", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _score(arguments: argparse.Namespace) -> int:
    scorer = Scorer.open(arguments.engines, backend=arguments.backend, threads=arguments.threads)
    if not scorer.manifest.weights.is_trained:
        print(f"diffvqa: {UNTRAINED_NOTE}", file=sys.stderr)
    if arguments.backend != "torch" and scorer.manifest.backends[arguments.backend].parity is None:
        print(
            f"diffvqa: These {arguments.backend} engines were never compared with torch; build them on this machine "
            "(export/build_engines.py), and they are.",
            file=sys.stderr,
        )
    failures = 0

    def results() -> Iterator[Result]:
        nonlocal failures
        scored = scorer.score_many(arguments.videos, seed=arguments.seed, crops=arguments.crops, batch=arguments.batch)
        # The bar appears with the first result asked for, below the table's header.
        is_hidden = not sys.stderr.isatty()
        with tqdm(total=len(arguments.videos), unit="video", file=sys.stderr, disable=is_hidden, leave=False) as bar:
            for result in scored:
                if isinstance(result, ScoringFailure):
                    failures += 1
                    tqdm.write(f"diffvqa: {_printable(result.error)}", file=sys.stderr)
                # The bar and the rows may share a terminal: the bar steps aside while a row is written.
                with tqdm.external_write_mode(file=sys.stdout):
                    yield result
                    sys.stdout.flush()
                bar.update()

    FORMATS[arguments.format](results())
    return 1 if failures else 0


def _info(arguments: argparse.Namespace) -> int:
    manifest = Manifest.read(arguments.engines)
    manifest.verify(arguments.engines)
    print(describe(manifest))
    return 0


def _write_table(results: Iterator[Result]) -> None:
    print(f"{'score':>8}  {'spread':>7}  {'seconds':>7}  {'model':<16}  video", flush=True)
    for result in results:
        if isinstance(result, ScoringFailure):
            print(f"{'failed':>8}  {'':>7}  {'':>7}  {'':<16}  {_printable(result.source)}")
            continue
        spread = f"{result.crop_spread:7.3f}" if len(result.crop_scores) > 1 else f"{'':>7}"
        seconds = sum(result.stage_seconds.values())
        print(f"{result.score:8.3f}  {spread}  {seconds:7.2f}  {result.model:<16}  {_printable(result.source)}")


def _write_json(results: Iterator[Result]) -> None:
    for result in results:
        print(json.dumps(result.as_dict()))


def _write_csv(results: Iterator[Result]) -> None:
    writer = csv.DictWriter(sys.stdout, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for result in results:
        writer.writerow(csv_row(result))


FORMATS: dict[str, Writer] = {"table": _write_table, "json": _write_json, "csv": _write_csv}


def _printable(text: str) -> str:
    """The text with control characters escaped: a file's name must not move the cursor or split a row."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _whole_number(least: int, most: int = 2**31) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return number

    return parse


if __name__ == "__main__":
    sys.exit(main())
