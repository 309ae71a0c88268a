"""Thousands of mutated requests to a real `diffvqa serve`: refused or answered, and nothing else may come of them."""

import contextlib
import dataclasses
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from served import MAX_REQUEST_MIB, Served
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from diffvqa_rt.serving.endpoints import fetch_metrics
from diffvqa_rt.serving.tritonserver import children
from fuzz.calls import CLOSED, DEADLINE_SECONDS, GOOD_EVERY, Call, Case, Wire, make_case
from fuzz.inference import Corpus, read_corpus, wraps_around
from fuzz.wire import Wires

LIMITS = (
    *("--max-request-mib", str(MAX_REQUEST_MIB)),
    *("--max-frames", "400"),
    *("--max-frame-pixels", "1000000"),
    *("--max-crops", "3"),
)
THREADS = 8
START_SECONDS = 120
# Resident memory settles in the first third of the cases, and not before these: each process sees its first large
# messages, each allocator its threads. A shorter run says nothing of growth.
WARM_UP_CASES = 300
# After that, models' processes were flat to 2 MiB over 40,000 cases. Triton server 2.51 keeps some of each stream that
# its client cuts: 3 to 8 KiB a case of the whole mixture.
MOST_GROWTH_MIB = 48.0
TRITONS_GROWTH_MIB_PER_CASE = 16 / 1024
# Ends of processes that are Triton server's own (2.51, the wheel's). None of our code is where they happen. Of ours is
# asked that the server is there again, and gives the good request its score.
KNOWN_ENDS = {
    # An answer arrives for a stream that is gone, as its client cut it or sent what cannot be parsed: memory is used
    # after it was freed, by way of TRITONBACKEND_ResponseSend. Once in some 10,000 cases.
    re.compile(r"ModelStreamInferHandler[\s\S]*Signal \((6|11)\)"): "tritonserver ended by an answer to a lost stream",
    # See `fuzz.inference.wraps_around`.
    re.compile("array is too big"): "a model's process ended by a shape that is too big for NumPy",
}
COMPLAINT = re.compile(r"Traceback|request failed")
# An exception that has left a model's `execute`: Triton server's sentence, and no failure that our own metric counts.
ESCAPED = re.compile(r"Failed to process the request|\.py\b")
WITHHELD = "withheld, as it ends a process of Triton server 2.51"
STREAM_ERROR = "answered in a stream with an error"  # and without its status
_PATH = "/inference.GRPCInferenceService/"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RequestOutcomes:
    """What came of the cases.

    Attributes:
        count, seed, first: the cases were those from `first` to `first + count`.
        outcomes: how many ended how: answered, refused (by status), cancelled, past the deadline, closed, left open.
        by_kind: the same for each kind of mutation; a case with two counts for both.
        tritons: what is Triton server's own: its errors INTERNAL and UNKNOWN for malformed requests, and `KNOWN_ENDS`.
        memory_mib: of Triton server and of its models' processes, after the warm-up and at the end. Growth is a fault
            where cases came after the warm-up; before that, it is the warm-up.
        seconds: that all took.
        faults: what must never be; a sentence for each that says what to repeat.
    """

    count: int
    seed: int
    first: int
    outcomes: Mapping[str, int]
    by_kind: Mapping[str, Mapping[str, int]]
    tritons: Mapping[str, int]
    memory_mib: Mapping[str, tuple[float, float]]
    seconds: float
    faults: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """What JSON holds of it."""
        return dataclasses.asdict(self)


def fuzz_requests(engines: Sequence[Path], count: int, seed: int, *, first: int = 0) -> RequestOutcomes:
    """Starts a server on engine folders for `fuzz_served`, and stops it: that must go well, too."""
    others = [word for folder in engines[1:] for word in ("--engines", str(folder))]
    server = Served(engines[0], *others, *LIMITS)
    try:
        server.wait_until_ready()
        outcomes = fuzz_served(server, count, seed, first=first)
    finally:
        status = server.stop()
    if status:
        ended = f"diffvqa serve ended with status {status} (seed {seed})"
        outcomes = dataclasses.replace(outcomes, faults=(*outcomes.faults, ended))
    return outcomes


