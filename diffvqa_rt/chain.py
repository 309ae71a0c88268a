"""A metric's chain of engines as data, and `play`, the one place where engines follow each other.

chain = (Call(engine="encoder", …), Loop(stage="denoise", …), Call(engine="head", …))
outputs = play(chain, engines, {"frames": views})
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.repeats import Repeats
from diffvqa_rt.specs import Array, Arrays, Engine, PixelScale

STEP = "step"
"""The input, [1] int64, by which a loop's engine learns the number of its turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One engine, once. `inputs` and `outputs` are the chain's tensors, under the engine's own names for them."""

    engine: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def stage(self) -> str:
        return self.engine

    @property
    def reads(self) -> frozenset[str]:
        """The chain's tensors that it takes."""
        return frozenset(self.inputs)

    @property
    def writes(self) -> tuple[str, ...]:
        """The chain's tensors that it gives."""
        return self.outputs


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop:
    """One engine, `count` times; each turn gets its number as `step`.

    Attributes:
        stage: the name of the whole.
        engine: the engine.
        count: of the turns.
        inputs: the chain's tensors that are the same in every turn.
        carry: input of a turn ← output of the turn before.
        start: the same inputs ← the chain's tensors, in turn 0.
        keep: the chain's name ← (output, turn), of what the loop gives.
    """

    stage: str
    engine: str
    count: int
    inputs: tuple[str, ...]
    carry: Mapping[str, str]
    start: Mapping[str, str]
    keep: Mapping[str, tuple[str, int]]

    @property
    def reads(self) -> frozenset[str]:
        """The chain's tensors that it takes."""
        return frozenset((*self.inputs, *self.start.values()))

    @property
    def writes(self) -> tuple[str, ...]:
        """The chain's tensors that it gives."""
        return tuple(self.keep)

    def without_last_turn(self) -> "Loop | None":
        """The turns before the last; it keeps what that takes, under the inputs' names. None of a single turn."""
        if self.count == 1:
            return None
        carried = {name: (output, self.count - 2) for name, output in self.carry.items()}
        early = {name: (output, turn) for name, (output, turn) in self.keep.items() if turn < self.count - 1}
        return dataclasses.replace(self, count=self.count - 1, keep={**carried, **early})

    def wanted_in(self, turn: int) -> list[str]:
        """The outputs of a turn that the next turn or the chain reads."""
        carried = self.carry.values() if turn < self.count - 1 else ()
        kept = (output for output, kept_turn in self.keep.values() if kept_turn == turn)
        return list(dict.fromkeys((*carried, *kept)))


Chain = tuple[Call | Loop, ...]


@runtime_checkable
class LoopingEngine(Protocol):
    """An engine that plays a whole loop by itself, its own way."""

    def loop(
        self, loop: Loop, tensors: Mapping[str, Any], before_turn: Callable[[], None] = lambda: None
    ) -> Mapping[str, Array]:
        """The loop's kept tensors by the chain's names.

        `tensors` has all that the loop reads. `before_turn` may end it by an exception; it is called once at least.
        """
        ...


@runtime_checkable
class OneThreadEngine(Protocol):
    """An engine of which a run of one row, unless frames are its work, keeps one of `threads` threads busy."""

    @property
    def threads(self) -> int: ...


@runtime_checkable
class RowwiseEngine(Protocol):
    """An engine of NumPy's arrays, for which `play` runs equal rows once, or equal frames where those are its work.

    It says of itself that their bits do not depend on those that run beside them.
    """

    @property
    def is_rowwise(self) -> bool: ...


