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
from diffvqa_rt.arguments import add_engine_arguments, whole_number
from diffvqa_rt.capacity.plan_command import add_plan_command, run_plan
from diffvqa_rt.engines import Manifest
from diffvqa_rt.engines.describe import UNTRAINED_NOTE, describe
from diffvqa_rt.errors import DiffVQAError
from diffvqa_rt.results import CSV_COLUMNS, ScoringFailure, VideoScore, csv_row
from diffvqa_rt.scoring import Scorer
from diffvqa_rt.serving import (
    Client,
    ClientTls,
    RequestLimits,
    ServerConfig,
    ServerTls,
    serve,
)
from diffvqa_rt.serving.tritonserver import INSTALL_HINT
from diffvqa_rt.training.adapt_command import add_adapt_command, run_adapt
from diffvqa_rt.training.diagnose_command import add_diagnose_command, run_diagnose
from diffvqa_rt.training.evaluate_command import add_evaluate_command, run_evaluate
from diffvqa_rt.training.train_command import add_train_command, run_train
from diffvqa_rt.video import MAX_SEED

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
    _add_scoring_arguments(score)
    add_engine_arguments(score)
    score.add_argument(
        "--batch",
        type=whole_number(1),
        default=1,
        metavar="V",
        help="videos that go through the engines together; changes no score (default: %(default)s)",
    )

    info = commands.add_parser(
        "info",
        help="what an engine folder holds",
        description="Verify an engine folder and print its manifest: the network, its weights, where it was built, "
        "and how far its engines are from torch.",
    )
    info.add_argument("engines", type=Path, metavar="ENGINES", help="an engine folder")

    _add_serve_command(commands)
    _add_client_command(commands)
    add_plan_command(commands)
    add_adapt_command(commands)
    add_train_command(commands)
    add_evaluate_command(commands)
    add_diagnose_command(commands)
    return parser.parse_args(argv)


def _add_scoring_arguments(command: argparse.ArgumentParser) -> None:
    """What scoring here and scoring on a server have in common."""
    command.add_argument("videos", nargs="+", metavar="VIDEO", help="a video or image file")
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
        type=whole_number(1),
        default=1,
        metavar="M",
        help="crop positions to score a video at; gives their mean and spread (default: %(default)s)",
    )


def _add_serve_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    limits = RequestLimits()
    command = commands.add_parser(
        "serve",
        help="serve an engine folder over gRPC",
        description="Run NVIDIA's Triton Inference Server on an engine folder, until SIGTERM or Ctrl-C; requests in "
        "flight are answered first. It takes the tritonserver on PATH, or the one that pip installs "
        f"({INSTALL_HINT}; with its dependencies it would replace NumPy).",
    )
    add_engine_arguments(command)
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on; the default is reached from this machine only (default: %(default)s)",
    )
    for name, port, what in [
        ("--port", 8001, "gRPC, where requests go"),
        ("--http-port", 8000, "HTTP, for health alone"),
        ("--metrics-port", 8002, "Prometheus metrics"),
    ]:
        command.add_argument(
            name, type=whole_number(1, 65535), default=port, metavar="N", help=f"{what} (default: %(default)s)"
        )
    for name, limit, what in [
        ("--max-request-mib", limits.max_request_bytes >> 20, "MiB of an encoded video"),
        ("--max-decode-seconds", int(limits.max_decode_seconds), "seconds that decoding a video may take"),
        ("--max-decode-mib", limits.max_decode_memory_bytes >> 20, "MiB of memory that the decoder may take"),
        ("--max-frames", limits.max_frames, "frames of a video"),
        ("--max-frame-pixels", limits.max_frame_pixels, "pixels of a picture"),
        ("--max-crops", limits.max_crops, "crop positions of a request"),
    ]:
        command.add_argument(
            name, type=whole_number(1), default=limit, metavar="N", help=f"at most N {what} (default: %(default)s)"
        )
    command.add_argument("--tls-cert", type=Path, metavar="PEM", help="the server's certificate, for gRPC over TLS")
    command.add_argument("--tls-key", type=Path, metavar="PEM", help="and its key")
    command.add_argument(
        "--tls-client-ca", type=Path, metavar="PEM", help="answer only clients with a certificate from this authority"
    )


def _add_client_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
        status = COMMANDS[arguments.command](arguments)
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
    scored = scorer.score_many(arguments.videos, seed=arguments.seed, crops=arguments.crops, batch=arguments.batch)
    return _write_results(scored, arguments)


def _client(arguments: argparse.Namespace) -> int:
    try:
        tls = None
        if arguments.tls_ca or arguments.tls_cert or arguments.tls_key:
            tls = ClientTls(ca=arguments.tls_ca, cert=arguments.tls_cert, key=arguments.tls_key)
        with Client(
            arguments.url, concurrency=arguments.concurrency, deadline_seconds=arguments.deadline, tls=tls
        ) as client:
            scored = client.score_many(arguments.videos, seed=arguments.seed, crops=arguments.crops)
            return _write_results(_noting_untrained(scored), arguments)
    except ValueError as error:  # the certificates' here, or the server's: more crops than it takes
        return _misuse(error)


def _noting_untrained(results: Iterator[Result]) -> Iterator[Result]:
    is_noted = False
    for result in results:
        if isinstance(result, VideoScore) and not result.is_trained and not is_noted:
            tqdm.write(f"diffvqa: {UNTRAINED_NOTE}", file=sys.stderr)
            is_noted = True
        yield result


def _serve(arguments: argparse.Namespace) -> int:
    try:
        config = _server_config(arguments)
    except ValueError as error:
        return _misuse(error)
    return serve(config)


def _server_config(arguments: argparse.Namespace) -> ServerConfig:
    tls = None
    if arguments.tls_cert or arguments.tls_key or arguments.tls_client_ca:
        tls = ServerTls(cert=arguments.tls_cert, key=arguments.tls_key, client_ca=arguments.tls_client_ca)
    return ServerConfig(
        engines=arguments.engines,
        backend=arguments.backend,
        threads=arguments.threads,
        host=arguments.host,
        port=arguments.port,
        http_port=arguments.http_port,
        metrics_port=arguments.metrics_port,
        limits=RequestLimits(
            max_request_bytes=arguments.max_request_mib << 20,
            max_decode_seconds=arguments.max_decode_seconds,
            max_decode_memory_bytes=arguments.max_decode_mib << 20,
            max_frames=arguments.max_frames,
            max_frame_pixels=arguments.max_frame_pixels,
            max_crops=arguments.max_crops,
        ),
        tls=tls,
    )


def _misuse(error: ValueError) -> int:
    print(f"diffvqa: {error}", file=sys.stderr)
    return 2


def _write_results(scored: Iterator[Result], arguments: argparse.Namespace) -> int:
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
COMMANDS = {
    "score": _score,
    "client": _client,
    "serve": _serve,
    "info": _info,
    "plan": run_plan,
    "adapt": run_adapt,
    "train": run_train,
    "evaluate": run_evaluate,
    "diagnose": run_diagnose,
}


def _printable(text: str) -> str:
    """The text with control characters escaped: a file's name must not move the cursor or split a row."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


if __name__ == "__main__":
    sys.exit(main())
