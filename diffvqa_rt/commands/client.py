"""`diffvqa client`: the scores of videos, by a server."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from diffvqa_rt.arguments import checked_arguments, whole_number
from diffvqa_rt.commands.command import Command
from diffvqa_rt.commands.prompts import result_count
from diffvqa_rt.commands.results_writer import Result, write_results
from diffvqa_rt.commands.scoring_arguments import add_scoring_arguments, scoring_options, video_sources
from diffvqa_rt.engines.describe import UNTRAINED_NOTE
from diffvqa_rt.metrics.registry import DEFAULT, METRICS, metric_named
from diffvqa_rt.results import VideoScore, csv_columns
from diffvqa_rt.serving import Client, ClientTls
from diffvqa_rt.serving.models import served_stages


def _add_arguments(command: argparse.ArgumentParser) -> None:
    add_scoring_arguments(command, "a video or image file, or - for one on standard input")
    command.add_argument(
        "--metric",
        choices=METRICS,
        default=DEFAULT,
        help="the metric, whose engines the server has (default: %(default)s)",
    )
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


def _run(arguments: argparse.Namespace) -> int:
    """Has a server score the videos. The exit status: 0 done, 1 where a video has no score."""
    with _client(arguments) as client:
        metric = metric_named(arguments.metric)
        options = scoring_options(arguments, metric)
        results = client.score_many(video_sources(arguments.videos), **options)
        # A server does not say which network it has before the first answer; all of a metric have the same parts.
        config = next(iter(metric.presets.values()))
        columns = csv_columns(served_stages(metric.chain(config)), metric.part_names(config))
        count = result_count(arguments.videos, options["prompts"])
        return write_results(_noting_untrained(results), count, arguments.format, columns)


def _client(arguments: argparse.Namespace) -> Client:
    with checked_arguments():
        tls = None
        if arguments.tls_ca or arguments.tls_cert or arguments.tls_key:
            tls = ClientTls(ca=arguments.tls_ca, cert=arguments.tls_cert, key=arguments.tls_key)
        return Client(
            arguments.url,
            metric=arguments.metric,
            concurrency=arguments.concurrency,
            deadline_seconds=arguments.deadline,
            tls=tls,
        )


def _noting_untrained(results: Iterator[Result]) -> Iterator[Result]:
    is_noted = False
    for result in results:
        if isinstance(result, VideoScore) and not result.is_trained and not is_noted:
            tqdm.write(f"diffvqa: {UNTRAINED_NOTE}", file=sys.stderr)
            is_noted = True
        yield result


COMMAND = Command(
    name="client",
    help="score videos on a server",
    description="Send videos (or still images) to a server that `diffvqa serve` runs, and print the results in the "
    "order given, as `diffvqa score` does. The client retries until the deadline while the server is unreachable, and "
    "for 5 seconds while its name is not found; what will never answer (another port, a certificate that is not "
    "trusted) is named at once.",
    add_arguments=_add_arguments,
    run=_run,
)