class StageClock:
    """Seconds spent in each stage, by the stage's name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


Observer = Callable[[str, Arrays, Arrays], None]
"""Sees each run of an engine: its name, its inputs, and those of its outputs that are read."""


def play(
    chain: Chain,
    engines: Mapping[str, Engine],
    tensors: Arrays,
    *,
    observe: Observer | None = None,
    clock: StageClock | None = None,
    before_turn: Callable[[], None] = lambda: None,
) -> dict[str, NDArray]:
    """Runs a chain, as many rows at a time as its engines take, and what repeats once where no bit depends on that.

    Args:
        chain: what runs.
        engines: by name; more than the chain has may be there.
        tensors: what the chain reads and does not make, rows first; pixels may be uint8 where the engine's border has
            their scale. One may have so many rows for each row of another, and no engine reads both.
        observe: sees every run of an engine; loops then run turn by turn.
        clock: measures each stage under its name.
        before_turn: may end a loop by an exception between two turns; an engine that plays all turns on its device
            calls it once.

    Returns:
        What the chain makes and none of its stages reads.
    """
    clock = clock or StageClock()
    rows = {name: len(tensors[name]) for name in given_names(chain)}
    limits = [most for item in chain if (most := engines[item.engine].max_videos) is not None]
    # The least that has whole rows of every tensor.
    pieces = math.gcd(*rows.values())
    size = max(1, min([pieces, *(most * pieces // max(rows.values()) for most in limits)]))
    parts = []
    for i in range(0, pieces, size):
        own = {name: tensors[name][i * count // pieces : (i + size) * count // pieces] for name, count in rows.items()}
        parts.append(_play_together(chain, engines, own, observe, clock, before_turn))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def given_names(chain: Chain) -> list[str]:
    """The tensors that a chain reads and does not make, each once."""
    made = {name for item in chain for name in item.writes}
    return [name for name in dict.fromkeys(name for item in chain for name in sorted(item.reads)) if name not in made]


def split_chain(chain: Chain, names: Iterable[str]) -> tuple[Chain, Chain]:
    """The part of a chain that nothing of the named tensors reaches, and the rest."""
    reached = set(names)
    first, second = [], []
    for item in chain:
        if reached & item.reads:
            reached.update(item.writes)
            second.append(item)
        else:
            first.append(item)
    return tuple(first), tuple(second)


def rows_of(chain: Chain, given: Mapping[str, int]) -> dict[str, int]:
    """The rows of each of a chain's tensors, from those of the tensors that it starts from."""
    rows = dict(given)
    for item in chain:
        rows |= dict.fromkeys(item.writes, max(rows[name] for name in item.reads))
    return rows


def _play_together(
    chain: Chain,
    engines: Mapping[str, Engine],
    given: Arrays,
    observe: Observer | None,
    clock: StageClock,
    before_turn: Callable[[], None],
) -> dict[str, NDArray]:
    last_reader = {name: number for number, item in enumerate(chain) for name in item.reads}
    tensors = _Tensors(given)
    results: dict[str, NDArray] = {}

    def run(item: Call | Loop) -> tuple[Arrays, dict[str, NDArray]]:
        with clock.measure(item.stage):
            made = _run(item, engines[item.engine], tensors, observe, before_turn)
            # In this stage's time: an array that stays on a device is brought here.
            return made, {name: np.asarray(array) for name, array in made.items() if name not in last_reader}

    number = 0
    while number < len(chain):
        together = 1 if observe is not None else _side_by_side(chain[number:], engines, tensors)
        items = chain[number : number + together]
        for item in items:  # in the chain's order, whoever ends first
            clock.seconds.setdefault(item.stage, 0.0)
        for made, unread in [run(*items)] if together == 1 else _in_threads(run, items):
            tensors.add(made)
            results |= unread
        number += together
        tensors.keep({name for name, last in last_reader.items() if last >= number})
    return results


def _in_threads(run: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(run, items))


def _side_by_side(chain: Chain, engines: Mapping[str, Engine], tensors: "_Tensors") -> int:
    """The number of a chain's first items that run at the same time: engines of one thread each, on free threads.

    None reads what another of them makes.
    """
    count, made, threads = 0, set[str](), len(chain)
    for item in chain:
        engine = engines[item.engine]
        if isinstance(item, Loop) or not isinstance(engine, OneThreadEngine) or engine.spec.is_per_frame:
            break
        if made & item.reads or any(tensors.rows(name) > 1 for name in item.reads):
            break
        threads = min(threads, engine.threads)
        if count == threads:
            break
        made.update(item.writes)
        count += 1
    return max(1, count)


