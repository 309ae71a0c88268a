"""Compares what two checkouts do on this machine, to the bit: a refactoring changes nothing here.

    python tests/compare_checkouts.py before/ after/

The command prints a line for each comparison. Its exit status is 0 where all are the same, 1 where one differs, and 2
where the checkouts cannot be compared. Times, memory and the commit may differ.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from clips import make_clip, moving_picture, painting
from PIL import Image

FROG = Path(__file__).parents[1] / "examples" / "frog.mp4"
IMPORT = "import diffvqa_rt as a, diffvqa_kernels as b, diffvqa_export as c; print(a.__file__, b.__file__, c.__file__)"
ENGINES = "build/tiny"  # the default of `--engines`

MEASURED = ("date", "commit", "step_seconds", "peak_memory_bytes")
"""In a manifest's `build`, what no two builds have in common."""
TIMED_COLUMNS = ("decode_seconds", "views_seconds", "vae_encoder_seconds", "denoise_seconds", "head_seconds")

CLIPS = "frog.mp4 turned.mp4 interlaced.ts uneven.mkv small.webm still.png animated.gif"
SCORES = (
    f"score --format json {CLIPS}",
    "score --format json --crops 3 --seed 7 frog.mp4 small.webm still.png",
    f"score --format csv --batch 3 --keep-interlaced {CLIPS}",
    "score --format csv --crops 2 --seed 9223372036854775807 --threads 1 turned.mp4",
    "score frog.mp4 small.webm",
)
FAILURES = (
    "",
    "nonsense",
    "score",
    "score missing.mp4",
    "score --format json text.mp4 cut.mp4 .",
    "score --frobnicate frog.mp4",
    "score --crops 0 frog.mp4",
    "score --crops 65537 frog.mp4",
    "score --backend nonsense frog.mp4",
    "score --backend torch frog.mp4",
    "score --backend tensorrt frog.mp4",
    "score --engines nowhere frog.mp4",
    "score --engines changed frog.mp4",
    "score --engines crowded frog.mp4",
    "info changed",
    "info crowded",
    "serve --engines nowhere",
    "client --url http://localhost:8001 frog.mp4",
    "client --url localhost:8001 --tls-key missing.pem frog.mp4",
    "plan --videos-per-day 1e5 --device nonsense",
    "evaluate nonsense=missing",
    "evaluate csv=missing.csv",
    "train csv=missing.csv --weights missing.safetensors --out trained",
    "adapt missing --weights missing.safetensors --out adapted",
    "diagnose missing.mp4",
)
OUTPUTS = ("--version", "plan --videos-per-day 1e5 --device xeon-2cpu --format json")

Comparison = tuple[str, Any, Any]
"""The name of what is compared, and the values of both sides, of the types that JSON has."""


class NotComparableError(Exception):
    """The checkouts cannot be compared."""


