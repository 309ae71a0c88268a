"""Video in, `VideoScore` out: frames, what the engines take, the chain over them, the result. Runs without torch.

scorer = Scorer.open()
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

from diffvqa_rt.chain import Chain, StageClock, given_names, play, rows_of, split_chain
from diffvqa_rt.checks import MAX_COUNT, whole
from diffvqa_rt.decoding import DecodeLimits, IsolatedDecoder, Pending
from diffvqa_rt.engines import BackendName, open_engines, settled_threads
from diffvqa_rt.engines.bundled import BUNDLED_ENGINES
from diffvqa_rt.engines.manifest import Manifest, engines_sha256
from diffvqa_rt.errors import DeviceUnavailableError, DiffVQAError, InputError
from diffvqa_rt.forking import renew_in_children
from diffvqa_rt.metric import PreparedPrompt, ReadPrompt, Request, ResizedBy
from diffvqa_rt.preparation import PreparedSource, prepare_frames
from diffvqa_rt.results import ModelFacts, ScoringFailure, VideoScore, video_score
from diffvqa_rt.sources import Prompts, VideoSource, pairs_of, several, source_name
from diffvqa_rt.specs import Arrays, Engine
from diffvqa_rt.video import sample_frames


@dataclass(frozen=True, slots=True)
class _Asked:
    """A source, and the requests that it is scored by: one a prompt, alike in all else."""

    source: VideoSource
    requests: tuple[Request, ...]

    @property
    def request(self) -> Request:
        """The request as far as it is of the source."""
        return self.requests[0]


@dataclass(frozen=True, slots=True)
class PreparedVideo:
    """A video that was decoded elsewhere: its name, what the engines take of it, and the request that it is for."""

    name: str
    source: PreparedSource
    request: Request


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A source by its name, what the engines take of it, and its prompts; without one, None."""

    name: str
    source: PreparedSource
    request: Request
    prompts: tuple[PreparedPrompt | None, ...]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A source, and what has become of it so far."""

    asked: _Asked
    pending: Pending[PreparedSource] | None


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
        read_prompt: ReadPrompt | None = None,
    ) -> None:
        self.manifest = manifest
        self._engines = engines
        self._decoder = decoder or IsolatedDecoder()
        self._read_prompt = read_prompt
        self._facts = model_facts(manifest, backend)
        self._is_cut_off = False
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Notes in a forked child that a GPU's context has stayed with the parent."""
        self._is_cut_off = self.manifest.backends[self._facts.backend].device != "cpu"

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str] = BUNDLED_ENGINES,
        *,
        backend: BackendName = "onnx",
        threads: int | None = None,
        limits: DecodeLimits | None = None,
    ) -> "Scorer":
        """A scorer on an engine folder: the package's own, or one that `export/build_engines.py` wrote.

        Args:
            folder: the engine folder.
            backend: which of the folder's engines to play, `diffvqa_rt.engines.BACKENDS`.
            threads: CPU threads; all that this process may use by default.
            limits: of a video in the decoder's process; `DecodeLimits()` by default.

        Raises:
            EngineMismatchError: the folder, or a file in it, is not what its manifest says.
            DeviceUnavailableError: the engines are for a device that this machine lacks.
        """
        threads = settled_threads(threads)
        decoder = IsolatedDecoder(limits, threads=threads)
        decoder.warm_up()  # beside the engines, which take longer
        try:
            manifest, engines = open_engines(Path(folder), backend, threads)
            read_prompt = open_prompt_reading(manifest, Path(folder))
        except BaseException:
            decoder.close()  # here and not when it is collected, where Ctrl-C would be a traceback
            raise
        return cls(manifest, engines, backend, decoder, read_prompt)

    def score(
        self,
        source: VideoSource,
        *,
        prompt: str | None = None,
        seed: int = 0,
        crops: int | None = None,
        frames: int | None = None,
        patch_maps: bool = False,
        keep_interlaced: bool = False,
        isolate: bool = True,
    ) -> VideoScore:
        """The score of one video: a path, an encoded video's bytes, or RGB frames uint8 [T, H, W, 3].

        Args:
            source: the video. The path of a folder stands for the numbered pictures in it.
            prompt: the text that the video was made from, of a metric that takes one; without it such a metric scores
                the video alone, which is another scale.
            seed: where crops are cut; the same seed gives the same score. It moves no crop of a network that places
                them by texture.
            crops: how many crop positions to score; the result is their mean, with their spread beside it. The
                network's own number by default.
            frames: how many frames of a video to score, for a metric that takes any number.
            patch_maps: put the scores and weights of every patch into the result, of a metric that has them.
            keep_interlaced: leave interlaced frames combed, as they are stored.
            isolate: decode a path or bytes in a process of its own. The score is the same without it, some
                milliseconds sooner; but a file that crashes a codec's library then ends this process, and nothing
                limits the time and the memory that a file takes.

        Raises:
            VideoDecodeError: no frame of the video can be had.
            DecoderStartError: there is no process to decode in.
            ValueError, TypeError: an array of another shape or dtype, a number out of range, a blank prompt, or an
                option that the metric does not have.
        """
        options = {"seed": seed, "crops": crops, "frames": frames, "patch_maps": patch_maps}
        asked = self._asked(source, prompt, {**options, "keep_interlaced": keep_interlaced})
        pending = self._begin(asked) if isolate else None
        return self._score_batch([self._prepare(asked, pending)])[0][0]

    def score_many(
        self,
        sources: Iterable[VideoSource],
        *,
        prompts: Iterable[Prompts] | None = None,
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

        Args:
            prompts: for each source its prompt, or None, or several. A result for each of several prompts follows, and
                the video is decoded and seen once for all of them.

        Raises:
            ValueError, TypeError: `batch`, `sources` itself, a prompt or an option is not what it should be.
        """
        batch = min(whole("batch", batch, 1), MAX_COUNT)
        options: dict[str, Any] = {"seed": seed, "crops": crops, "frames": frames, "patch_maps": patch_maps}
        options |= {"keep_interlaced": keep_interlaced}
        self.manifest.metric.check(Request(**options))
        pairs = pairs_of(sources, prompts)
        # What makes its items one by one is asked for the next one when that is due: it may wait for something.
        is_ahead = isinstance(sources, Sequence)
        # Closed, so that the process does not go on with a video that nobody asks for any more.
        with closing(self._prepare_many(pairs, options, is_ahead=is_ahead)) as prepared:
            while group := list(islice(prepared, batch)):
                good = [item for item in group if isinstance(item, _Prepared)]
                scores = iter(self._score_batch(good) if good else ())
                for item in group:
                    yield from item if isinstance(item, list) else next(scores)

    def score_prepared(self, videos: Sequence[PreparedVideo]) -> list[VideoScore | ScoringFailure]:
        """The scores of videos that are decoded already, all of which go through the engines together."""
        ready = [self._read_or_fail(video) for video in videos]
        good = [item for item in ready if isinstance(item, _Prepared)]
        scores = iter(self._score_batch(good) if good else ())
        return [item if isinstance(item, ScoringFailure) else next(scores)[0] for item in ready]

    def close(self) -> None:
        """Ends the decoder's process; another path would start another one."""
        self._decoder.close()

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _asked(self, source: VideoSource, prompts: Prompts, options: Mapping[str, Any]) -> _Asked:
        """A source with its requests. Raises InputError where one is not for this metric."""
        requests = tuple(Request(**options, prompt=prompt) for prompt in several(prompts))
        for request in requests:
            self.manifest.metric.check(request)
        return _Asked(source, requests)

    def _prepare_many(
        self, pairs: Iterable[tuple[VideoSource, Prompts]], options: Mapping[str, Any], *, is_ahead: bool
    ) -> Generator["_Prepared | list[ScoringFailure]"]:
        begun = (self._begin_or_fail(source, prompts, options) for source, prompts in pairs)
        current = next(begun, None)
        try:
            while current is not None:
                prepared = self._prepare_or_fail(current)
                if is_ahead:
                    current = next(begun, None)
                yield prepared
                if not is_ahead:
                    current = next(begun, None)
        finally:
            if isinstance(current, _Begun) and current.pending is not None:
                current.pending.cancel()

    def _begin_or_fail(
        self, source: VideoSource, prompts: Prompts, options: Mapping[str, Any]
    ) -> "_Begun | list[ScoringFailure]":
        try:
            asked = self._asked(source, prompts, options)
            return _Begun(asked, self._begin(asked))
        except (DiffVQAError, TypeError, ValueError) as error:
            return _failures(source, several(prompts), error)

    def _prepare_or_fail(self, begun: "_Begun | list[ScoringFailure]") -> "_Prepared | list[ScoringFailure]":
        if isinstance(begun, list):
            return begun
        try:
            return self._prepare(begun.asked, begun.pending)
        except (DiffVQAError, TypeError, ValueError) as error:
            return _failures(begun.asked.source, begun.asked.requests, error)

    def _begin(self, asked: _Asked) -> Pending[PreparedSource] | None:
        """The video on its way to another process; None for what is not to be decoded there."""
        if not isinstance(asked.source, str | os.PathLike | bytes):
            return None
        return self._decoder.begin(asked.source, self.manifest.metric, self.manifest.config, asked.request)

    def _prepare(self, asked: _Asked, pending: Pending[PreparedSource] | None) -> "_Prepared":
        source = self._decoded_here(asked) if pending is None else pending.result()
        prompts = tuple(self._read(request.prompt) for request in asked.requests)
        return _Prepared(source_name(asked.source), source, asked.request, prompts)

    def _read_or_fail(self, video: PreparedVideo) -> "_Prepared | ScoringFailure":
        try:
            return _Prepared(video.name, video.source, video.request, (self._read(video.request.prompt),))
        except InputError as error:
            return ScoringFailure(source=video.name, error=str(error))

    def _read(self, prompt: str | None) -> PreparedPrompt | None:
        if prompt is None:
            return None
        assert self._read_prompt is not None, "the metric takes prompts, and nothing reads them"
        return self._read_prompt(prompt)

    def _decoded_here(self, asked: _Asked) -> PreparedSource:
        metric, config, request = self.manifest.metric, self.manifest.config, asked.request
        start = time.perf_counter()
        sampled = sample_frames(
            asked.source,
            metric.frame_count(config, request),
            animation_count=metric.animation_frame_count(config, request),
            keep_interlaced=request.keep_interlaced,
        )
        decode_seconds = time.perf_counter() - start
        return prepare_frames(sampled, metric, config, request, decode_seconds)

    def _score_batch(self, videos: list["_Prepared"]) -> list[list[VideoScore]]:
        """The scores of each video, one a prompt; those that take the same chain go through the engines together."""
        if self._is_cut_off:
            raise DeviceUnavailableError(
                f"these {self._facts.backend} engines are on a GPU, which a forked child cannot use; "
                "open the scorer in the child, or start that by spawn"
            )
        metric = self.manifest.metric
        scores: dict[int, list[VideoScore]] = {}
        chains = [metric.choose(video.request) for video in videos]
        for chain in dict.fromkeys(chains):
            numbers = [number for number, name in enumerate(chains) if name == chain]
            scores |= zip(numbers, self._play(chain, [videos[number] for number in numbers]), strict=True)
        return [scores[number] for number in range(len(videos))]

    def _play(self, name: str, videos: list["_Prepared"]) -> list[list[VideoScore]]:
        metric, config = self.manifest.metric, self.manifest.config
        clock = StageClock()
        prompt_inputs = [spec.name for spec in metric.prompts.inputs(config)] if metric.prompts else []
        seeing, asking = split_chain(metric.chains(config)[name], prompt_inputs)
        arrays = [video.source.arrays for video in videos]
        seen = self._play_together(seeing, arrays, clock)
        # A prompt is a row of its own, with what was seen of its video beside it.
        needed = given_names(asking)
        rows = [
            {**{key: values for key, values in own.items() if key in needed}, **(prompt.arrays if prompt else {})}
            for own, video in zip(seen, videos, strict=True)
            for prompt in video.prompts
        ]
        asked = iter(self._play_together(asking, rows, clock) if asking else [{} for _ in rows])
        scores, all_rows = [], sum(video.source.rows for video in videos)
        for video, own in zip(videos, seen, strict=True):
            # The engines ran for all at once: a video's share is that of its rows, and a prompt's that of its video.
            part = video.source.rows / all_rows / len(video.prompts)
            share = {stage: clock.seconds[stage] * part for stage in clock.seconds}
            scores.append([self._score(video, prompt, own | next(asked), share) for prompt in video.prompts])
        return scores

    def _play_together(self, chain: Chain, sources: Sequence[Arrays], clock: StageClock) -> list[dict[str, NDArray]]:
        """The outputs of each source, all of which pass a chain together."""
        names = given_names(chain)
        outputs = play(
            chain,
            self._engines,
            {name: np.concatenate([source[name] for source in sources]) for name in names},
            clock=clock,
        )
        first: dict[str, int] = dict.fromkeys(outputs, 0)
        own = []
        for source in sources:
            rows = rows_of(chain, {name: len(source[name]) for name in names})
            own.append({name: values[first[name] : first[name] + rows[name]] for name, values in outputs.items()})
            first = {name: first[name] + rows[name] for name in outputs}
        return own

    def _score(
        self, video: "_Prepared", prompt: PreparedPrompt | None, outputs: Arrays, stage_seconds: Mapping[str, float]
    ) -> VideoScore:
        source, request = video.source, video.request
        results = self.manifest.metric.finish(self.manifest.config, outputs, len(source.timestamps_seconds))
        if not request.patch_maps:
            results = {name: values for name, values in results.items() if not name.startswith("patch_")}
        prompts = len(video.prompts)
        return video_score(
            results,
            source=video.name,
            seed=request.seed,
            timestamps_seconds=source.timestamps_seconds,
            info=source.info,
            stage_seconds={
                "decode": source.decode_seconds / prompts,
                "views": source.views_seconds / prompts,
                **stage_seconds,
            },
            facts=self._facts,
            crop_regions=source.crop_regions,
            warnings=source.warnings + (prompt.warnings if prompt else ()),
            prompt=prompt.facts if prompt else None,
        )


def _failures(source: VideoSource, requests: Sequence[object], error: Exception) -> list[ScoringFailure]:
    """A failure for each request."""
    return [ScoringFailure(source=source_name(source), error=str(error)) for _ in requests]


def open_prompt_reading(manifest: Manifest, folder: Path) -> ReadPrompt | None:
    """The function that reads prompts for an engine folder's network; None where its metric takes none.

    Raises EngineMismatchError where a file that it takes is not as it was built.
    """
    prompts = manifest.metric.prompts
    return prompts.open(manifest.config, folder) if prompts else None


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
        takes_prompt=manifest.metric.prompts is not None,
    )
