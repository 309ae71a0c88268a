"""What every benchmark shares: a clip, a photograph, engines built for this run, timing in turns, the table of ratios.

A row's `extra_info` says who it is: `provider`; `baseline`, whether it is what its group is compared with; for every
other row `speedup_over_NAME` of each baseline that took turns with it, and their medians in `baseline_seconds`;
`threads`, how many the process may use.
"""

import datetime
import importlib.metadata
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from builds import Builds
from ratios import table
from turns import Run, seconds_of, speedup

from diffvqa_rt.engines import available_cpus

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "diffvqa-rt",
    "av",
    "imageio-ffmpeg",
    "mamba-ssm",
    "numba",
    "numpy",
    "nvidia-dali-cuda130",
    "nvidia-pytriton",
    "onnxruntime",
    "pyiqa",
    "torch",
    "torchcodec",
    "triton",
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
LOAD_BEFORE = os.getloadavg()[0]
STARTED = time.monotonic()
GROUPS = pytest.StashKey[list]()

TimeInTurns = Callable[..., dict[str, list[float]]]


@pytest.fixture(scope="session")
def clip() -> Path:
    return ROOT / "examples" / "frog.mp4"


@pytest.fixture(scope="session")
def builds(tmp_path_factory, request) -> Iterator[Builds]:
    together = ["onnx", "torch"]
    # Minutes, so only where a row asks for it.
    if any(row.get("provider") == "aot_inductor" for row in _parameters(request.session.items)):
        from providers import what_lacks

        if what_lacks("cpu", "aot_inductor") is None:
            together.append("aot-inductor")
    builds = Builds(tmp_path_factory.mktemp("engines"), together)
    yield builds
    builds.close()


@pytest.fixture(scope="session")
def engines_folder(builds) -> Path:
    """DiffVQA's `tiny` engines of ONNX Runtime, of eager torch, and of AOTInductor where a row asks for those."""
    return builds.folder("onnx")


@pytest.fixture(scope="session")
def providers(builds, clip, request):
    """`Providers`, by metric, of every row that was selected.

    Tests that use it have the parameters `metric`, `device` and `provider`.
    """
    from providers import Providers

    wanted: dict[str, set[tuple[str, str]]] = {}
    for row in _parameters(item for item in request.session.items if "providers" in item.fixturenames):
        wanted.setdefault(row["metric"], set()).add((row["device"], row["provider"]))
    return {metric: Providers(builds, metric, rows, clip) for metric, rows in wanted.items()}


@pytest.fixture(scope="session")
def photograph(clip, tmp_path_factory) -> Path:
    """A JPEG of 12 megapixels."""
    from photograph import make_photograph

    return make_photograph(clip, tmp_path_factory.mktemp("photograph") / "photograph.jpg")


def _parameters(tests: Iterable[pytest.Item]) -> list[Mapping[str, Any]]:
    """The parameters of the tests that have some."""
    return [test.callspec.params for test in tests if hasattr(test, "callspec")]


@pytest.fixture
def time_in_turns(benchmark, request) -> TimeInTurns:
    """Times `run` and, before each of its rounds, the baselines, so that a machine that slows down slows all.

    A row without baselines is its group's baseline. `provider` is the test's parameter of that name, or else its name.
    Every other row gets `speedup_over_NAME`, the median of the rounds' own ratios. Returns the baselines' seconds,
    round by round; those of `run` are in `benchmark.stats`.
    """
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    own_name = parameters.get("provider", request.node.originalname.removeprefix("test_"))

    def time_all(
        run: Run, baselines: Mapping[str, Run], rounds: int, *, provider: str = own_name, is_warm: bool = False
    ) -> dict[str, list[float]]:
        seconds: dict[str, list[float]] = {name: [] for name in baselines}

        def run_the_baselines() -> None:
            for name, baseline in baselines.items():
                seconds[name].append(seconds_of(baseline))

        if not is_warm:
            run()
        benchmark.extra_info |= {"provider": provider, "baseline": not baselines, "threads": available_cpus()}
        benchmark.pedantic(run, setup=run_the_baselines, rounds=rounds)
        if baselines and benchmark.enabled:
            ours = benchmark.stats.stats.data
            benchmark.extra_info |= {
                f"speedup_over_{name}": round(speedup(ours, theirs), 3) for name, theirs in seconds.items()
            }
            medians = {name: statistics.median(theirs) for name, theirs in seconds.items()}
            benchmark.extra_info["baseline_seconds"] = medians
        return seconds

    return time_all


def pytest_benchmark_update_machine_info(config, machine_info):
    for private in ("node", "release"):
        machine_info.pop(private, None)
    machine_info["cpu"] = {name: machine_info["cpu"].get(name) for name in ("brand_raw", "arch", "count")}
    machine_info["threads"] = available_cpus()
    machine_info["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # Of the minute before the run: what else had the processor.
    machine_info["load_before"] = LOAD_BEFORE
    machine_info["environment"] = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    machine_info["gpu"] = _gpu()
    machine_info["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    installed = {
        distribution.metadata["Name"]: distribution.version for distribution in importlib.metadata.distributions()
    }
    machine_info["versions"] = {name: installed[name] for name in PACKAGES if name in installed}


def pytest_benchmark_update_json(config, benchmarks, output_json):
    """All of the run: builds, compilations and comparisons too."""
    output_json["run_seconds"] = round(time.monotonic() - STARTED)


def _gpu() -> str | None:
    try:
        import torch
    except ModuleNotFoundError:
        return None
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_group_stats(config, benchmarks):
    """Keeps what was measured for the table; grouping it for its own is pytest-benchmark's."""
    by_group: dict[str, list] = {}
    for row in benchmarks:
        by_group.setdefault(row["group"], []).append(row)
    config.stash[GROUPS] = list(by_group.items())


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    groups = config.stash.get(GROUPS, [])
    if not groups:
        return
    terminalreporter.section("medians, and how many times as fast as the baseline")
    for line in table(groups):
        terminalreporter.write_line(line)
    reasons = Counter(report.longrepr[2] for report in terminalreporter.stats.get("skipped", []))
    terminalreporter.write_line("")
    for reason, count in reasons.items():
        terminalreporter.write_line(f"not measured: {count} rows, {reason.removeprefix('Skipped: ')}")