class _Tensors:
    """The tensors that a later stage reads; pixels are normalised once for all that read them at the same scale."""

    def __init__(self, given: Arrays) -> None:
        self._arrays: dict[str, Any] = dict(given)
        self._scaled: dict[tuple[str, PixelScale], NDArray] = {}

    def read(self, name: str, scale: PixelScale | None) -> Any:
        array = self._arrays[name]
        if scale is None or array.dtype != np.uint8:
            return array
        if (name, scale) not in self._scaled:
            self._scaled[name, scale] = scale.normalize(array)
        return self._scaled[name, scale]

    def stored(self, name: str) -> Any:
        """As it was given or made."""
        return self._arrays[name]

    def rows(self, name: str) -> int:
        return int(self._arrays[name].shape[0])

    def add(self, made: Arrays) -> None:
        self._arrays |= made

    def keep(self, names: set[str]) -> None:
        self._arrays = {name: array for name, array in self._arrays.items() if name in names}
        self._scaled = {(name, scale): array for (name, scale), array in self._scaled.items() if name in names}


def _run(
    item: Call | Loop,
    engine: Engine,
    tensors: _Tensors,
    observe: Observer | None,
    before_turn: Callable[[], None],
) -> Arrays:
    scales = engine.spec.pixels
    own_names = {name: name for name in item.inputs} | (dict(item.start) if isinstance(item, Loop) else {})
    read = {name: tensors.read(name, scales.get(own_name)) for own_name, name in own_names.items()}
    repeats = None
    if observe is None and isinstance(engine, RowwiseEngine) and engine.is_rowwise:
        repeats = Repeats.among([tensors.stored(name) for name in read], axes=2 if engine.spec.is_per_frame else 1)
    if repeats is None:
        return _run_on(item, engine, read, observe, before_turn)
    made = _run_on(item, engine, {name: repeats.once(array) for name, array in read.items()}, observe, before_turn)
    return {name: repeats.all_of(array) for name, array in made.items()}


def _run_on(
    item: Call | Loop, engine: Engine, inputs: Arrays, observe: Observer | None, before_turn: Callable[[], None]
) -> Arrays:
    if isinstance(item, Loop):
        if isinstance(engine, LoopingEngine) and observe is None:
            return engine.loop(item, inputs, before_turn)
        return run_loop(item, engine, inputs, observe=observe, before_turn=before_turn)
    rows, most = next(iter(inputs.values())).shape[0], engine.max_videos
    if most is not None and rows > most:  # of a tensor with more rows than the others
        parts = [
            _call(item, engine, {name: array[i : i + most] for name, array in inputs.items()}, observe)
            for i in range(0, rows, most)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in item.outputs}
    return _call(item, engine, inputs, observe)


def _call(item: Call, engine: Engine, inputs: Arrays, observe: Observer | None) -> Arrays:
    outputs = engine(inputs, item.outputs)
    if observe is not None:
        observe(item.engine, inputs, outputs)
    return outputs


def run_loop(
    loop: Loop,
    engine: Engine,
    tensors: Mapping[str, Any],
    *,
    observe: Observer | None = None,
    before_turn: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """A loop, turn by turn. Returns its kept tensors by the chain's names.

    Args:
        loop: what runs.
        engine: the loop's.
        tensors: all that the loop reads.
        observe: as in `play`.
        before_turn: may end the loop by an exception.
    """
    fixed = {name: tensors[name] for name in loop.inputs}
    carried = {name: tensors[source] for name, source in loop.start.items()}
    kept: dict[str, Any] = {}
    for turn in range(loop.count):
        before_turn()
        inputs = {**fixed, **carried, STEP: np.array([turn])}
        outputs = engine(inputs, loop.wanted_in(turn))
        if observe is not None:
            observe(loop.engine, inputs, outputs)
        is_last = turn == loop.count - 1
        # An engine's next run may write where this one's outputs are.
        kept |= {
            name: outputs[output] if is_last else np.array(outputs[output])
            for name, (output, kept_turn) in loop.keep.items()
            if kept_turn == turn
        }
        if not is_last:
            carried = {name: outputs[output] for name, output in loop.carry.items()}
    return kept
