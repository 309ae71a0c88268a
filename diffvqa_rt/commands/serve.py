"""`diffvqa serve`: Triton Inference Server on an engine folder."""

import argparse
from pathlib import Path

from diffvqa_rt.arguments import BUNDLED_NOTE, add_runtime_arguments, checked_arguments, whole_number
from diffvqa_rt.checks import MAX_COUNT
from diffvqa_rt.commands.command import Command
from diffvqa_rt.engines.bundled import BUNDLED_ENGINES
from diffvqa_rt.serving.server import serve
from diffvqa_rt.serving.settings import RequestLimits, ServerConfig, ServerTls
from diffvqa_rt.video.crops import MAX_CROPS

HTTP_API_PORT = 8080


def _add_arguments(command: argparse.ArgumentParser) -> None:
    limits = RequestLimits()
    command.add_argument(
        "--engines",
        type=Path,
        action="append",
        metavar="DIR",
        help="an engine folder that export/build_engines.py wrote; give the flag again for a folder of another metric "
        f"(default: {BUNDLED_NOTE})",
    )
    add_runtime_arguments(command)
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
    command.add_argument(
        "--http-api",
        type=whole_number(1, 65535),
        nargs="?",
        const=HTTP_API_PORT,
        metavar="N",
        help=f"take requests by HTTP and JSON too, on port N, or {HTTP_API_PORT} without one (default: gRPC alone)",
    )
    command.add_argument(
        "--trace-url",
        metavar="URL",
        help="send a trace of each request to this collector of OpenTelemetry, such as http://localhost:4318/v1/traces",
    )
    for name, limit, what, most in [
        ("--max-request-mib", limits.max_request_bytes >> 20, "MiB of an encoded video", MAX_COUNT),
        ("--max-decode-seconds", int(limits.max_decode_seconds), "seconds that decoding a video may take", MAX_COUNT),
        (
            "--max-decode-mib",
            limits.max_decode_memory_bytes >> 20,
            "MiB of memory that the decoder may take",
            MAX_COUNT,
        ),
        ("--max-frames", limits.max_frames, "frames of a video", MAX_COUNT),
        ("--max-frame-pixels", limits.max_frame_pixels, "pixels of a picture", MAX_COUNT),
        ("--max-crops", limits.max_crops, "crop positions of a request", MAX_CROPS),
    ]:
        command.add_argument(
            name,
            type=whole_number(1, most),
            default=limit,
            metavar="N",
            help=f"at most N {what} (default: %(default)s)",
        )
    command.add_argument("--tls-cert", type=Path, metavar="PEM", help="the server's certificate, for TLS")
    command.add_argument("--tls-key", type=Path, metavar="PEM", help="and its key")
    command.add_argument(
        "--tls-client-ca", type=Path, metavar="PEM", help="answer only clients with a certificate from this authority"
    )


def _run(arguments: argparse.Namespace) -> int:
    with checked_arguments():
        config = _server_config(arguments)
    return serve(config)


def _server_config(arguments: argparse.Namespace) -> ServerConfig:
    tls = None
    if arguments.tls_cert or arguments.tls_key or arguments.tls_client_ca:
        tls = ServerTls(cert=arguments.tls_cert, key=arguments.tls_key, client_ca=arguments.tls_client_ca)
    return ServerConfig(
        engines=tuple(arguments.engines or [BUNDLED_ENGINES]),
        backend=arguments.backend,
        threads=arguments.threads,
        host=arguments.host,
        port=arguments.port,
        http_port=arguments.http_port,
        metrics_port=arguments.metrics_port,
        http_api_port=arguments.http_api,
        trace_url=arguments.trace_url,
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


COMMAND = Command(
    name="serve",
    help="serve an engine folder over gRPC and HTTP",
    description="Run NVIDIA's Triton Inference Server on an engine folder, until SIGTERM or Ctrl-C; requests in "
    "flight are answered first. It takes the tritonserver on PATH, or the one in the wheel nvidia-pytriton "
    "(`diffvqa doctor` says how to install it).",
    add_arguments=_add_arguments,
    run=_run,
)
