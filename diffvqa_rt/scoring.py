"""Video in, `VideoScore` out: the views, the K-step loop over the engines, the result. Runs without torch.

scorer = Scorer.open("build/tiny")
print(scorer.score("clip.mp4").score)
"""

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.checks import MAX_COUNT, flag, whole
from diffvqa_rt.decoding import DecodedVideo, DecodeLimits, EncodedSource, IsolatedDecoder, Pending
from diffvqa_rt.engines import BackendName, DenoisingEngine, Engine, open_engines
from diffvqa_rt.engines.manifest import Manifest, engines_sha256
from diffvqa_rt.errors import DeviceUnavailableError, DiffVQAError, ScoreWarning
from diffvqa_rt.forking import renew_in_children
from diffvqa_rt.metrics.diffvqa.engines import FEATURES
from diffvqa_rt.metrics.diffvqa.views import make_views, normalize_views
from diffvqa_rt.results import ModelFacts, ScoringFailure, VideoScore, video_score
from diffvqa_rt.specs import Array
from diffvqa_rt.video import VideoInfo, sample_frames
from diffvqa_rt.video.crops import ViewCutter, check_crops, check_seed, scaling_warnings

VideoSource = EncodedSource | NDArray[np.uint8]


class StageClock:
    """Seconds spent in each stage, by the stage's name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def denoise(
    unet_controller: Engine, z0: Array, steps: int, before_step: Callable[[], None] = lambda: None
) -> Mapping[str, Array]:
    """All K steps towards z0 [V, 2N, C, h, w]. Returns the last step's outputs: `z_next` (ẑ0) and the features.

    `before_step` may end it by an exception; an engine that plays all steps by itself calls it once.
    """
    if isinstance(unet_controller, DenoisingEngine):
        before_step()
        return unet_controller.denoise(z0, steps)
    # Step 0 makes its own z_T from z0 and the noise table, and does not read z.
    z: Array = np.zeros(z0.shape, z0.dtype)
    for step in range(steps - 1):
        before_step()
        z = unet_controller({"z": z, "z0": z0, "step": np.array([step])}, ["z_next"])["z_next"]
    before_step()
    return unet_controller({"z": z, "z0": z0, "step": np.array([steps - 1])})


def play(
    engines: Mapping[str, Engine], frames: NDArray[np.float32], steps: int, clock: StageClock | None = None
) -> dict[str, NDArray[np.float32]]:
    """The whole chain of engines on views [V, 2N, 3, S, S]: score [V], frame_scores and frame_weights [V, N].

    As many videos at a time as the engines take.
    """
    clock = clock or StageClock()
    limits = [engine.max_videos for engine in engines.values() if engine.max_videos is not None]
    size = min([len(frames), *limits])
    parts = [_play_together(engines, frames[i : i + size], steps, clock) for i in range(0, len(frames), size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _play_together(
    engines: Mapping[str, Engine], frames: NDArray[np.float32], steps: int, clock: StageClock
) -> dict[str, NDArray[np.float32]]:
    with clock.measure("vae_encoder"):
        z0 = engines["vae_encoder"]({"frames": frames})["z0"]
    with clock.measure("denoise"):
        last = denoise(engines["unet_controller"], z0, steps)
    with clock.measure("head"):
        features = {name: last[name] for name in FEATURES}
        outputs = engines["head"]({"z0_hat": last["z_next"], **features, "frames": frames})
        return {name: np.asarray(values) for name, values in outputs.items()}


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A video that has become the network's input; its full-size frames are gone."""

    source: str
    timestamps_seconds: tuple[float, ...]
    info: VideoInfo
    warnings: tuple[ScoreWarning, ...]
    views: NDArray[np.float32]
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A source, and what has become of it so far."""

    source: VideoSource
    pending: Pending[DecodedVideo] | ScoringFailure | None


@dataclass(frozen=True, slots=True)
class _Options:
    """How each video is to be scored."""

    seed: int
    crops: int
    keep_interlaced: bool

    @classmethod
    def checked(cls, seed: int, crops: int, keep_interlaced: bool) -> "_Options":
        """Raises ValueError where a number is out of range."""
        return cls(check_seed(seed), check_crops(crops), flag("keep_interlaced", keep_interlaced))


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
        manifest, engines = open_engines(Path(folder), backend, threads)
        return cls(manifest, engines, backend, decoder)

    def score(
        self,
        source: VideoSource,
        *,
        seed: int = 0,
        crops: int = 1,
        keep_interlaced: bool = False,
        isolate: bool = True,
    ) -> VideoScore:
        """The score of one video: a path, an encoded video's bytes, or RGB frames uint8 [T, H, W, 3].

        Args:
            source: the video.
            seed: where the distortion view is cropped; the same seed gives the same score.
            crops: how many crop positions to score; the result is their mean, with their spread beside it.
            keep_interlaced: leave interlaced frames combed, as they are stored.
            isolate: decode a path or bytes in a process of its own. The score is the same without it, some
                milliseconds sooner; but a file that crashes a codec's library then ends this process, and nothing
                limits the time and the memory that a file takes.

        Raises:
            VideoDecodeError: no frame of the video can be had.
            DecoderStartError: there is no process to decode in.
            ValueError, TypeError: an array of another shape or dtype, or a number out of range.
        """
        options = _Options.checked(seed, crops, keep_interlaced)
        pending = self._begin(source, options) if isolate else None
        return self._score_batch([self._prepare(source, pending, options)], options)[0]

    def score_many(
        self,
        sources: Iterable[VideoSource],
        *,
        seed: int = 0,
        crops: int = 1,
        batch: int = 1,
        keep_interlaced: bool = False,
    ) -> Iterator[VideoScore | ScoringFailure]:
        """The scores of many videos in their order, `batch` of them at a time through the engines.

        A video that cannot be scored gives a `ScoringFailure` in its place; the others are not affected, whatever the
        file does to its decoder, since paths and bytes are decoded in another process. That is at the next video while
        the engines are at this one, where `sources` is a sequence. The batch and the order change no bit of any score.

        Raises:
            ValueError, TypeError: `batch`, `crops`, `seed` or `sources` itself is not what it should be.
        """
        batch = min(whole("batch", batch, 1), MAX_COUNT)
        options = _Options.checked(seed, crops, keep_interlaced)
        if isinstance(sources, str | bytes | os.PathLike | np.ndarray):
            raise TypeError(f"sources is one {type(sources).__name__}; expected several videos, or use score()")
        # Closed, so that the process does not go on with a video that nobody asks for any more.
        with closing(self._prepare_many(sources, options)) as prepared:
            while group := list(islice(prepared, batch)):
                good = [item for item in group if isinstance(item, _Prepared)]
                scores = iter(self._score_batch(good, options) if good else ())
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

    def _prepare_many(
        self, sources: Iterable[VideoSource], options: "_Options"
    ) -> Generator["_Prepared | ScoringFailure"]:
        # What makes its items one by one is asked for the next one when that is due: it may wait for something.
        is_ahead = isinstance(sources, Sequence)
        begun = (_Begun(source, self._begin_or_fail(source, options)) for source in sources)
        current = next(begun, None)
        try:
            while current is not None:
                prepared = self._prepare_or_fail(current, options)
                if is_ahead:
                    current = next(begun, None)
                yield prepared
                if not is_ahead:
                    current = next(begun, None)
        finally:
            if current is not None and isinstance(current.pending, Pending):
                current.pending.cancel()

    def _begin_or_fail(self, source: VideoSource, options: "_Options") -> Pending[DecodedVideo] | ScoringFailure | None:
        try:
            return self._begin(source, options)
        except (DiffVQAError, TypeError, ValueError) as error:
            return ScoringFailure(source=source_name(source), error=str(error))

    def _prepare_or_fail(self, begun: "_Begun", options: "_Options") -> "_Prepared | ScoringFailure":
        if isinstance(begun.pending, ScoringFailure):
            return begun.pending
        try:
            return self._prepare(begun.source, begun.pending, options)
        except (DiffVQAError, TypeError, ValueError) as error:
            return ScoringFailure(source=source_name(begun.source), error=str(error))

    def _begin(self, source: VideoSource, options: "_Options") -> Pending[DecodedVideo] | None:
        """The video on its way to another process; None for what is not to be decoded there."""
        if not isinstance(source, str | os.PathLike | bytes):
            return None
        config = self.manifest.config
        return self._decoder.begin_views(
            source,
            config.frames,
            config.view_size,
            seed=options.seed,
            crops=options.crops,
            keep_interlaced=options.keep_interlaced,
        )

    def _prepare(self, source: VideoSource, pending: Pending[DecodedVideo] | None, options: "_Options") -> "_Prepared":
        if pending is not None:
            decoded = pending.result()
            start = time.perf_counter()
            views = normalize_views(decoded.views)
            seconds = {
                "decode": decoded.decode_seconds,
                "views": decoded.views_seconds + time.perf_counter() - start,
            }
            return _Prepared(
                source_name(source), decoded.timestamps_seconds, decoded.info, decoded.warnings, views, seconds
            )
        clock = StageClock()
        config = self.manifest.config
        with clock.measure("decode"):
            sampled = sample_frames(source, config.frames, keep_interlaced=options.keep_interlaced)
        with clock.measure("views"):
            views = make_views(sampled.frames, config.view_size, options.seed, options.crops)
        warnings = sampled.warnings + scaling_warnings(sampled.info.width, sampled.info.height, config.view_size)
        return _Prepared(source_name(source), sampled.timestamps_seconds, sampled.info, warnings, views, clock.seconds)

    def _score_batch(self, videos: list["_Prepared"], options: "_Options") -> list[VideoScore]:
        if self._is_cut_off:
            raise DeviceUnavailableError(
                f"these {self._facts.backend} engines are on a GPU, which a forked child cannot use; "
                "open the scorer in the child, or start that by spawn"
            )
        config = self.manifest.config
        clock = StageClock()
        views = np.concatenate([video.views for video in videos])
        outputs = play(self._engines, views, config.sampler.steps, clock)
        # The engines ran for all at once: a video's share is that of its rows.
        share = {stage: seconds / len(videos) for stage, seconds in clock.seconds.items()}
        scores, row = [], 0
        for video in videos:
            rows = slice(row, row := row + len(video.views))
            scores.append(
                video_score(
                    {name: values[rows] for name, values in outputs.items()},
                    source=video.source,
                    seed=options.seed,
                    timestamps_seconds=video.timestamps_seconds,
                    info=video.info,
                    stage_seconds={**video.seconds, **share},
                    facts=self._facts,
                    warnings=video.warnings,
                )
            )
        return scores


def model_facts(manifest: Manifest, backend: BackendName, views_by: ViewCutter = "pillow") -> ModelFacts:
    """What every result of these engines says of them."""
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
