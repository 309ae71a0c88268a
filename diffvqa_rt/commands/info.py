"""`diffvqa info`: the manifest of an engine folder, verified and printed for a person."""

import argparse
from pathlib import Path

from diffvqa_rt.commands.command import Command
from diffvqa_rt.engines import Manifest
from diffvqa_rt.engines.describe import describe
from diffvqa_rt.standard_output import print_results


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("engines", type=Path, metavar="ENGINES", help="an engine folder")


def _run(arguments: argparse.Namespace) -> int:
    manifest = Manifest.read(arguments.engines)
    manifest.verify(arguments.engines)
    print_results(describe(manifest))
    return 0


COMMAND = Command(
    name="info",
    help="what an engine folder holds",
    description="Verify an engine folder and print its manifest: the network, its weights, where it was built, "
    "and how far its engines are from torch.",
    add_arguments=_add_arguments,
    run=_run,
)
