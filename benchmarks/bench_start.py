"""What comes before the first score: a process that starts, and engines that are built. With the memory that it takes.

Every round is a new process. `pytorch` is the same network in eager torch, which builds nothing and loads the most;
`torch_compile` compiles at its first call, with an empty compiler cache where it is a build's baseline. With -m slow
all three stages are built, where else it is the smallest one, and a process starts with torch.compile's cache filled.

    pytest benchmarks/bench_start.py --benchmark-only
    pytest benchmarks/bench_start.py --benchmark-only -m slow
"""

import functools
import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from child import Finished, run_child

from diffvqa_rt.engines import available_cpus
from diffvqa_rt.presets import TINY
from diffvqa_rt.specs import engine_specs

HERE = Path(__file__).parent
START_BASELINE, BUILD_BASELINE = "pytorch", "torch_compile"
BACKENDS = {"pytorch": "torch", "onnxruntime": "onnx", "aot_inductor": "aot-inductor"}
SMALLEST, ALL = ("vae_encoder",), tuple(engine_specs(TINY))
# The tests' tolerance, of an output's mean.
TOLERANCE = 1e-3


@dataclass(slots=True)
class Children:
    """Runs a command each time it is called, and keeps what became of it."""

    command: Callable[[], list[str]]
    environment: Callable[[], dict[str, str]]
    finished: list[Finished] = field(default_factory=list)

    def __call__(self) -> None:
        self.finished.append(run_child(self.command(), self.environment()))

    @property
    def median_seconds(self) -> float:
        return statistics.median(child.seconds for child in self.finished)


@pytest.fixture(scope="module")
def baselines() -> dict[str, Children]:
    """Group → the children of its baseline, for the ratios of the rows after it."""
    return {}


def environment(compiler_cache: Path) -> dict[str, str]:
    """This process's, with what it imports, and a cache for torch's compiler that is nobody else's."""
    path = os.pathsep.join(sys.path)
    return os.environ | {"PYTHONPATH": path, "TORCHINDUCTOR_CACHE_DIR": str(compiler_cache)}


def note(benchmark, baselines: dict[str, Children], provider: str, baseline: str, children: Children) -> None:
    extra = {"provider": provider, "baseline": provider == baseline, "threads": available_cpus()}
    extra["peak_memory_mib"] = max(child.peak_memory_mib for child in children.finished)
    if provider == baseline:
        baselines[benchmark.group] = children
    elif benchmark.group in baselines:
        # Rounds of seconds, minutes where all is built: not in turns, and this run's own all the same.
        ratio = baselines[benchmark.group].median_seconds / children.median_seconds
        extra[f"speedup_over_{baseline}"] = round(ratio, 3)
    benchmark.extra_info |= extra


@pytest.mark.parametrize("provider", [START_BASELINE, "onnxruntime", "aot_inductor"])
def test_start(benchmark, request, baselines, engines_folder, clip, tmp_path, provider: str) -> None:
    """From the command to the end of its output. The first process, which fills the disk's cache, is not counted."""
    folder = engines_folder
    if provider == "aot_inductor":
        # Not among the engines that most benchmarks need.
        folder = request.getfixturevalue("builds").folder("aot-inductor")
    options = ["--engines", str(folder), "--backend", BACKENDS[provider], "--format", "json"]
    command = [sys.executable, "-m", "diffvqa_rt.cli", "score", *options, str(clip)]
    children = Children(lambda: command, lambda: environment(tmp_path))
    children()
    first = children.finished.pop()
    benchmark.group = "start: process start to the first score, tiny"
    benchmark.pedantic(children, rounds=3)
    assert {_score(child) for child in children.finished} == {_score(first)}
    benchmark.extra_info["score"] = _score(first)
    note(benchmark, baselines, provider, START_BASELINE, children)


def _score(child: Finished) -> float:
    return json.loads(child.output)["score"]


@pytest.fixture(scope="module")
def compiler_caches(tmp_path_factory) -> Callable[[], Path]:
    """A new one each time."""
    return lambda: tmp_path_factory.mktemp("compiler-cache")


@pytest.fixture(scope="module")
def expected_means(compiler_caches) -> Callable[[tuple[str, ...]], list[float]]:
    """Stages → the means of eager torch's outputs."""

    @functools.cache
    def means(names: tuple[str, ...]) -> list[float]:
        eager = _first_calls("pytorch", names, compiler_caches(), compiler_caches)
        eager()
        return _means(eager.finished[0])

    return means


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("names", [SMALLEST, pytest.param(ALL, marks=pytest.mark.slow)], ids=["vae_encoder", "all"])
@pytest.mark.parametrize("provider", [BUILD_BASELINE, "aot_inductor", "onnxruntime"])
def test_build(
    benchmark, baselines, compiler_caches, expected_means, tmp_path, names: tuple[str, ...], provider: str
) -> None:
    """Export, compile, open and call once, without the comparison with torch that `build_engines.py` adds.

    `aot_inductor` and `onnxruntime` pay it once a machine, `torch_compile` once a process.
    """
    children = _first_calls(provider, names, tmp_path, compiler_caches)
    what = names[0] if names == SMALLEST else "all stages"
    benchmark.group = f"build: weights to the first output of {what}, tiny"
    benchmark.pedantic(children, rounds=1)
    assert _means(children.finished[0]) == pytest.approx(expected_means(names), rel=TOLERANCE)
    note(benchmark, baselines, provider, BUILD_BASELINE, children)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("provider", ["pytorch", "torch_compile"])
def test_start_compiled(benchmark, baselines, compiler_caches, tmp_path, provider: str) -> None:
    """What each further process pays for torch.compile, beside eager torch: random weights to one output a stage."""
    cache = compiler_caches()
    children = _first_calls(provider, ALL, tmp_path, lambda: cache)
    children()
    children.finished.clear()
    benchmark.group = "start: process start to the first output of all stages, compiler cache filled, tiny"
    benchmark.pedantic(children, rounds=3)
    note(benchmark, baselines, provider, START_BASELINE, children)


def _first_calls(provider: str, names: tuple[str, ...], folder: Path, new_cache: Callable[[], Path]) -> Children:
    command = [sys.executable, str(HERE / "first_call.py"), provider, str(folder), *names]
    return Children(lambda: command, lambda: environment(new_cache()))


def _means(child: Finished) -> list[float]:
    """The mean magnitude of each output."""
    return [float(word) for line in child.output.splitlines() for word in line.split()[1:]]
