"""The inputs of a metric's stages on a real source, and calls of each stage that can be timed and compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.chain import STEP, Call, Chain, Loop, play
from diffvqa_rt.specs import Arrays, Engine, EngineSpec

Engines = Mapping[str, Engine]
Run = Callable[[], dict[str, NDArray]]
"""A call of a stage, with all that it gives."""

WHOLE = "score"
"""The name of the whole chain among the stages."""

# The tests' tolerance, of an output's range.
TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class StageInputs:
    """The inputs of each engine of a chain on one source, made by the baseline's engines.

    Attributes:
        chain: what runs.
        given: what the chain starts from, a row a crop.
        calls: of one call of each engine its inputs, and the names of the outputs that are read, by engine; of a
            loop's engine, of a turn in the middle.
        looped: all that each loop reads, by its stage.
    """

    chain: Chain
    given: Arrays
    calls: Mapping[str, tuple[Arrays, tuple[str, ...]]]
    looped: Mapping[str, Arrays]

    @classmethod
    def of(cls, chain: Chain, engines: Engines, given: Arrays) -> "StageInputs":
        seen: dict[str, list[tuple[Arrays, tuple[str, ...]]]] = {item.engine: [] for item in chain}
        play(
            chain,
            engines,
            given,
            observe=lambda engine, inputs, outputs: seen[engine].append((inputs, tuple(outputs))),
        )
        return cls(
            chain=chain,
            given=given,
            calls={engine: calls[len(calls) // 2] for engine, calls in seen.items()},
            looped={item.stage: _read(item, seen[item.engine][0][0]) for item in chain if isinstance(item, Loop)},
        )

    @property
    def rows(self) -> int:
        return len(next(iter(self.given.values())))

    def runs(self, engines: Engines) -> dict[str, Run]:
        """Calls on these engines: one of each engine by its name, each loop by its stage, and the whole chain."""
        runs: dict[str, Run] = {}
        for item in self.chain:
            runs[item.engine] = call_of(engines[item.engine], *self.calls[item.engine])
            if isinstance(item, Loop):
                runs[item.stage] = chain_of((item,), engines, self.looped[item.stage])
        return runs | {WHOLE: chain_of(self.chain, engines, self.given)}


def call_of(engine: Engine, inputs: Arrays, outputs: Sequence[str] | None = None) -> Run:
    """One run of an engine; outputs that stay on a device are brought here."""
    return lambda: {name: np.asarray(array) for name, array in engine(inputs, outputs).items()}


def chain_of(chain: Chain, engines: Engines, given: Arrays) -> Run:
    """One play of a chain."""
    return lambda: play(chain, engines, given)


def _read(loop: Loop, first: Arrays) -> Arrays:
    """The chain's tensors that a loop reads, from the inputs of its first turn."""
    return {name: first[name] for name in loop.inputs} | {source: first[name] for name, source in loop.start.items()}


def titles(chain: Chain, what: str = "one video") -> dict[str, str]:
    """A few words for each stage of `StageInputs.runs` but the whole."""
    named: dict[str, str] = {}
    for item in chain:
        if isinstance(item, Call):
            named[item.engine] = what
        else:
            named |= {item.engine: f"one step of {what}", item.stage: f"all {item.count} steps of {what}"}
    return named


def some_views(spec: EngineSpec, inputs: Arrays, count: int) -> dict[str, NDArray]:
    """The inputs of so many views, from the first on and round again; a view is a frame of a row, or a row."""
    axis = 1 if spec.is_per_frame else 0
    return {
        name: array if name == STEP else np.take(array, np.arange(count), axis=axis, mode="wrap")
        for name, array in inputs.items()
    }


def random_inputs(spec: EngineSpec, sizes: Mapping[str, int], step: int = 1) -> dict[str, NDArray]:
    """Uniform values in [−1, 1], the same every time.

    Args:
        spec: the engine's border.
        sizes: of the dynamic dimensions.
        step: the number of a loop's turn.
    """
    rng = np.random.default_rng(0)
    return {
        tensor.name: np.array([step])
        if tensor.name == STEP
        else rng.uniform(-1, 1, [sizes.get(size, size) for size in tensor.shape]).astype(tensor.dtype)
        for tensor in spec.inputs
    }


def largest_error(actual: Arrays, expected: Arrays) -> float:
    """The largest error of any output, of that output's largest value."""
    assert actual.keys() == expected.keys()
    # NumPy's, which gives NaN where there is one.
    return float(
        np.max([np.abs(actual[name] - expected[name]).max() / np.abs(expected[name]).max() for name in expected])
    )
