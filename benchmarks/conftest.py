"""What every benchmark shares: one real clip, one engine folder, one line about the machine."""

import datetime
import importlib.metadata
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("diffvqa-rt", "av", "mamba-ssm", "numba", "numpy", "onnxruntime", "torch", "triton")


@pytest.fixture(scope="session")
def clip() -> Path:
    return ROOT / "examples" / "frog.mp4"


@pytest.fixture(scope="session")
def engines_folder(tmp_path_factory) -> Path:
    """The `tiny` engines for every backend on this machine, built for this run: a benchmark of stale engines lies."""
    import build_engines

    folder = tmp_path_factory.mktemp("engines") / "tiny"
    assert build_engines.main(["--backend", "onnx,aot-inductor,torch", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def time_in_turns(benchmark):
    """Times `run` and, before each of its rounds, the baselines, so that a machine that slows down slows all.

    Adds `speedup_over_NAME`, the median of the rounds' own ratios, to the row.
    """

    def time_all(run: Callable[[], object], baselines: Mapping[str, Callable[[], object]], rounds: int) -> None:
        seconds: dict[str, list[float]] = {name: [] for name in baselines}

        def run_the_baselines() -> None:
            for name, baseline in baselines.items():
                start = time.perf_counter()
                baseline()
                seconds[name].append(time.perf_counter() - start)

        run()
        benchmark.pedantic(run, setup=run_the_baselines, rounds=rounds)
        for name, theirs in seconds.items():
            ratios = [other / ours for ours, other in zip(benchmark.stats.stats.data, theirs, strict=True)]
            benchmark.extra_info[f"speedup_over_{name}"] = round(statistics.median(ratios), 3)

    return time_all


def pytest_benchmark_update_machine_info(config, machine_info):
    for private in ("node", "release"):
        machine_info.pop(private, None)
    machine_info["cpu"] = {name: machine_info["cpu"].get(name) for name in ("brand_raw", "arch", "count")}
    machine_info["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    installed = {
        distribution.metadata["Name"]: distribution.version for distribution in importlib.metadata.distributions()
    }
    machine_info["versions"] = {name: installed[name] for name in PACKAGES if name in installed}
