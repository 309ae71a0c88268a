"""Broken files through the decoder's process and through the command: each is scored, or refused by a sentence."""

import dataclasses
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from diffvqa_rt.decoding import DecodeLimits, IsolatedDecoder
from diffvqa_rt.errors import VideoDecodeError
from diffvqa_rt.metric import Request
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.serving.tritonserver import children
from fuzz.mutations import mutated

LIMITS = DecodeLimits(max_decode_seconds=10.0, max_decode_memory_bytes=2 << 30)
# Beside the decoding itself: a new process, and a machine that does other things too.
SLACK_SECONDS = 10.0
# glibc keeps what libraries free in pieces; a leak of a frame a file would be some 100 MiB after 10,000 files.
MOST_GROWTH_MIB = 64.0
# Before these each decoder meets its first files of every kind. A shorter run says nothing of growth.
WARM_UP_FILES = 100

_CONFIG = dataclasses.replace(TINY, frames=4, view_size=64)
_FILES_A_COMMAND = 100
_KINDS = {
    "killed its decoder": re.compile(r"ended the decoder's process"),
    "took too long": re.compile(r"takes longer than"),
    "took too much memory": re.compile(r"takes more than"),
}
# How the decoder's process reports an exception that nobody foresaw.
_UNFORESEEN = re.compile(r"cannot be decoded \(\w+(Error|Exception|Warning): ")


@dataclass
class FileOutcomes:
    """What became of the files.

    Attributes:
        counts: files by what became of them: scored, scored with a warning, refused, ...
        warnings: files by the codes of their warnings.
        slowest_seconds: of one file.
        growth_mib: of the decoders' memory, from the first twentieth of the files, or the end of the warm-up, to the
            last.
        faults: sentences on what must not be, each with what repeats it.
    """

    counts: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    growth_mib: float = 0.0
    faults: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {
            "counts": dict(self.counts.most_common()),
            "warnings": dict(self.warnings.most_common()),
            "slowest_seconds": round(self.slowest_seconds, 2),
            "growth_mib": round(self.growth_mib, 1),
            "faults": self.faults,
        }


def fuzz_files(files: Mapping[str, bytes], count: int, seed: int, threads: int = 2) -> FileOutcomes:
    """Decodes `count` broken versions of `files`, in `threads` processes."""
    outcomes = FileOutcomes()
    decoder = IsolatedDecoder(LIMITS)
    resident: list[float] = []

    def decode(index: int) -> None:
        what, data = mutated(files, seed, index)
        start = time.monotonic()
        try:
            decoded = decoder.prepare(data, METRIC, _CONFIG, Request())
        except VideoDecodeError as error:
            sentence = str(error)
            kind = next((kind for kind, pattern in _KINDS.items() if pattern.search(sentence)), "refused")
            if "\n" in sentence or not sentence.startswith("<bytes> ") or _UNFORESEEN.search(sentence):
                outcomes.faults.append(f"file {index} of seed {seed} ({what}): {sentence}")
        except Exception as error:  # whatever it is, it is the finding
            kind = "fault"
            outcomes.faults.append(f"file {index} of seed {seed} ({what}): {type(error).__name__}: {error}")
        else:
            # Most of the files are smaller than a view, which says nothing of the damage.
            told = {warning.code for warning in decoded.warnings} - {"views-scaled-up"}
            kind = "scored with a warning" if told else "scored"
            outcomes.warnings.update(told)
        seconds = time.monotonic() - start
        outcomes.slowest_seconds = max(outcomes.slowest_seconds, seconds)
        if seconds > LIMITS.max_decode_seconds + SLACK_SECONDS:
            outcomes.faults.append(f"file {index} of seed {seed} ({what}) took {seconds:.1f} s")
        outcomes.counts[kind] += 1

    part = max(count // 20, 1)
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, count, part):
            list(pool.map(decode, range(first, min(first + part, count))))
            if first + part >= WARM_UP_FILES:
                resident.append(_decoders_mib())
    decoder.close()
    outcomes.growth_mib = resident[-1] - resident[0] if resident else 0.0
    if outcomes.growth_mib > MOST_GROWTH_MIB:
        outcomes.faults.append(f"the decoders grew by {outcomes.growth_mib:.0f} MiB over {count} files of seed {seed}")
    return outcomes


def fuzz_command(files: Mapping[str, bytes], count: int, seed: int, engines: Path) -> FileOutcomes:
    """Scores the same broken files by `diffvqa score`, a hundred in a run."""
    outcomes = FileOutcomes()
    for first in range(0, count, _FILES_A_COMMAND):
        with TemporaryDirectory() as folder:
            names = []
            for index in range(first, min(first + _FILES_A_COMMAND, count)):
                what, data = mutated(files, seed, index)
                suffix = Path(what.split(",")[0]).suffix
                name = Path(folder, f"{index}{suffix}")
                name.write_bytes(data)
                names.append(str(name))
            command = [sys.executable, "-m", "diffvqa_rt.cli", "score", "--engines", str(engines), "--format", "json"]
            run = subprocess.run([*command, *names], capture_output=True, text=True, timeout=60 * len(names))
        _note_run(outcomes, run, names, f"files {first} to {first + len(names) - 1} of seed {seed}")
    return outcomes


def _note_run(outcomes: FileOutcomes, run: "subprocess.CompletedProcess[str]", names: list[str], where: str) -> None:
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    if [row["source"] for row in rows] != names:
        outcomes.faults.append(f"{where}: {len(rows)} rows for {len(names)} files")
    failed = sum("error" in row for row in rows)
    if run.returncode != (1 if failed else 0):
        outcomes.faults.append(f"{where}: status {run.returncode} with {failed} failures")
    strange = [line for line in run.stderr.splitlines() if not line.startswith("diffvqa: ")]
    if strange:
        outcomes.faults.append(f"{where}: on stderr {strange[:3]}")
    warned = sum(bool(row.get("warnings")) for row in rows)
    outcomes.counts.update({"scored": len(rows) - failed - warned, "scored with a warning": warned, "refused": failed})


def _decoders_mib() -> float:
    """The resident memory of this process's children."""
    import os

    pages = [Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in children(os.getpid())]
    return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE") / 2**20
