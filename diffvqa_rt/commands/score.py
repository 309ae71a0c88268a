"""`diffvqa score`, `diffvqa client` and `diffvqa info`: results on standard output, in the format asked for."""

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from diffvqa_rt.arguments import add_engine_arguments, whole_number
from diffvqa_rt.decoding import DecodeLimits
from diffvqa_rt.engines import Manifest
from diffvqa_rt.engines.describe import UNTRAINED_NOTE, describe
from diffvqa_rt.errors import printable
from diffvqa_rt.metrics.registry import DEFAULT, metric_named
from diffvqa_rt.results import ScoringFailure, VideoScore, csv_columns, csv_row
from diffvqa_rt.scoring import Scorer
from diffvqa_rt.serving import Client, ClientTls
from diffvqa_rt.video import MAX_SEED
from diffvqa_rt.video.container import OpenFile
from diffvqa_rt.video.crops import MAX_CROPS

Result = VideoScore | ScoringFailure
Writer = Callable[[Iterator[Result], Sequence[str]], None]


def add_score_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `score`."""
    limits = DecodeLimits()
    score = commands.add_parser(
        "score",
        help="score videos or still images",
        description="Score videos (or still images), in the order given. A file that cannot be scored is reported, the "
        "others still are, and the exit status is 1. Files are decoded in a process of their own, which may take "
        f"{limits.max_decode_seconds / 60:g} minutes and {limits.max_decode_memory_bytes >> 30} GiB of memory for one.",
    )
    _add_scoring_arguments(score)
    add_engine_arguments(score)
    score.add_argument(
        "--batch",
        type=whole_number(1),
        default=1,
        metavar="V",
        help="videos that go through the engines together; changes no score (default: %(default)s)",
    )


def add_info_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `info`."""
    info = commands.add_parser(
        "info",
        help="what an engine folder holds",
        description="Verify an engine folder and print its manifest: the network, its weights, where it was built, "
        "and how far its engines are from torch.",
    )
    info.add_argument("engines", type=Path, metavar="ENGINES", help="an engine folder")


def add_client_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `client`."""
    command = commands.add_parser(
        "client",
        help="score videos on a server",
        description="Send videos (or still images) to a server that `diffvqa serve` runs, and print the results in the "
        "order given, as `diffvqa score` does. A server that is away is asked again until the deadline, a name that is "
        "not found for 5 seconds; what will never answer (another port, a certificate that is not trusted) is named at "
        "once.",
    )
    _add_scoring_arguments(command)
    command.add_argument("--url", required=True, metavar="HOST:PORT", help="the server's gRPC address, without http://")
    command.add_argument(
        "--concurrency",
        type=whole_number(1, 1024),
        default=4,
        metavar="N",
        help="videos under way at a time; changes no score (default: %(default)s)",
    )
    command.add_argument(
        "--deadline",
        type=whole_number(1),
        default=300,
        metavar="SECONDS",
        help="for each video, repeated attempts included (default: %(default)s)",
    )
    command.add_argument("--tls-ca", type=Path, metavar="PEM", help="TLS, with a server whose authority this is")
    command.add_argument("--tls-cert", type=Path, metavar="PEM", help="our certificate, where the server asks for one")
    command.add_argument("--tls-key", type=Path, metavar="PEM", help="and its key")


def _add_scoring_arguments(command: argparse.ArgumentParser) -> None:
    """What scoring here and scoring on a server have in common."""
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


def run_score(arguments: argparse.Namespace) -> int:
    """The exit status: 0 done, 1 where a video has no score."""
    with Scorer.open(arguments.engines, backend=arguments.backend, threads=arguments.threads) as scorer:
        if not scorer.manifest.weights.is_trained:
            print(f"diffvqa: {UNTRAINED_NOTE}", file=sys.stderr)
        if arguments.backend != "torch" and scorer.manifest.backends[arguments.backend].parity is None:
            print(
                f"diffvqa: These {arguments.backend} engines were never compared with torch; build them on this "
                "machine (export/build_engines.py), and they are.",
                file=sys.stderr,
            )
        scored = scorer.score_many(
            _sources(arguments),
            seed=arguments.seed,
            crops=arguments.crops,
            batch=arguments.batch,
            keep_interlaced=arguments.keep_interlaced,
        )
        return _write_results(scored, arguments, scorer.manifest.metric.stages)


def run_client(arguments: argparse.Namespace) -> int:
    """The exit status, as of `run_score`; a ValueError is the caller's."""
    tls = None
    if arguments.tls_ca or arguments.tls_cert or arguments.tls_key:
        tls = ClientTls(ca=arguments.tls_ca, cert=arguments.tls_cert, key=arguments.tls_key)
    with Client(
        arguments.url, concurrency=arguments.concurrency, deadline_seconds=arguments.deadline, tls=tls
    ) as client:
        scored = client.score_many(
            _sources(arguments),
            seed=arguments.seed,
            crops=arguments.crops,
            keep_interlaced=arguments.keep_interlaced,
        )
        return _write_results(_noting_untrained(scored), arguments, metric_named(DEFAULT).stages)


