"""Good and bad requests to a real `diffvqa serve` over gRPC and HTTP: no crash, no lost or swapped answer, no growth?

    make soak                                                       # five minutes, into build/soak.json
    PYTHONPATH=tests .venv/bin/python benchmarks/soak.py --seconds 60

Before and after, with no server running, this process scores the same videos one after another: the throughput to
compare with. Exit status 0 if every bar is met; else 1, with a sentence on stderr for each that is missed. What the
server wrote is beside the result, as .log.
"""

import argparse
import contextlib
import json
import random
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from machine import ROOT, machine
from soak_http import HttpClient
from soak_requests import LIMITS, Answer, Outcome, Request, answer_of, make_requests, outcome_of

from diffvqa_rt import Scorer
from diffvqa_rt.serving import Client
from diffvqa_rt.serving.tritonserver import children

PACKAGES = (
    "diffvqa-rt",
    "av",
    "fastapi",
    "grpcio",
    "numpy",
    "nvidia-pytriton",
    "onnxruntime",
    "tritonclient",
    "uvicorn",
)
PORTS = {"--port": 18101, "--http-port": 18100, "--metrics-port": 18102, "--http-api": 18103}
DEADLINE_SECONDS = 120
MAX_GROWTH = 0.05
MIN_THROUGHPUT = 0.9
# `diffvqa serve` announces a restart; a model's log has its exceptions; Triton server's errors are E, month and day.
COMPLAINT = re.compile(r"starting again|Traceback|request failed|^E\d{4} ")

Sample = tuple[float, Mapping[str, float]]
"""When, in seconds, and MiB by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Soak:
    """The quantities that the bars are set on.

    Attributes:
        outcomes: how many answers were what; `mistake` is the first that was not right.
        scored, scored_by_server: videos, by the answers and by the server's own count.
        changed: processes that ended or were started since the server was ready; decoders may.
        complaints: lines of the server's log.
        exit_status: of `diffvqa serve` when told to stop.
        memory_mib: the server's, mean of the second fifth of the time and of the last.
        served_seconds, in_process_seconds: what the same requests took there and here.
    """

    outcomes: Mapping[Outcome, int]
    mistake: str
    scored: int
    scored_by_server: int
    changed: Sequence[str]
    complaints: Sequence[str]
    exit_status: int
    memory_mib: tuple[float, float]
    served_seconds: float
    in_process_seconds: float

    @property
    def memory_growth(self) -> float:
        return self.memory_mib[1] / self.memory_mib[0] - 1

    @property
    def throughput(self) -> float:
        """The server's throughput as a share of in-process scoring's."""
        return self.in_process_seconds / self.served_seconds


def missed_bars(soak: Soak) -> Iterator[str]:
    """A sentence for each bar that is missed."""
    for outcome, count in soak.outcomes.items():
        if outcome != "right":
            yield f"answers that were {outcome}: {count}; the first mistake: {soak.mistake}"
    if soak.scored_by_server != soak.scored:
        yield f"the server scored {soak.scored_by_server} videos, and {soak.scored} scores arrived"
    if soak.changed:
        yield f"processes ended or were started again: {', '.join(soak.changed)}"
    if soak.complaints:
        yield f"the server's log complains: {' | '.join(soak.complaints[:3])}"
    if soak.exit_status != 0:
        yield f"diffvqa serve ended with status {soak.exit_status}"
    if not soak.memory_growth < MAX_GROWTH:
        sizes = "from {:.0f} to {:.0f} MiB".format(*soak.memory_mib)
        yield f"memory grew by {soak.memory_growth:.1%}, {sizes}; the bar is {MAX_GROWTH:.0%}"
    if not soak.throughput >= MIN_THROUGHPUT:
        yield f"throughput is {soak.throughput:.3f} of in-process scoring; the bar is {MIN_THROUGHPUT}"


def complaints(log: str) -> list[str]:
    """The lines of the server's log that say that something failed, once it was ready."""
    return [line for line in log.partition("metrics at")[2].splitlines() if COMPLAINT.search(line)]


def changed(before: Mapping[int, str], after: Mapping[int, str]) -> list[str]:
    """The processes that came or went, by name. A decoder's may: to die of a video is what it is for."""
    return sorted(name for _, name in before.items() ^ after.items() if name != "decoder")