def fuzz_served(
    served: Served, count: int, seed: int, *, first: int = 0, models: tuple[str, ...] | None = None
) -> RequestOutcomes:
    """Sends the cases `first` … `first + count` of a seed to a server, some at a time, and the good request at last.

    They are for all of its models that the corpus knows, or for those that are named.
    Errors that are Triton server's own are told from ours by our metric of faults. Where it has grown, each kind of
    error is provoked again, alone.
    """
    with grpc.insecure_channel(served.url) as channel:
        corpus = read_corpus(service_pb2_grpc.GRPCInferenceServiceStub(channel), models)
    return _Run(served, corpus, seed).outcomes(count, first)


class _Run:
    def __init__(self, served: Served, corpus: Corpus, seed: int) -> None:
        self._served, self._corpus, self._seed = served, corpus, seed
        self._local = threading.local()
        self._lock = threading.Lock()
        self._wires = Wires()
        self._counts: Counter[str] = Counter()
        self._by_kind: dict[str, Counter[str]] = {}
        self._faults: list[str] = []
        self._errors: dict[tuple[str, str], list[int]] = {}  # cases by status and what was said
        self._score = ""
        self._under_way: set[int] = set()
        self._withheld: dict[int, Call] = {}
        self._ends: Counter[str] = Counter()
        self._starts = len(self._log_by_start()) - 1
        self._processes = self._running()

    def outcomes(self, count: int, first: int) -> RequestOutcomes:
        start = time.monotonic()
        faults_before, lines_before = self._faults_counted(), len(self._served.lines)
        last = first + count
        warm = min(last, first + max(count // 3, WARM_UP_CASES))
        with ThreadPoolExecutor(THREADS) as pool:
            self._do(0)  # the good request
            list(pool.map(self._do, range(max(first, 1), warm)))
            memory_before = self._memory_mib()
            list(pool.map(self._do, range(warm, last)))
            self._do(-(-last // GOOD_EVERY) * GOOD_EVERY)
        self._wires.close()
        if self._withheld:
            self._send_withheld()
        memory = {name: (mib, self._memory_mib()[name]) for name, mib in memory_before.items()}
        for name, (before, after) in memory.items() if warm < last else ():
            allowed = MOST_GROWTH_MIB + (TRITONS_GROWTH_MIB_PER_CASE * count if name == "tritonserver" else 0)
            if after - before > allowed:
                self._faults.append(
                    f"the memory of {name} grew from {before:.0f} to {after:.0f} MiB, by more than {allowed:.0f} "
                    f"(seed {self._seed}, cases {warm} to {last})"
                )
        time.sleep(0.5)  # the log comes by a pipe, the metrics from another process
        lines = [line for line in self._served.lines[lines_before:] if COMPLAINT.search(line)]
        self._faults += [f"the log says: {line} (seed {self._seed})" for line in dict.fromkeys(lines)]
        if grown := self._faults_counted() - faults_before:
            self._faults.append(f"{grown:.0f} faults were counted (seed {self._seed})")
            self._faults += self._provoked_again()
        tritons = {
            f"{status}: {said}": len(indexes)
            for (status, said), indexes in self._errors.items()
            if status != STREAM_ERROR
        } | self._ends
        return RequestOutcomes(
            count=count,
            seed=self._seed,
            first=first,
            outcomes=dict(sorted(self._counts.items())),
            by_kind={kind: dict(sorted(counts.items())) for kind, counts in sorted(self._by_kind.items())},
            tritons=tritons,
            memory_mib=memory,
            seconds=time.monotonic() - start,
            faults=tuple(self._faults),
        )

    def _do(self, index: int) -> None:
        case = make_case(self._corpus, self._seed, index)
        with self._lock:
            self._under_way.add(index)
        if isinstance(case, Wire):
            outcome = self._write(case)
        elif any(map(wraps_around, case.messages)):
            self._withheld[index], outcome = case, WITHHELD
        else:
            outcome = self._ask(case, index)
        with self._lock:
            self._counts[outcome] += 1
            for kind in case.kinds:
                self._by_kind.setdefault(kind, Counter())[outcome] += 1
            if index % 10 == 0:
                self._check_processes()
            self._under_way.remove(index)

    def _write(self, case: Wire) -> str:
        ports = {"grpc": self._served.port, "health": self._served.http_port, "metrics": self._served.metrics_port}
        try:
            return self._wires.write(ports[case.port], case.content, leaves_open=case.leaves_open, resets=case.resets)
        except OSError as error:  # the server is away, which its processes tell
            return f"no connection: {error.strerror}"

    def _ask(self, case: Call, index: int) -> str:
        """Sends a call. Returns what came of it, and notes what must not be."""
        try:
            answers = list(self._answers(case))
        except grpc.RpcError as error:
            status, said = error.code().name, error.details() or ""
        except ValueError as error:  # metadata that the library refuses to send
            status, said = "UNSENT", str(error)
        else:
            said = " ".join(
                answer.error_message for answer in answers if isinstance(answer, pb.ModelStreamInferResponse)
            )
            status = STREAM_ERROR if said else "answered"
        if status in ("INTERNAL", "UNKNOWN", STREAM_ERROR):
            with self._lock:
                self._errors.setdefault((status, re.sub(r"\d+", "N", said)[:200]), []).append(index)
        if ESCAPED.search(said):
            self._note(index, case, f"{status}, {said}")
        if case.kinds == ("good",):
            self._check_score(index, case, answers[0] if status == "answered" else f"{status}, {said}")
        if case.method in CLOSED and status == "answered":
            self._note(index, case, f"{case.method} is open")
        if status == "DEADLINE_EXCEEDED" and case.deadline_seconds == DEADLINE_SECONDS:
            self._note(index, case, f"no answer in {DEADLINE_SECONDS:g} s")
        names = {"CANCELLED": "cancelled", "DEADLINE_EXCEEDED": "past the deadline", "UNSENT": "not sent"}
        return names.get(status) or (status if status.startswith("answered") else f"refused: {status}")

    def _answers(self, case: Call) -> Iterator[Any]:
        """What the server answers. Raises grpc.RpcError as its status says."""
        metadata, options = case.metadata or None, {"timeout": case.deadline_seconds, "wait_for_ready": case.waits}
        if case.method == "ModelStreamInfer":
            answer_type = pb.ModelStreamInferResponse
            method = self._channel().stream_stream(_PATH + case.method, response_deserializer=answer_type.FromString)
            is_over = threading.Event()

            def messages() -> Iterator[bytes]:
                yield from case.messages
                if case.ending != "whole":
                    is_over.wait(DEADLINE_SECONDS)

            stream = method(messages(), metadata=metadata, **options)
            try:
                if case.ending == "cancelled":
                    time.sleep(case.wait_seconds)
                    stream.cancel()
                yield from stream
            finally:
                is_over.set()
            return
        answer_type = getattr(pb, f"{case.method}Response")
        method = self._channel().unary_unary(_PATH + case.method, response_deserializer=answer_type.FromString)
        if case.is_compressed:
            options["compression"] = grpc.Compression.Gzip
        future = method.future(case.messages[0], metadata=metadata, **options)
        if case.ending == "cancelled":
            time.sleep(case.wait_seconds)
            future.cancel()
        try:
            yield future.result()
        except grpc.FutureCancelledError:
            raise _CancelledError from None

    def _channel(self) -> grpc.Channel:
        if not hasattr(self._local, "channel"):
            self._local.channel = grpc.insecure_channel(
                self._served.url,
                [
                    ("grpc.use_local_subchannel_pool", 1),
                    ("grpc.enable_http_proxy", 0),
                    ("grpc.initial_reconnect_backoff_ms", 100),
                    ("grpc.max_reconnect_backoff_ms", 500),
                ],
            )
        return self._local.channel

    def _check_score(self, index: int, case: Call, answer: pb.ModelInferResponse | str) -> None:
        with self._lock:
            if isinstance(answer, str) and self._check_processes():
                with contextlib.suppress(grpc.RpcError):
                    (answer,) = self._answers(dataclasses.replace(case, waits=True))
            score = answer
            if isinstance(answer, pb.ModelInferResponse):
                names = [output.name for output in answer.outputs]
                score = answer.raw_output_contents[names.index("score")].hex()
                self._score = self._score or score
            if score != self._score:
                self._faults.append(self._sentence(index, case, f"the good request got {score}"))

    def _send_withheld(self) -> None:
        """Sends what was held back until a process ends of it: the good request must get its score after that."""
        for index, case in sorted(self._withheld.items()):
            self._ask(case, index)
            time.sleep(0.5)
            with self._lock:
                self._under_way = {index}
                has_ended = self._check_processes()
            if has_ended:
                break
        self._do(0)

    def _note(self, index: int, case: Case, what: str) -> None:
        with self._lock:
            self._faults.append(self._sentence(index, case, what))

    def _sentence(self, index: int, case: Case, what: str) -> str:
        return f"{what} (seed {self._seed}, case {index}: {', '.join(case.kinds)})"

    def _check_processes(self) -> bool:
        """Whether a process has ended: why is noted, and those that take their place are waited for."""
        if self._running() == self._processes:
            return False
        began, self._starts = self._starts, self._starts + 1
        deadline = time.monotonic() + START_SECONDS
        while len(self._log_by_start()) <= self._starts:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the server did not start again within {START_SECONDS} s (seed {self._seed})")
            time.sleep(0.1)
        self._processes = self._running()
        said = self._log_by_start()[began]
        known = next((why for sign, why in KNOWN_ENDS.items() if sign.search(said)), None)
        if known:
            self._ends[known] += 1
        else:
            cases = f"cases from about {min(self._under_way) - THREADS} to {max(self._under_way)}"
            self._faults.append(f"a process has ended (seed {self._seed}, {cases})")
        return True

    def _log_by_start(self) -> list[str]:
        """The log, cut where a server was ready."""
        return "\n".join(self._served.lines).split("metrics at")

    def _running(self) -> dict[int, str]:
        """Triton server and its models' processes; none where they keep ending."""
        for _ in range(5):
            with contextlib.suppress(OSError):
                servers = children(self._served.process.pid)
                models = [children(server) for server in servers]
                return dict.fromkeys(servers, "tritonserver") | {
                    p: name for found in models for p, name in found.items()
                }
            time.sleep(0.1)
        return {}

    def _memory_mib(self) -> dict[str, float]:
        """What is resident of Triton server's process and of its models' together."""
        sizes = dict.fromkeys(("tritonserver", "models"), 0.0)
        for pid, name in self._running().items():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                kib = int(status.partition("VmRSS:")[2].split()[0])
                sizes["tritonserver" if name == "tritonserver" else "models"] += kib / 1024
        return sizes

    def _faults_counted(self) -> float:
        text = fetch_metrics(self._served.metrics_port) or ""
        series = [line for line in text.splitlines() if line.startswith("diffvqa_failures_total")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in series if 'reason="fault"' in line)

    def _provoked_again(self) -> Iterator[str]:
        for (status, said), indexes in list(self._errors.items()):
            case = make_case(self._corpus, self._seed, indexes[0])
            before = self._faults_counted()
            self._ask(case, indexes[0])
            time.sleep(0.2)
            if self._faults_counted() > before:
                del self._errors[status, said]
                yield self._sentence(indexes[0], case, f"a fault in {len(indexes)} cases: {status}, {said}")


class _CancelledError(grpc.RpcError):
    """The client has given a call up."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.CANCELLED

    def details(self) -> str:
        return ""
