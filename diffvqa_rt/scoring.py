"""Video in, `VideoScore` out: the views, the K-step loop over the engines, the result. Runs without torch.

scorer = Scorer.open("build/tiny")
print(scorer.score("clip.mp4").score)
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.engines import BackendName, DenoisingEngine, Engine, open_engines
from diffvqa_rt.engines.manifest import Manifest
from diffvqa_rt.errors import DiffVQAError, ScoreWarning
from diffvqa_rt.results import ModelFacts, ScoringFailure, VideoScore, video_score
from diffvqa_rt.specs import FEATURES, Array
from diffvqa_rt.video import SampledFrames, VideoInfo, make_views, sample_frames
from diffvqa_rt.video.views import ViewCutter

VideoSource = str | os.PathLike[str] | bytes | NDArray[np.uint8]


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


class Scorer:
    """A network ready to score, on verified engines."""

    def __init__(self, manifest: Manifest, engines: Mapping[str, Engine], backend: BackendName) -> None:
        self.manifest = manifest
        self._engines = engines
        self._facts = model_facts(manifest, backend)

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str], *, backend: BackendName = "onnx", threads: int | None = None
    ) -> "Scorer":
        """A scorer on an engine folder that `export/build_engines.py` wrote.

        Args:
            folder: the engine folder.
            backend: which of the folder's engines to play, `diffvqa_rt.engines.BACKENDS`.
            threads: CPU threads; all that this process may use by default.

        Raises:
            EngineMismatchError: the folder, or a file in it, is not what its manifest says.
            DeviceUnavailableError: the engines are for a device that this machine lacks.
        """
        manifest, engines = open_engines(Path(folder), backend, threads)
        return cls(manifest, engines, backend)

    def score(self, source: VideoSource, *, seed: int = 0, crops: int = 1) -> VideoScore:
        """The score of one video: a path, an encoded video's bytes, or RGB frames uint8 [T, H, W, 3].

        Args:
            source: the video.
            seed: where the distortion view is cropped; the same seed gives the same score.
            crops: how many crop positions to score; the result is their mean, with their spread beside it.

        Raises:
            VideoDecodeError: no frame of the video can be had.
            ValueError, TypeError: an array of another shape or dtype.
        """
        return self._score_batch([self._prepare(source, *self._sample(source), seed, crops)], seed)[0]

    def score_many(
        self, sources: Iterable[VideoSource], *, seed: int = 0, crops: int = 1, batch: int = 1
    ) -> Iterator[VideoScore | ScoringFailure]:
        """The scores of many videos in their order, `batch` of them at a time through the engines.

        A video that cannot be scored gives a `ScoringFailure` in its place; the others are not affected. The batch and
        the order change no bit of any score.

        Raises:
            ValueError, TypeError: `batch`, `crops`, `seed` or `sources` itself is not what it should be.
        """
        if batch < 1:
            raise ValueError(f"batch is {batch}; expected at least 1")
        if isinstance(sources, str | bytes | os.PathLike | np.ndarray):
            raise TypeError(f"sources is one {type(sources).__name__}; expected several videos, or use score()")
        remaining = iter(sources)
        while group := list(islice(remaining, batch)):
            prepared: list[_Prepared | ScoringFailure] = []
            for source in group:
                try:
                    sampled, seconds = self._sample(source)
                except (DiffVQAError, TypeError, ValueError) as error:
                    prepared.append(ScoringFailure(source=source_name(source), error=str(error)))
                else:
                    prepared.append(self._prepare(source, sampled, seconds, seed, crops))
            good = [item for item in prepared if isinstance(item, _Prepared)]
            scores = iter(self._score_batch(good, seed) if good else ())
            for item in prepared:
                yield item if isinstance(item, ScoringFailure) else next(scores)

    def _sample(self, source: VideoSource) -> tuple[SampledFrames, float]:
        start = time.perf_counter()
        return sample_frames(source, self.manifest.config.frames), time.perf_counter() - start

    def _prepare(
        self, source: VideoSource, sampled: SampledFrames, decode_seconds: float, seed: int, crops: int
    ) -> _Prepared:
        start = time.perf_counter()
        views = make_views(sampled.frames, self.manifest.config.view_size, seed, crops)
        seconds = {"decode": decode_seconds, "views": time.perf_counter() - start}
        return _Prepared(
            source_name(source), sampled.timestamps_seconds, sampled.info, sampled.warnings, views, seconds
        )

    def _score_batch(self, videos: list[_Prepared], seed: int) -> list[VideoScore]:
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
                    seed=seed,
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
    return ModelFacts(
        model=manifest.model_label,
        is_trained=manifest.weights.is_trained,
        weights_sha256=manifest.weights.sha256,
        backend=backend,
        views_by=views_by,
        score_range=manifest.config.score_range,
    )


def source_name(source: VideoSource) -> str:
    """What to call a source in results and messages."""
    if isinstance(source, bytes):
        return "<bytes>"
    if isinstance(source, np.ndarray):
        return "<array>"
    return os.fspath(source)
