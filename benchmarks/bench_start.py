"""What comes before the first score: a process that starts, and engines that are built. With the memory that it takes.

Every round is a new process. `pytorch` is the same network in eager torch, which builds nothing and loads the most.
With -m slow all stages of each metric are built, where else it is the smallest one of DiffVQA; and `torch_compile`,
which compiles at its first call, does so with an empty compiler cache, and with a filled one.

    pytest benchmarks/bench_start.py --benchmark-only
    pytest benchmarks/bench_start.py --benchmark-only -m slow
"""

import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from child import Finished, run_child
from providers import BACKENDS, BASELINE, PRESET, asked, network_of, what_lacks

from diffvqa_rt.engines import available_cpus
from diffvqa_rt.metrics.registry import DEFAULT, METRICS, metric_named

HERE = Path(__file__).parent
BUILDERS = (BASELINE, "onnxruntime", "aot_inductor")
SMALLEST = ("vae_encoder",)
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


def stages_of(metric: str) -> tuple[str, ...]:
    return tuple(metric_named(metric).engines(metric_named(metric).preset_named(PRESET)))


def skip_without(provider: str) -> None:
    if reason := what_lacks("cpu", provider):
        pytest.skip(reason)


def note(benchmark, baselines: dict[str, Children], provider: str, children: Children) -> None:
    extra = {"provider": provider, "baseline": provider == BASELINE, "threads": available_cpus()}
    extra["peak_memory_mib"] = max(child.peak_memory_mib for child in children.finished)
    if provider == BASELINE:
        baselines[benchmark.group] = children
    elif benchmark.group in baselines:
        # Rounds of seconds, minutes where all is built: not in turns, and this run's own all the same.
        ratio = baselines[benchmark.group].median_seconds / children.median_seconds
        extra[f"speedup_over_{BASELINE}"] = round(ratio, 3)
    benchmark.extra_info |= extra


@pytest.mark.timeout(1200)  # the first one waits for what is built
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("provider", BUILDERS)
def test_start(benchmark, baselines, builds, clip, tmp_path, metric: str, provider: str) -> None:
    """From the command to the end of its output. The first may fill the disk's cache, and is not the median."""
    skip_without(provider)
    folder = builds.folder("onnx", metric)
    options = ["--engines", str(folder), "--backend", BACKENDS[provider], "--format", "json"]
    prompt = asked(metric_named(metric)).prompt
    options += ["--prompt", prompt] if prompt else []
    command = [sys.executable, "-m", "diffvqa_rt.cli", "score", *options, str(clip)]
    children = Children(lambda: command, lambda: environment(tmp_path))
    benchmark.group = f"start: process start to the first score, {network_of(metric)}"
    benchmark.pedantic(children, rounds=3)
    (score,) = {_score(child) for child in children.finished}
    benchmark.extra_info["score"] = score
    note(benchmark, baselines, provider, children)


def _score(child: Finished) -> float:
    return json.loads(child.output)["score"]


@pytest.fixture(scope="module")
def compiler_caches(tmp_path_factory) -> Callable[[], Path]:
    """A new one each time."""
    return lambda: tmp_path_factory.mktemp("compiler-cache")


def _builds() -> list:
    rows = [
        pytest.param(DEFAULT, SMALLEST, provider, id=f"{DEFAULT}-{SMALLEST[0]}-{provider}") for provider in BUILDERS
    ]
    slow = (*BUILDERS, "torch_compile")
    return rows + [
        pytest.param(metric, stages_of(metric), provider, id=f"{metric}-all-{provider}", marks=pytest.mark.slow)
        for metric in METRICS
        for provider in slow
    ]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("metric", "names", "provider"), _builds())
def test_build(
    benchmark, baselines, compiler_caches, tmp_path, metric: str, names: tuple[str, ...], provider: str
) -> None:
    """Export, compile, open and call once, without the comparison with torch that `build_engines.py` adds.

    `aot_inductor` and `onnxruntime` pay it once a machine, `torch_compile` once a process.
    """
    skip_without(provider)
    children = _first_calls(metric, provider, names, tmp_path, compiler_caches)
    what = names[0] if names == SMALLEST else "all stages"
    benchmark.group = f"build: weights to the first output of {what}, {network_of(metric)}"
    benchmark.pedantic(children, rounds=1)
    note(benchmark, baselines, provider, children)
    if eager := baselines.get(benchmark.group):
        assert _means(children.finished[0]) == pytest.approx(_means(eager.finished[0]), rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("provider", [BASELINE, "torch_compile"])
def test_start_compiled(benchmark, baselines, compiler_caches, tmp_path, metric: str, provider: str) -> None:
    """The price of torch.compile for each further process, beside eager torch: random weights to one output a stage."""
    skip_without(provider)
    cache = compiler_caches()
    children = _first_calls(metric, provider, stages_of(metric), tmp_path, lambda: cache)
    children()
    children.finished.clear()
    what = f"all stages, compiler cache filled, {network_of(metric)}"
    benchmark.group = f"start: process start to the first output of {what}"
    benchmark.pedantic(children, rounds=3)
    note(benchmark, baselines, provider, children)


def _first_calls(
    metric: str, provider: str, names: tuple[str, ...], folder: Path, new_cache: Callable[[], Path]
) -> Children:
    command = [sys.executable, str(HERE / "first_call.py"), metric, provider, str(folder), *names]
    return Children(lambda: command, lambda: environment(new_cache()))


def _means(child: Finished) -> list[float]:
    """The mean magnitude of each output."""
    return [float(word) for line in child.output.splitlines() for word in line.split()[1:]]
