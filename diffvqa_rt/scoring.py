"""Video in, `VideoScore` out: frames, what the engines take, the chain over them, the result. Runs without torch.

scorer = Scorer.open("build/tiny")
print(scorer.score("clip.mp4").score)
"""

import os
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.chain import StageClock, play
from diffvqa_rt.checks import MAX_COUNT, whole
from diffvqa_rt.decoding import DecodeLimits, EncodedSource, IsolatedDecoder, Pending
from diffvqa_rt.engines import BackendName, open_engines
from diffvqa_rt.engines.manifest import Manifest, engines_sha256
from diffvqa_rt.errors import DeviceUnavailableError, DiffVQAError
from diffvqa_rt.forking import renew_in_children
from diffvqa_rt.metric import Request, ResizedBy
from diffvqa_rt.preparation import PreparedSource, prepare_frames
from diffvqa_rt.results import ModelFacts, ScoringFailure, VideoScore, video_score
from diffvqa_rt.specs import Engine
from diffvqa_rt.video import sample_frames

VideoSource = EncodedSource | NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A source by its name, and what the engines take of it."""

    name: str
    source: PreparedSource


@dataclass(frozen=True, slots=True)
class _Begun:
    """A source, and what has become of it so far."""

    source: VideoSource
    pending: Pending[PreparedSource] | ScoringFailure | None


class Scorer:
    """A network ready to score, on verified engines; any number of threads may use it.

    Videos are decoded in a process beside this one, which ends with the scorer, or where a `with` block ends.
    """

    def __init__(
        self,
        manifest: Manifest,
        engines: Mapping[str, Engine],
        backend: BackendName,
        decoder: IsolatedDecoder | None = None,
    ) -> None:
        self.manifest = manifest
        self._engines = engines
        self._decoder = decoder or IsolatedDecoder()
        self._facts = model_facts(manifest, backend)
        self._is_cut_off = False
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Notes in a forked child that a GPU's context has stayed with the parent."""
        self._is_cut_off = self.manifest.backends[self._facts.backend].device != "cpu"

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        backend: BackendName = "onnx",
        threads: int | None = None,
        limits: DecodeLimits | None = None,
    ) -> "Scorer":
        """A scorer on an engine folder that `export/build_engines.py` wrote.

        Args:
            folder: the engine folder.
            backend: which of the folder's engines to play, `diffvqa_rt.engines.BACKENDS`.
            threads: CPU threads; all that this process may use by default.
            limits: of a video in the decoder's process; `DecodeLimits()` by default.

        Raises:
            EngineMismatchError: the folder, or a file in it, is not what its manifest says.
            DeviceUnavailableError: the engines are for a device that this machine lacks.
        """
        decoder = IsolatedDecoder(limits)
        decoder.warm_up()  # beside the engines, which take longer
        try:
            manifest, engines = open_engines(Path(folder), backend, threads)
        except BaseException:
            decoder.close()  # here and not when it is collected, where Ctrl-C would be a traceback
            raise
        return cls(manifest, engines, backend, decoder)

    def score(
        self,
        source: VideoSource,
        *,
        seed: int = 0,
        crops: int | None = None,
        frames: int | None = None,
        patch_maps: bool = False,
        keep_interlaced: bool = False,
        isolate: bool = True,
    ) -> VideoScore:
        """The score of one video: a path, an encoded video's bytes, or RGB frames uint8 [T, H, W, 3].

        Args:
            source: the video.
            seed: where crops are cut; the same seed gives the same score.
            crops: how many crop positions to score; the result is their mean, with their spread beside it. The
                metric's own number by default: one, of an image metric five of a still.
            frames: how many frames of a video to score, for a metric that takes any number.
            patch_maps: put the scores and weights of every patch into the result, of a metric that has them.
            keep_interlaced: leave interlaced frames combed, as they are stored.
            isolate: decode a path or bytes in a process of its own. The score is the same without it, some
                milliseconds sooner; but a file that crashes a codec's library then ends this process, and nothing
                limits the time and the memory that a file takes.

        Raises:
            VideoDecodeError: no frame of the video can be had.
            DecoderStartError: there is no process to decode in.
            ValueError, TypeError: an array of another shape or dtype, a number out of range, or an option that the
                metric does not have.
        """
        request = self._request(
            seed=seed, crops=crops, frames=frames, patch_maps=patch_maps, keep_interlaced=keep_interlaced
        )
        pending = self._begin(source, request) if isolate else None
        return self._score_batch([self._prepare(source, pending, request)], request)[0]

    def score_many(
        self,
        sources: Iterable[VideoSource],
        *,
        seed: int = 0,
        crops: int | None = None,
        frames: int | None = None,
        patch_maps: bool = False,
        batch: int = 1,
        keep_interlaced: bool = False,
    ) -> Iterator[VideoScore | ScoringFailure]:
        """The scores of many videos in their order, `batch` of them at a time through the engines.

        A video that cannot be scored gives a `ScoringFailure` in its place; the others are not affected, whatever the
        file does to its decoder, since paths and bytes are decoded in another process. That is at the next video while
        the engines are at this one, where `sources` is a sequence. The batch and the order change no bit of any score.

        Raises:
            ValueError, TypeError: `batch`, `sources` itself or an option is not what it should be.
        """
        batch = min(whole("batch", batch, 1), MAX_COUNT)
        request = self._request(
            seed=seed, crops=crops, frames=frames, patch_maps=patch_maps, keep_interlaced=keep_interlaced
        )
        if isinstance(sources, str | bytes | os.PathLike | np.ndarray):
            raise TypeError(f"sources is one {type(sources).__name__}; expected several videos, or use score()")
        # Closed, so that the process does not go on with a video that nobody asks for any more.
        with closing(self._prepare_many(sources, request)) as prepared:
            while group := list(islice(prepared, batch)):
                good = [item for item in group if isinstance(item, _Prepared)]
                scores = iter(self._score_batch(good, request) if good else ())
                for item in group:
                    yield item if isinstance(item, ScoringFailure) else next(scores)

    def close(self) -> None:
        """Ends the decoder's process; another path would start another one."""
        self._decoder.close()

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, **options: Any) -> Request:
        request = Request(**options)
        self.manifest.metric.check(request)
        return request

    def _prepare_many(
        self, sources: Iterable[VideoSource], request: Request
    ) -> Generator["_Prepared | ScoringFailure"]:
        # What makes its items one by one is asked for the next one when that is due: it may wait for something.
        is_ahead = isinstance(sources, Sequence)
        begun = (_Begun(source, self._begin_or_fail(source, request)) for source in sources)
        current = next(begun, None)
        try:
            while current is not None:
                prepared = self._prepare_or_fail(current, request)
                if is_ahead:
                    current = next(begun, None)
                yield prepared
                if not is_ahead:
                    current = next(begun, None)
        finally:
            if current is not None and isinstance(current.pending, Pending):
                current.pending.cancel()

    def _begin_or_fail(self, source: VideoSource, request: Request) -> Pending[PreparedSource] | ScoringFailure | None:
        try:
            return self._begin(source, request)
        except (DiffVQAError, TypeError, ValueError) as error:
            return ScoringFailure(source=source_name(source), error=str(error))

    def _prepare_or_fail(self, begun: "_Begun", request: Request) -> "_Prepared | ScoringFailure":
        if isinstance(begun.pending, ScoringFailure):
            return begun.pending
        try:
            return self._prepare(begun.source, begun.pending, request)
        except (DiffVQAError, TypeError, ValueError) as error:
            return ScoringFailure(source=source_name(begun.source), error=str(error))

    def _begin(self, source: VideoSource, request: Request) -> Pending[PreparedSource] | None:
        """The video on its way to another process; None for what is not to be decoded there."""
        if not isinstance(source, str | os.PathLike | bytes):
            return None
        return self._decoder.begin(source, self.manifest.metric, self.manifest.config, request)

    def _prepare(self, source: VideoSource, pending: Pending[PreparedSource] | None, request: Request) -> "_Prepared":
        if pending is not None:
            return _Prepared(source_name(source), pending.result())
        metric, config = self.manifest.metric, self.manifest.config
        start = time.perf_counter()
        sampled = sample_frames(
            source,
            metric.frame_count(config, request),
            animation_count=metric.animation_frame_count(config, request),
            keep_interlaced=request.keep_interlaced,
        )
        decode_seconds = time.perf_counter() - start
        return _Prepared(source_name(source), prepare_frames(sampled, metric, config, request, decode_seconds))

    def _score_batch(self, videos: list["_Prepared"], request: Request) -> list[VideoScore]:
        if self._is_cut_off:
            raise DeviceUnavailableError(
                f"these {self._facts.backend} engines are on a GPU, which a forked child cannot use; "
                "open the scorer in the child, or start that by spawn"
            )
        metric, config = self.manifest.metric, self.manifest.config
        clock = StageClock()
        sources = [video.source for video in videos]
        arrays = {name: np.concatenate([source.arrays[name] for source in sources]) for name in sources[0].arrays}
        outputs = play(metric.chains(config)[metric.choose(request)], self._engines, arrays, clock=clock)
        scores, row, all_rows = [], 0, sum(source.rows for source in sources)
        for video in videos:
            source = video.source
            rows = slice(row, row := row + source.rows)
            own = {name: values[rows] for name, values in outputs.items()}
            results = metric.finish(config, own, len(source.timestamps_seconds))
            if not request.patch_maps:
                results = {name: values for name, values in results.items() if not name.startswith("patch_")}
            # The engines ran for all at once: a video's share is that of its rows.
            share = {stage: seconds * source.rows / all_rows for stage, seconds in clock.seconds.items()}
            seconds = {"decode": source.decode_seconds, "views": source.views_seconds, **share}
            scores.append(
                video_score(
                    results,
                    source=video.name,
                    seed=request.seed,
                    timestamps_seconds=source.timestamps_seconds,
                    info=source.info,
                    stage_seconds=seconds,
                    facts=self._facts,
                    crop_regions=source.crop_regions,
                    warnings=source.warnings,
                )
            )
        return scores


def model_facts(manifest: Manifest, backend: BackendName, views_by: ResizedBy = "pillow") -> ModelFacts:
    """The facts that every result of these engines states of them."""
    record = manifest.backends[backend]
    return ModelFacts(
        model=manifest.model_label,
        is_trained=manifest.weights.is_trained,
        weights_sha256=manifest.weights.sha256,
        engines_sha256=engines_sha256(record.files),
        precision=record.precision,
        backend=backend,
        views_by=views_by,
        score_range=manifest.config.score_range,
        metric=manifest.metric_name,
        is_temporal=manifest.metric.is_temporal,
        parts=manifest.metric.part_names(manifest.config),
    )


def source_name(source: object) -> str:
    """The text that results and messages call a source, whatever it is."""
    if isinstance(source, bytes):
        return "<bytes>"
    if isinstance(source, np.ndarray):
        return "<array>"
    try:
        return str(os.fsdecode(source))  # type: ignore[arg-type]
    except Exception:  # no path, or one whose own code fails
        return f"<{type(source).__name__}>"
