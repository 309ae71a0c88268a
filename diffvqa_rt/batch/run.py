"""A catalogue's scores on Ray Data: decoding and engines are stages of their own, and this process alone writes."""

import contextlib
import logging
import math
import os
import secrets
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from diffvqa_rt.batch.manifest import Entry, key_of
from diffvqa_rt.batch.output import BlockWriter, ResultsFolder, scorer_of
from diffvqa_rt.batch.stages import DecodeVideos, ScoreVideos
from diffvqa_rt.engines import BackendName, Manifest, available_cpus
from diffvqa_rt.engines.manifest import engines_sha256
from diffvqa_rt.errors import BatchError
from diffvqa_rt.metric import Request

# On a CPU, decoding takes its time from the engines: beside each worker's there is room for a decoder that waits.
_ENGINES_SHARE, _DECODER_SHARE = 0.75, 0.25
# How often a video may end its worker before it is left out, and how many blocks may be lost before the run ends.
_RETRIES, _MOST_LOST_BLOCKS = 2, 100
# A local object store holds what is decoded and not yet scored: a second's worth of frames is megabytes.
_LOCAL_STORE_BYTES = 1 << 30
# A block is a task of each stage, which costs Ray milliseconds. It has several batches where every worker gets many
# blocks all the same, so that none is at its last one long after the others. Ray's notes of blocks take memory here.
_BLOCKS_A_WORKER, _MOST_BATCHES_A_BLOCK, _MOST_BLOCKS = 64, 8, 100_000
_ROWS_A_CHUNK = 4096
_SECONDS_A_FILE = 30.0
_SECONDS_TO_CONNECT = 10.0

_COLUMNS = pa.schema([("id", pa.string()), ("video", pa.string()), ("prompt", pa.string())])


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchJob:
    """A catalogue to score, and by which engines.

    Attributes:
        engines: the engine folder, at the same path on every node.
        backend: which of its engines to play.
        request: what is alike for all videos.
        out: the output folder, a path or a URL.
        ray_address: the cluster's; None for one on this machine that lasts as long as the run.
        threads: CPU threads of a worker.
        batch: how many videos go through the engines together.
        rows_a_file: the most rows of a file, and so what a killed run loses at most; half a minute's, if that is less.
        is_model_changed_only: score only the videos that another scorer has scored.
    """

    engines: Path
    backend: BackendName
    request: Request
    out: str
    ray_address: str | None = None
    threads: int = 1
    batch: int = 1
    rows_a_file: int = 1000
    is_model_changed_only: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSummary:
    """The numbers of videos that have been scored, could not be scored, and were left as they were."""

    scored: int
    failed: int
    skipped: int


Report = Callable[[dict[str, Any]], None]
"""Is told of each row that is written: as `schema.result_schema` has it."""


def run_batch(job: BatchJob, entries: Iterable[Entry], begin: Callable[[int], None], report: Report) -> BatchSummary:
    """Scores the entries that the output folder does not hold yet, and writes a row of each.

    Args:
        job: the engines, the output folder, the cluster.
        entries: the catalogue, once through.
        begin: is told how many rows will be written.
        report: is told of each row.

    Raises:
        BatchError: the output folder cannot be read or written, there is no cluster, or too many workers fail.
        EngineMismatchError: the engine folder is none, or a node has another one.
        FileWriteError: the output folder cannot be written. What was written before is whole, and a later run goes on.
    """
    manifest = Manifest.read(job.engines)
    record = manifest.backend(job.backend, job.engines)
    folder = ResultsFolder(job.out, scorer_of(manifest, job.backend, job.request))
    done = folder.resume()
    wanted = folder.scored_by_others() if job.is_model_changed_only else None
    bad, pending, skipped = _sorted_out(entries, done, wanted)
    begin(len(bad) + pending.num_rows)
    tally = _Tally(BlockWriter(folder, job.rows_a_file, _SECONDS_A_FILE), report)
    with tally:
        for entry in bad:
            tally.add({"id": entry.id, "source": entry.video, "prompt": entry.prompt, "error": entry.error})
        if pending.num_rows:
            waiting = {key_of(*row) for row in _rows(pending)}
            expected = engines_sha256(record.files)
            with _cluster(job.ray_address) as cluster:
                workers = cluster.workers(job.threads, is_cpu=record.device == "cpu")
                for row in _scored(job, pending, workers, expected):
                    key = key_of(row["id"], row["source"], row["prompt"])
                    if key in waiting:
                        waiting.remove(key)
                        tally.add(row)
            for id, video, prompt in _rows(pending) if waiting else ():
                if key_of(id, video, prompt) in waiting:
                    error = f"{video} ended its worker, or met a fault of it, {1 + _RETRIES} times; see Ray's log"
                    tally.add({"id": id, "source": video, "prompt": prompt, "error": error})
    return BatchSummary(scored=tally.scored, failed=tally.failed, skipped=skipped)