def fifths(samples: Sequence[Sample], seconds: float) -> dict[str, list[float]]:
    """The means by name of each fifth of the time: of five minutes, the minutes."""
    parts = [[sizes for at, sizes in samples if n <= 5 * at / seconds < n + 1] for n in range(5)]
    names = sorted({name for part in parts for sizes in part for name in sizes})
    return {name: [statistics.fmean(sizes.get(name, 0) for sizes in part) for part in parts] for name in names}


def time_in_process(
    scorers: Mapping[str, Scorer], requests: Mapping[str, Request], seconds: float
) -> list[dict[str, float]]:
    """Each request's seconds in this process, in whole rounds. What only a server refuses takes none: a harder bar."""
    rounds, end = [], time.monotonic() + seconds
    while not rounds or time.monotonic() < end:
        rounds.append({})
        for name, request in requests.items():
            start = time.perf_counter()
            if not request.refusal:
                answer_of(scorers, request)
            rounds[-1][name] = time.perf_counter() - start
    return rounds


@contextlib.contextmanager
def served(folders: Sequence[Path], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`diffvqa serve`, ready. Stopped at the end of the block, which leaves its exit status in `returncode`."""
    flags = [str(word) for flag in {**PORTS, **LIMITS}.items() for word in flag]
    engines = [word for folder in folders for word in ("--engines", str(folder))]
    command = [sys.executable, "-m", "diffvqa_rt.cli", "serve", *engines, *flags]
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            while "metrics at" not in log.read_text():
                if process.poll() is not None:
                    raise SystemExit(f"diffvqa serve ended before it was ready; see {log}")
                time.sleep(0.1)
            yield process
        finally:
            process.terminate()


def processes(serve: int) -> dict[int, str]:
    """`diffvqa serve`, the server, its models' processes and their decoders, by what they are for."""
    found = {serve: "serve"}
    for server, program in children(serve).items():
        found[server] = "tritonserver" if Path(program).name == "tritonserver" else "http_api"
        for model, name in children(server).items():
            found[model] = name
            found |= dict.fromkeys(children(model), "decoder")
    return found


def memory_mib(tree: Mapping[int, str]) -> dict[str, float]:
    """The resident memory by process and kind; nothing counts twice."""
    kib: Counter[str] = Counter()
    for pid, name in tree.items():
        rollup = dict(re.findall(r"^(\w+): +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE))
        kib[name] += int(rollup["Pss_Anon"])
        kib["files"] += int(rollup["Pss_File"])
        if name == "tritonserver":
            # By file and not as part of the processes: what none of them has mapped any more counts, too.
            prefix = re.search(r"shm-region-prefix-name=([\w-]+)", Path(f"/proc/{pid}/cmdline").read_text())
            for file in Path("/dev/shm").glob(f"{prefix[1]}*" if prefix else ""):
                kib["shared memory"] += file.stat().st_blocks // 2
    return {name: size / 1024 for name, size in kib.items()}


def scored_by_server() -> int:
    time.sleep(3)  # it publishes its counts every two
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORTS['--metrics-port']}/metrics") as answer:
            counts = re.findall(r"^diffvqa_score_count(?:{[^}]*})? (\d+)", answer.read().decode(), re.MULTILINE)
    except OSError:  # it is gone, which the bars say
        return 0
    return sum(map(int, counts))


def client(number: int, metric: str) -> Client | HttpClient:
    """Every other client asks over HTTP, and the others over gRPC."""
    kind, url = (HttpClient, "http://127.0.0.1:{--http-api}") if number % 2 else (Client, "127.0.0.1:{--port}")
    return kind(url.format_map(PORTS), metric=metric, deadline_seconds=DEADLINE_SECONDS)


def run(folders: Sequence[Path], seconds: float, clients: int, log: Path) -> tuple[Soak, dict[str, Any]]:
    """The quantities that the bars are set on, and what else there is to know."""
    opened = [Scorer.open(folder) for folder in folders]
    scorers = {scorer.manifest.metric_name: scorer for scorer in opened}
    requests = make_requests(scorers)
    expected = {name: request.refusal or answer_of(scorers, request) for name, request in requests.items()}
    rounds = time_in_process(scorers, requests, seconds / 10)

    def ask(seed: int) -> list[tuple[str, Outcome, Answer]]:
        draw, names, answers = random.Random(seed), list(requests), []
        with contextlib.ExitStack() as stack:
            asked = {metric: stack.enter_context(client(seed, metric)) for metric in scorers}
            while time.monotonic() - start < seconds:
                # One of each kind to begin with: what the first of a kind takes to load is not growth.
                name = draw.choice(names) if answers else names[seed % len(names)]
                answer = answer_of(asked, requests[name])
                answers.append((name, outcome_of(name, answer, expected), answer))
        return answers

    samples: list[Sample] = []
    decoders: set[int] = set()
    with served(folders, log) as serve:
        at_start = processes(serve.pid)
        with ThreadPoolExecutor(clients) as pool:
            start = time.monotonic()
            futures = [pool.submit(ask, seed) for seed in range(clients)]
            while wait(futures, timeout=1).not_done:
                with contextlib.suppress(OSError):  # a process that has just ended
                    tree = processes(serve.pid)
                    samples.append((time.monotonic() - start, memory_mib(tree)))
                    decoders |= {pid for pid, name in tree.items() if name == "decoder"}
            served_seconds = time.monotonic() - start
        answers = [answer for future in futures for answer in future.result()]
        at_end, scored_there = processes(serve.pid), scored_by_server()
    rounds += time_in_process(scorers, requests, seconds / 10)

    asked = Counter(name for name, _, _ in answers)
    in_process = {name: statistics.fmean(each[name] for each in rounds) for name in asked}
    memory = fifths(samples, seconds)
    soak = Soak(
        outcomes=dict(Counter(outcome for _, outcome, _ in answers)),
        mistake=next((f"{name} got {answer}" for name, outcome, answer in answers if outcome != "right"), ""),
        scored=sum(isinstance(answer, dict) for _, _, answer in answers),
        scored_by_server=scored_there,
        changed=changed(at_start, at_end),
        complaints=complaints(log.read_text()),
        exit_status=serve.returncode,
        memory_mib=(sum(means[1] for means in memory.values()), sum(means[4] for means in memory.values())),
        served_seconds=served_seconds,
        in_process_seconds=sum(count * in_process[name] for name, count in asked.items()),
    )
    return soak, {
        "videos_per_second": {
            "served": soak.scored / soak.served_seconds,
            "in_process": soak.scored / soak.in_process_seconds,
            "ratio": soak.throughput,
        },
        "requests": dict(asked),
        "in_process_rounds_seconds": [sum(each.values()) for each in rounds],
        "decoder_restarts": len(decoders - at_start.keys()),
        "memory_mib_in_fifths": memory,
        "memory_mib_over_time": [(at, sum(mib.values())) for at, mib in samples[:: len(samples) // 60 + 1]],
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--engines", type=Path, action="append", required=True, help="an engine folder; one a metric")
    parser.add_argument("--seconds", type=float, default=300, help="how long clients ask (300)")
    parser.add_argument("--clients", type=int, default=16, help="how many ask at a time (16)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "soak.json", help="the result (build/soak.json)")
    arguments = parser.parse_args(argv)
    if arguments.seconds < 10 or arguments.clients < 1:
        parser.error("expected at least 10 seconds and 1 client")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    soak, more = run(arguments.engines, arguments.seconds, arguments.clients, arguments.out.with_suffix(".log"))
    missed = list(missed_bars(soak))
    facts = {"seconds": arguments.seconds, "clients": arguments.clients, "machine": machine(PACKAGES)}
    arguments.out.write_text(json.dumps({"missed_bars": missed, **asdict(soak), **more, **facts}, indent=2) + "\n")
    speeds = more["videos_per_second"]
    print(f"answers   {soak.outcomes}")
    print("videos/s  {served:.3f}; in this process {in_process:.3f}; ratio {ratio:.3f}".format(**speeds))
    print("memory    {:.0f} MiB, then {:.0f}: {:+.1%}".format(*soak.memory_mib, soak.memory_growth))
    print(f"decoders  {more['decoder_restarts']} started again")
    print(f"verdict   {f'{len(missed)} bars missed' if missed else 'every bar met'}; more in {arguments.out}")
    for sentence in missed:
        print(f"soak: {sentence}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
