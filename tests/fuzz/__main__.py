"""Ten thousand broken files, requests and bodies of HTTP each: is anything but an answer or a refusal to be had?

    make fuzz                                               # into build/fuzz.json
    PYTHONPATH=tests:export:benchmarks .venv/bin/python -P -m fuzz --requests 0 --bodies 0 --out build/files.json

Exit status 0 if all bars are met; else 1, with a sentence on stderr for each fault, which says what repeats it.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from machine import machine
from prompted_network import build_small

from fuzz.corpus import sound_files
from fuzz.engines import smallest_engines
from fuzz.files import fuzz_command, fuzz_files
from fuzz.http_bodies import fuzz_bodies
from fuzz.served_requests import fuzz_requests

PACKAGES = ("diffvqa-rt", "av", "grpcio", "numpy", "nvidia-pytriton", "onnxruntime", "pillow", "tritonclient")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description="Broken files and requests, by a seeded generator.")
    parser.add_argument("--files", type=int, default=10_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--requests", type=int, default=10_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--bodies", type=int, default=10_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    parser.add_argument("--out", type=Path, required=True, metavar="JSON", help="where the figures go")
    arguments = parser.parse_args(argv)
    files = sound_files()
    with TemporaryDirectory() as folder:
        engines = smallest_engines(Path(folder, "engines"))
        prompted = build_small(Path(folder, "prompted"))
        parts: dict[str, Callable[[], Any]] = {}
        if arguments.files:
            parts["decoder"] = lambda: fuzz_files(files, arguments.files, arguments.seed)
            parts["command"] = lambda: fuzz_command(files, arguments.files, arguments.seed, engines)
        if arguments.requests:
            parts["requests"] = lambda: fuzz_requests([engines, prompted], arguments.requests, arguments.seed)
        if arguments.bodies:
            parts["bodies"] = lambda: fuzz_bodies(arguments.bodies, arguments.seed)
        report: dict[str, Any] = {"machine": machine(PACKAGES), "seed": arguments.seed, "corpus": len(files)}
        faults: list[str] = []
        for name, run in parts.items():
            start = time.monotonic()
            outcomes = run()
            report[name] = outcomes.as_dict() | {"seconds": round(time.monotonic() - start, 1)}
            faults += outcomes.faults
            print(f"{name}: {json.dumps(report[name])}", file=sys.stderr, flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    for fault in faults:
        print(f"fuzz: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