class _Tally:
    """Counts, reports and writes rows; where the block ends by an exception, it writes what is there first."""

    def __init__(self, writer: BlockWriter, report: Report) -> None:
        self._writer = writer
        self._report = report
        self.scored = self.failed = 0

    def add(self, row: dict[str, Any]) -> None:
        is_failure = row.get("error") is not None
        self.failed += is_failure
        self.scored += not is_failure
        self._report(row)
        self._writer.add(row)

    def __enter__(self) -> "_Tally":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.flush()


def _sorted_out(
    entries: Iterable[Entry], done: set[bytes], wanted: set[bytes] | None
) -> tuple[list[Entry], pa.Table, int]:
    """The entries that are bad, a table of those to score, and the number of those that have a score."""
    bad: list[Entry] = []
    chunks: list[pa.RecordBatch] = []
    rows: list[dict[str, str | None]] = []
    skipped = 0
    for entry in entries:
        if entry.error is not None:
            bad.append(entry)
        elif entry.key in done or (wanted is not None and entry.key not in wanted):
            skipped += 1
        else:
            rows.append({"id": entry.id, "video": entry.video, "prompt": entry.prompt})
        if len(rows) == _ROWS_A_CHUNK:
            chunks.append(pa.RecordBatch.from_pylist(rows, _COLUMNS))
            rows = []
    chunks.append(pa.RecordBatch.from_pylist(rows, _COLUMNS))
    return bad, pa.Table.from_batches(chunks, _COLUMNS), skipped


def _rows(table: pa.Table) -> Iterator[tuple[str, str, str | None]]:
    for batch in table.to_batches():
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Workers:
    """The numbers of workers of each stage, and what each takes of Ray's resources."""

    engines: int
    decoders: int
    engine_resources: dict[str, float]
    decoder_resources: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Cluster:
    cpus: float
    gpus: float
    largest_node_cpus: float

    def workers(self, threads: int, *, is_cpu: bool) -> _Workers:
        """An engine worker on each share of `threads` CPUs, or on each GPU with the CPUs left to decoding."""
        cpus = max(1, int(self.cpus))
        if not is_cpu:
            if not self.gpus:
                raise BatchError("these engines are for a GPU, and the cluster has none; take the onnx backend")
            resources = {"num_cpus": 1.0, "num_gpus": 1.0}
            return _Workers(
                engines=int(self.gpus),
                decoders=max(1, cpus - int(self.gpus)),
                engine_resources=resources,
                decoder_resources={"num_cpus": 1.0},
            )
        threads = min(threads, max(1, int(self.largest_node_cpus)))
        return _Workers(
            engines=max(1, cpus // threads),
            decoders=cpus,
            engine_resources={"num_cpus": _ENGINES_SHARE * threads},
            decoder_resources={"num_cpus": _DECODER_SHARE},
        )


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[_Cluster]:
    """A connection to the cluster at the address, or one of this machine's own, which ends with the block."""
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",  # nothing about a run leaves the machine
        "RAY_raylet_start_wait_time_s": "120",  # on a busy machine half a minute is too short
        "RAY_BACKEND_LOG_LEVEL": "fatal",  # what is worth a sentence comes as an exception
    }
    own: dict[str, Any] = {}
    if address is None:
        # Closed to others on this machine, by a key that no file keeps.
        settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        own = {"num_cpus": available_cpus(), "object_store_memory": _LOCAL_STORE_BYTES, "include_dashboard": False}
    else:
        _refuse_deaf(address)
    with _defaults(settings):
        import ray

        try:
            with _silent_stderr():
                ray.init(address=address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **own)
        except Exception as error:  # Ray raises bare exceptions here
            where = f"no Ray cluster can be reached at {address}" if address else "Ray does not start on this machine"
            advice = "; set RAY_AUTH_MODE=token where it asks for a token" if address else ""
            raise BatchError(f"{where} ({_cause(error)}){advice}") from error
        # Ray prints there which tasks it tries again.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            try:
                resources = ray.cluster_resources()
                nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
                yield _Cluster(resources.get("CPU", 0.0), resources.get("GPU", 0.0), max(nodes, default=0.0))
            finally:
                ray.shutdown()


