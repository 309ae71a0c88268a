"""The two stages of a pipeline on tables: videos to what the engines take, and that to scores.

Ray is not imported. Both are classes that Ray Data opens once a worker and calls with one table after another
(`batch_format="pyarrow"`).
"""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from diffvqa_rt.batch.objects import decodable
from diffvqa_rt.batch.schema import result_type
from diffvqa_rt.checks import whole
from diffvqa_rt.decoding import DecodeLimits, IsolatedDecoder
from diffvqa_rt.engines import BackendName, Manifest
from diffvqa_rt.engines.manifest import engines_sha256
from diffvqa_rt.errors import DiffVQAError, EngineMismatchError
from diffvqa_rt.metric import Request
from diffvqa_rt.results import ScoringFailure, VideoScore
from diffvqa_rt.scoring import PreparedVideo, Scorer

_PREPARED, _ERROR, _RESULT, _SCORE = "prepared", "error", "result", "score"


class DecodeVideos:
    """Adds to a table, for each video, what the engines take of it (`prepared`), or why it cannot be had (`error`).

    The column `video` has paths, URLs, or encoded videos' bytes; `prompt`, text or null, may stand beside it.
    """

    def __init__(
        self,
        engines: str | os.PathLike[str],
        *,
        seed: int = 0,
        crops: int | None = None,
        frames: int | None = None,
        keep_interlaced: bool = False,
        limits: DecodeLimits | None = None,
    ) -> None:
        """Reads the engine folder's manifest, and opens no engine.

        Args:
            engines: the engine folder.
            seed, crops, frames, keep_interlaced: as of `Scorer.score`.
            limits: of a video in the decoder's process; `DecodeLimits()` by default.

        Raises:
            EngineMismatchError: the folder is not one.
            InputError: the metric does not take such a request.
        """
        self._manifest = Manifest.read(Path(engines))
        self._options: dict[str, Any] = {"seed": seed, "crops": crops, "frames": frames}
        self._options |= {"keep_interlaced": keep_interlaced}
        self._manifest.metric.check(Request(**self._options))
        self._decoder = IsolatedDecoder(limits)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with the two columns more."""
        prompts = table["prompt"].to_pylist() if "prompt" in table.column_names else [None] * len(table)
        prepared: list[bytes | None] = []
        errors: list[str | None] = []
        for video, prompt in zip(table["video"].to_pylist(), prompts, strict=True):
            try:
                # Rows of our own worker for our own worker: they cross no other border than Ray's.
                prepared.append(pickle.dumps(self._prepare(video, prompt), protocol=5))
                errors.append(None)
            except (DiffVQAError, TypeError, ValueError) as error:
                prepared.append(None)
                errors.append(str(error))
        table = table.append_column(_PREPARED, pa.array(prepared, pa.large_binary()))
        return table.append_column(_ERROR, pa.array(errors, pa.string()))

    def _prepare(self, video: str | bytes, prompt: str | None) -> PreparedVideo:
        if not isinstance(video, str | bytes):
            raise TypeError(f"video is a {type(video).__name__}; expected a path, a URL or an encoded video's bytes")
        metric, config = self._manifest.metric, self._manifest.config
        request = Request(**self._options, prompt=prompt)
        metric.check(request)
        if isinstance(video, bytes):
            return PreparedVideo("<bytes>", self._decoder.prepare(video, metric, config, request), request)
        with decodable(video) as source:
            return PreparedVideo(video, self._decoder.prepare(source, metric, config, request), request)


class ScoreVideos:
    """Puts `score` and `result`, all of a `VideoScore`, in the place of `prepared`; null where there is an `error`."""

    def __init__(
        self,
        engines: str | os.PathLike[str],
        *,
        backend: BackendName = "onnx",
        threads: int | None = 1,
        batch: int = 1,
        expected_sha256: str | None = None,
    ) -> None:
        """Opens the engines.

        Args:
            engines: the engine folder.
            backend: which of the folder's engines to play.
            threads: CPU threads; None for all that this process may use. No bit of a score depends on it.
            batch: how many videos go through the engines together.
            expected_sha256: the hash of the engines that these must be.

        Raises:
            EngineMismatchError: the folder is not what its manifest says, or has other engines than those expected.
            DeviceUnavailableError: the engines are for a device that this machine lacks.
        """
        self._scorer = Scorer.open(engines, backend=backend, threads=threads)
        self._batch = whole("batch", batch, 1)
        found = engines_sha256(self._scorer.manifest.backends[backend].files)
        if expected_sha256 not in (None, found):
            raise EngineMismatchError(
                f"{engines} on {os.uname().nodename} has other engines than the run ({found[:12]}, not "
                f"{str(expected_sha256)[:12]}); copy the same folder to every node"
            )

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with the scores of its videos."""
        given, errors = table[_PREPARED], table[_ERROR].to_pylist()
        results = dict[int, VideoScore | ScoringFailure]()
        good = [number for number, error in enumerate(errors) if error is None]
        for group in _pieces(good, self._batch):
            videos = [pickle.loads(given[number].as_py()) for number in group]
            results |= zip(group, self._scorer.score_prepared(videos), strict=True)
        scores = {number: result for number, result in results.items() if isinstance(result, VideoScore)}
        failures = {number: result.error for number, result in results.items() if isinstance(result, ScoringFailure)}
        rows = range(len(table))
        table = table.drop_columns([_PREPARED, _ERROR])
        table = table.append_column(_SCORE, pa.array([_score(scores.get(row)) for row in rows], pa.float64()))
        table = table.append_column(
            _RESULT, pa.array([scores[row].as_dict() if row in scores else None for row in rows], result_type())
        )
        return table.append_column(_ERROR, pa.array([failures.get(row, errors[row]) for row in rows], pa.string()))


def _score(result: VideoScore | None) -> float | None:
    return None if result is None else result.score


def _pieces(numbers: list[int], size: int) -> Iterator[list[int]]:
    return (numbers[start : start + size] for start in range(0, len(numbers), size))