@dataclass(frozen=True, slots=True)
class Checkout:
    """A checkout's sources, and the folder that its commands run in, with clips and engines."""

    root: Path
    folder: Path

    def python(self, *arguments: str | Path) -> dict[str, Any]:
        """The exit status, standard output and standard error of a Python process with these sources."""
        sources = (self.root, self.root / "kernels", self.root / "export")
        environment = {
            "PYTHONPATH": os.pathsep.join(map(str, sources)),
            "PYTHONPYCACHEPREFIX": str(self.folder.with_suffix(".pycache")),
            "COLUMNS": "100",
        }
        ended = subprocess.run(
            [sys.executable, "-P", *arguments],
            cwd=self.folder,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        results = {"status": ended.returncode}
        for name, text in (("stdout", ended.stdout), ("stderr", ended.stderr)):
            results[name] = text.replace(str(self.folder), "FOLDER").replace(str(self.root), "CHECKOUT")
        return results

    def diffvqa(self, command: str) -> dict[str, Any]:
        """The outcome of `diffvqa COMMAND`, without its times."""
        outcome = self.python("-m", "diffvqa_rt.cli", *command.split())
        if command.startswith("score") and outcome["status"] < 2 and outcome["stdout"]:
            outcome["stdout"] = _without_times(outcome["stdout"], command)
        return outcome


def _without_times(printed: str, command: str) -> Any:
    if "--format json" in command:
        rows = [json.loads(line) for line in printed.splitlines()]
        return [{k: list(v) if k == "stage_seconds" else v for k, v in row.items()} for row in rows]
    if "--format csv" in command:
        header, *rows = csv.reader(io.StringIO(printed))
        timed = [name in TIMED_COLUMNS for name in header]
        return [header, *([cell if not t else "" for cell, t in zip(row, timed, strict=True)] for row in rows)]
    return re.sub(r"[\d.]+(?=  tiny)", "TIME", printed)


def prepare(root: Path, folder: Path, engines: Path | None, clips: dict[str, bytes]) -> Checkout:
    """A checkout that is ready to be compared: its own sources are imported, its engines are built."""
    checkout = Checkout(root, folder)
    folder.mkdir()
    for name, content in clips.items():
        (folder / name).write_bytes(content)
    imported = checkout.python("-c", IMPORT)
    print(f"{root} imports:", *imported["stdout"].split(), imported["stderr"], flush=True)
    if imported["stdout"].count("CHECKOUT/") != 3:
        raise NotComparableError(f"another place's packages are imported in the place of {root}'s")
    if engines is not None:
        shutil.copytree(engines, folder / ENGINES)
    else:
        built = checkout.python(root / "export" / "build_engines.py", "--preset", "tiny", "--out", ENGINES)
        if built["status"] != 0:
            raise NotComparableError(f"{root} builds no engines: {built['stderr']}")
    for name in ("changed", "crowded"):
        shutil.copytree(folder / ENGINES, folder / name)
    with open(folder / "changed" / "onnx" / "head.onnx.data", "r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))
    (folder / "crowded" / "onnx" / "more.onnx").write_bytes(b"more")
    return checkout


def make_clips() -> dict[str, bytes]:
    """The files that are scored, by name. The last two are broken."""
    frog = FROG.read_bytes()
    times_ms = [0, 40, 80, 600, 640, 1400, 1440, 1520, 3000]
    gif, png = io.BytesIO(), io.BytesIO()
    first, *others = (Image.fromarray(moving_picture(4 * index, 240, 200)) for index in range(5))
    first.save(gif, "GIF", save_all=True, append_images=others, duration=[100, 300, 40, 600, 100])
    painting(1, 400, 300).save(png, "PNG")
    return {
        "frog.mp4": frog,
        "turned.mp4": make_clip(size=(320, 240), orientation=(90, True), color={"colorspace": 1}),
        "interlaced.ts": make_clip("mpeg2video", "mpegts", size=(320, 240), options={"flags": "+ildct+ilme"}),
        "uneven.mkv": make_clip("ffv1", "matroska", size=(320, 240), frames=9, times_ms=times_ms),
        "small.webm": make_clip("libvpx-vp9", "webm"),
        "still.png": png.getvalue(),
        "animated.gif": gif.getvalue(),
        "text.mp4": b"Dear diary",
        "cut.mp4": frog[: len(frog) // 2],
    }


def compare_engines(before: Checkout, after: Checkout) -> Iterator[Comparison]:
    """The engine files' SHA-256, and what the manifests say of all but times, memory and commit."""
    folders = [checkout.folder / ENGINES for checkout in (before, after)]
    hashes, manifests = [], []
    for folder in folders:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
        hashes.append({str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files})
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        manifests.append(manifest | {"build": {k: v for k, v in manifest["build"].items() if k not in MEASURED}})
    yield "engine files", *hashes
    yield "manifest", *manifests


def compare_scores(before: Checkout, after: Checkout) -> Iterator[Comparison]:
    """Everything that `diffvqa score` prints."""
    for command in SCORES:
        outcome = before.diffvqa(command)
        if outcome["status"] != 0:
            raise NotComparableError(f"{before.root}: diffvqa {command}: {outcome['stderr']}")
        yield f"diffvqa {command}", outcome, after.diffvqa(command)


def compare_old_engines(before: Checkout, after: Checkout) -> Iterator[Comparison]:
    """The engines of the checkout before, in both checkouts."""
    shutil.copytree(before.folder / ENGINES, after.folder / "old")
    command = f"score --format json --engines {{}} {CLIPS}"
    yield "old engines: score", before.diffvqa(command.format(ENGINES)), after.diffvqa(command.format("old"))
    yield "old engines: info", before.diffvqa(f"info {ENGINES}"), after.diffvqa("info old")


def compare_failures(before: Checkout, after: Checkout) -> Iterator[Comparison]:
    """The exit status and the sentences of commands that fail."""
    for command in FAILURES:
        outcome = before.diffvqa(command)
        if outcome["status"] not in (1, 2) or "Traceback" in outcome["stderr"]:
            raise NotComparableError(f"{before.root}: diffvqa {command} does not fail with a sentence")
        yield f"diffvqa {command}", outcome, after.diffvqa(command)


def compare_outputs(before: Checkout, after: Checkout) -> Iterator[Comparison]:
    """The help of every command, and the output of those that are quick."""
    main_help = before.diffvqa("--help")
    yield "diffvqa --help", main_help, after.diffvqa("--help")
    for name in re.findall(r"^    (\w+)  ", main_help["stdout"], re.MULTILINE):
        yield f"diffvqa {name} --help", before.diffvqa(f"{name} --help"), after.diffvqa(f"{name} --help")
    for command in OUTPUTS:
        yield f"diffvqa {command}", before.diffvqa(command), after.diffvqa(command)
    script = "export/build_engines.py"
    yield f"{script} --help", *(side.python(side.root / script, "--help") for side in (before, after))


COMPARISONS = (compare_engines, compare_outputs, compare_failures, compare_scores, compare_old_engines)


def first_difference(before: Any, after: Any, place: str = "") -> str:
    """The place of the first difference, and both values there; empty where there is none."""
    if isinstance(before, str) and isinstance(after, str) and "\n" in before + after:
        before, after = before.splitlines(), after.splitlines()
    if isinstance(before, dict) and isinstance(after, dict):
        if list(before) != list(after):
            return f"{place} has other keys, or in another order: {', '.join(before)} → {', '.join(after)}"
        parts = [(f"{place}.{key}", before[key], after[key]) for key in before]
    elif isinstance(before, list) and isinstance(after, list):
        parts = [(f"{place}[{index}]", *pair) for index, pair in enumerate(zip_longest(before, after))]
    else:
        # As text, in which a NaN is a NaN and 1 is not 1.0.
        return "" if repr(before) == repr(after) else f"{place.lstrip('.')}: {before!r} → {after!r}"
    return next(filter(None, (first_difference(old, new, where) for where, old, new in parts)), "")


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0 all the same, 1 something differs, 2 not comparable."""
    parser = argparse.ArgumentParser(description="Compare what two checkouts do on this machine, to the bit.")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    for side in ("before", "after"):
        parser.add_argument(f"--engines-{side}", type=Path, metavar="DIR", help="tiny's; built there if not given")
    arguments = parser.parse_args(argv)
    with TemporaryDirectory(prefix="compare_checkouts_") as folder:
        try:
            clips = make_clips()
            before = prepare(arguments.before.resolve(), Path(folder, "before"), arguments.engines_before, clips)
            after = prepare(arguments.after.resolve(), Path(folder, "after"), arguments.engines_after, clips)
            count = differing = 0
            for compare in COMPARISONS:
                for name, old, new in compare(before, after):
                    difference = first_difference(old, new)
                    print(f"DIFFERS  {name}  {difference}" if difference else f"same     {name}", flush=True)
                    count, differing = count + 1, differing + bool(difference)
        except NotComparableError as error:
            print(f"compare_checkouts.py: {error}", file=sys.stderr)
            return 2
    print(f"{differing} of {count} comparisons differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