def _refuse_deaf(address: str) -> None:
    """Raises BatchError where nobody listens at HOST:PORT, which Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return  # in words of Ray's own
    try:
        socket.create_connection((host, int(port)), _SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise BatchError(f"no Ray cluster can be reached at {address} ({error}); check that it runs") from error


@contextlib.contextmanager
def _defaults(settings: dict[str, str]) -> Iterator[None]:
    """Sets those variables of the environment that are not set, for as long as the block lasts."""
    added = settings.keys() - os.environ.keys()
    os.environ.update({name: settings[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Sends to nowhere what libraries print, in C++ too: Ray says there which log level it was given."""
    with open(os.devnull, "w") as nowhere:
        try:
            kept = os.dup(2)
        except OSError:  # closed by the caller
            yield
            return
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _scored(job: BatchJob, pending: pa.Table, workers: _Workers, expected_sha256: str) -> Iterator[dict[str, Any]]:
    """The rows of the pending videos, in the order in which they are ready. Raises BatchError where workers fail."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = _MOST_LOST_BLOCKS
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    options = {name: getattr(job.request, name) for name in ("seed", "crops", "frames", "keep_interlaced")}
    engines = os.path.abspath(job.engines)
    playing = {"backend": job.backend, "threads": job.threads, "batch": job.batch, "expected_sha256": expected_sha256}
    rows = rows_a_block(pending.num_rows, job.batch, workers.engines)
    blocks = _blocks(pending, rows)
    # Without a limit, a video that ends its worker would do so for ever; Ray warns that 2.64 will name it otherwise.
    with warnings.catch_warnings(action="ignore"):
        dataset = ray.data.from_arrow(blocks).map_batches(
            DecodeVideos,
            fn_constructor_kwargs={"engines": engines, **options},
            batch_size=rows,
            batch_format="pyarrow",
            concurrency=(1, min(workers.decoders, len(blocks))),
            max_task_retries=_RETRIES,
            **workers.decoder_resources,
        )
        dataset = dataset.map_batches(
            ScoreVideos,
            fn_constructor_kwargs={"engines": engines, **playing},
            batch_size=rows,
            batch_format="pyarrow",
            concurrency=min(workers.engines, len(blocks)),
            max_task_retries=_RETRIES,
            **workers.engine_resources,
        )
    try:
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in table.to_pylist(maps_as_pydicts="strict"):
                own = {"id": row["id"], "source": row["video"], "prompt": row["prompt"], "error": row["error"]}
                yield {**(row["result"] or {}), **own}
    except ray.exceptions.RayError as error:
        raise BatchError(
            f"the workers fail ({_cause(error)}); what is written stays, and a later run goes on"
        ) from error


def rows_a_block(rows: int, batch: int, workers: int) -> int:
    """The number of videos that go through Ray together, of so many: whole batches of the engines."""
    batches = math.ceil(rows / batch)
    cheap = min(batches // (workers * _BLOCKS_A_WORKER), _MOST_BATCHES_A_BLOCK)
    return batch * max(1, cheap, math.ceil(batches / _MOST_BLOCKS))


def _blocks(pending: pa.Table, rows: int) -> list[pa.Table]:
    """The table in pieces of so many rows, each a task of its own."""
    # Each anew: a slice would go to Ray with the whole table behind it.
    return [
        pa.Table.from_pydict(pending.slice(start, rows).to_pydict(), _COLUMNS)
        for start in range(0, pending.num_rows, rows)
    ]


def _cause(error: BaseException) -> str:
    """The last line of what a worker has to say, which names its exception."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