def run_info(arguments: argparse.Namespace) -> int:
    """The exit status: 0, since an EngineMismatchError is the caller's."""
    manifest = Manifest.read(arguments.engines)
    manifest.verify(arguments.engines)
    print(describe(manifest))
    return 0


def _sources(arguments: argparse.Namespace) -> list[str | OpenFile]:
    """The videos as they were given; `-` is what standard input holds."""
    if "-" not in arguments.videos:
        return arguments.videos
    # Where the caller has closed it, there is nothing in it.
    content = sys.stdin.buffer if sys.stdin else open(os.devnull, "rb")  # noqa: SIM115
    return [OpenFile(video, content) if video == "-" else video for video in arguments.videos]


def _noting_untrained(results: Iterator[Result]) -> Iterator[Result]:
    is_noted = False
    for result in results:
        if isinstance(result, VideoScore) and not result.is_trained and not is_noted:
            tqdm.write(f"diffvqa: {UNTRAINED_NOTE}", file=sys.stderr)
            is_noted = True
        yield result


def _write_results(scored: Iterator[Result], arguments: argparse.Namespace, stages: Sequence[str]) -> int:
    """Prints results as they come, in the format asked for; exit status 1 if any is a failure."""
    failures = 0

    def results() -> Iterator[Result]:
        nonlocal failures
        # The bar appears with the first result asked for, below the table's header.
        is_hidden = not sys.stderr.isatty()
        with tqdm(total=len(arguments.videos), unit="video", file=sys.stderr, disable=is_hidden, leave=False) as bar:
            for result in scored:
                if isinstance(result, ScoringFailure):
                    failures += 1
                    tqdm.write(f"diffvqa: {printable(result.error)}", file=sys.stderr)
                else:
                    for warning in result.warnings:
                        sentence = f"{result.source}: {warning.message}"
                        tqdm.write(f"diffvqa: {printable(sentence)}", file=sys.stderr)
                # The bar and the rows may share a terminal: the bar steps aside while a row is written.
                with tqdm.external_write_mode(file=sys.stdout):
                    yield result
                    sys.stdout.flush()
                bar.update()

    FORMATS[arguments.format](results(), stages)
    return 1 if failures else 0


def _write_table(results: Iterator[Result], stages: Sequence[str]) -> None:
    print(f"{'score':>8}  {'spread':>7}  {'seconds':>7}  {'model':<16}  video", flush=True)
    for result in results:
        if isinstance(result, ScoringFailure):
            print(f"{'failed':>8}  {'':>7}  {'':>7}  {'':<16}  {printable(result.source)}")
            continue
        spread = f"{result.crop_spread:7.3f}" if len(result.crop_scores) > 1 else f"{'':>7}"
        seconds = sum(result.stage_seconds.values())
        mark = "!" if result.warnings else " "
        print(f"{result.score:8.3f}{mark} {spread}  {seconds:7.2f}  {result.model:<16}  {printable(result.source)}")


def _write_json(results: Iterator[Result], stages: Sequence[str]) -> None:
    for result in results:
        print(json.dumps(result.as_dict()))


def _write_csv(results: Iterator[Result], stages: Sequence[str]) -> None:
    columns = csv_columns(stages)
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    for result in results:
        writer.writerow(csv_row(result, columns))


FORMATS: dict[str, Writer] = {"table": _write_table, "json": _write_json, "csv": _write_csv}
