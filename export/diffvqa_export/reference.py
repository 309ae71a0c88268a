"""What float32 torch computes on a source: every engine's inputs and outputs, kept on disk for the comparisons."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.chain import play
from diffvqa_rt.metric import Config, Metric
from diffvqa_rt.preparation import PreparedSource
from diffvqa_rt.specs import Engine

Arrays = dict[str, NDArray]
_CALLS = "calls"


def record_reference(
    metric: Metric, config: Config, engines: Mapping[str, Engine], source: PreparedSource, path: Path
) -> float:
    """Plays the metric's chain on a prepared source, and writes what passes the engines' borders. Returns its score.

    Of each turn of a loop only what is carried or kept: the feature maps of all steps are 2 GB at full size.
    """
    recording = _Recording()
    recorded_given = recording.names_of(source.arrays)
    outputs = play(metric.chain(config), engines, source.arrays, observe=recording.observe)
    frames = len(source.timestamps_seconds)
    score = float(metric.finish(config, outputs, frames)["score"].mean())
    described = {"given": recorded_given, "calls": recording.calls, "score": score, "frames": frames}
    recording.arrays[_CALLS] = np.array(json.dumps(described))
    np.savez(path, **recording.arrays)
    return score


class _Recording:
    """Each array once, under a name of its own, and the calls as the names of their arrays."""

    def __init__(self) -> None:
        self.arrays: dict[str, Any] = {}
        self.calls: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self._names: dict[int, str] = {}

    def observe(self, engine: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        self.calls.append((engine, self.names_of(inputs), self.names_of(outputs)))

    def names_of(self, arrays: Mapping[str, Any]) -> dict[str, str]:
        return {name: self._name_of(name, np.asarray(array)) for name, array in arrays.items()}

    def _name_of(self, name: str, array: NDArray) -> str:
        if id(array) not in self._names:
            kept = f"{name}_{len(self.arrays)}"
            self.arrays[kept] = array  # which holds on to it: no other array gets its identity
            self._names[id(array)] = kept
        return self._names[id(array)]


class Reference:
    """A recorded reference. `calls` replays it, engine by engine.

    Attributes:
        given: what the chain starts from.
        score: of the source.
        frame_count: how many frames of it the metric was given.
    """

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as file:
            self._arrays = {name: file[name] for name in file.files if name != _CALLS}
            described = json.loads(str(file[_CALLS]))
        self._calls: list[tuple[str, dict[str, str], dict[str, str]]] = described["calls"]
        self.given = self._named(described["given"])
        self.score: float = described["score"]
        self.frame_count: int = described["frames"]

    def frames(self, engines: Mapping[str, Engine]) -> int:
        """The number of frames that the per-frame engines see, every view counted; of rows, where there are none."""
        for engine, inputs, _ in self.calls():
            if engines[engine].spec.is_per_frame:
                return int(next(iter(inputs.values())).shape[1])
        return len(next(iter(self.given.values())))

    def calls(self) -> Iterator[tuple[str, Arrays, Arrays]]:
        """(engine, inputs, expected outputs) in the order in which they ran."""
        for engine, inputs, outputs in self._calls:
            yield engine, self._named(inputs), self._named(outputs)

    def _named(self, names: Mapping[str, str]) -> Arrays:
        return {name: self._arrays[kept] for name, kept in names.items()}


def some_frames(arrays: Arrays, count: int) -> Arrays:
    """The first `count` frames of a per-frame engine's tensors."""
    return {name: array[:, :count] if array.ndim > 1 else array for name, array in arrays.items()}
