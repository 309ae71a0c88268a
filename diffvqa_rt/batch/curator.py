"""A stage in the shape of NeMo Curator's, which need not be installed.

from nemo_curator.stages.base import ProcessingStage

class Quality(ScoringStage, ProcessingStage): ...

pipeline.add_stage(Quality("build/tiny"))
"""

from typing import Any

from diffvqa_rt.engines import BackendName
from diffvqa_rt.results import ScoringFailure, VideoScore
from diffvqa_rt.scoring import Scorer

_NAME = "diffvqa"


class ScoringStage:
    """Scores a `VideoTask`'s clips that have been cut, or its whole video where there are none.

    The score, a `VideoScore`, goes into the attribute `diffvqa` of the clip or of the video; the sentence of one that
    cannot be scored into its `errors`.
    """

    name = _NAME
    batch_size = 8

    def __init__(self, engines: str, *, backend: BackendName = "onnx", threads: int | None = 1, seed: int = 0) -> None:
        """A stage whose engines are opened by `setup`, once a worker.

        Args:
            engines: the engine folder, at the same path on every node.
            backend: which of its engines to play.
            threads: CPU threads; None for all that the worker may use.
            seed: as of `Scorer.score`.
        """
        self._engines = engines
        self._backend = backend
        self._threads = threads
        self._seed = seed
        self._scorer: Scorer | None = None

    def inputs(self) -> tuple[list[str], list[str]]:
        """The attributes of a task, and of its data, that the stage reads."""
        return ["data"], ["input_video", "clips"]

    def outputs(self) -> tuple[list[str], list[str]]:
        """The attributes that it adds."""
        return ["data"], [_NAME]

    def setup(self, worker_metadata: Any = None) -> None:
        """Opens the engines. Raises as `Scorer.open`."""
        self._scorer = Scorer.open(self._engines, backend=self._backend, threads=self._threads)

    def teardown(self) -> None:
        """Ends the decoder's process."""
        if self._scorer is not None:
            self._scorer.close()
            self._scorer = None

    def process(self, task: Any) -> Any:
        """The task with its scores."""
        return self.process_batch([task])[0]

    def process_batch(self, tasks: list[Any]) -> list[Any]:
        """The tasks with their scores; each video is decoded while the engines are at the one before."""
        assert self._scorer is not None, "setup opens the engines"
        parts = [part for task in tasks for part in _parts(task.data)]
        results = self._scorer.score_many([source for _, source in parts], seed=self._seed)
        for (holder, _), result in zip(parts, results, strict=True):
            setattr(holder, _NAME, result if isinstance(result, VideoScore) else None)
            if isinstance(result, ScoringFailure):
                holder.errors[_NAME] = result.error
        for task in tasks:
            # Curator's own stages hand a task's place in a checkpoint on; a stage of batches does so itself.
            if propagate := getattr(self, "_propagate_resumability_metadata", None):
                propagate(task, task)
        return tasks


def _parts(video: Any) -> list[tuple[Any, str | bytes]]:
    """The parts of a video that are scored, and what each is decoded from."""
    if video.clips:
        return [(clip, clip.buffer) for clip in video.clips if clip.buffer is not None]
    return [(video, video.source_bytes or str(video.input_video))]
