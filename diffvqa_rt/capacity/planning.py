"""How many devices a stream of videos takes, and how far the same model is from what servers were measured to do."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.capacity.measurements import Measurement, ServedRow
from diffvqa_rt.capacity.simulation import Passage, ServedStage, simulate
from diffvqa_rt.engines.backends import BACKENDS
from diffvqa_rt.errors import CapacityError
from diffvqa_rt.metric import PREPARATION
from diffvqa_rt.metrics.registry import metric_named
from diffvqa_rt.serving.models import Form, served_models

SECONDS_A_DAY = 86_400
SIMULATED_VIDEOS = 50_000
# Of a fleet that starts empty; its first videos meet no line.
_WARM_UP = 0.1
# Where more devices still don't help, it is not the line that takes the time.
_LEAST_UTILISATION = 0.01
# Fleets of hundreds are found to half a percent: the simulated p99 is no better than that.
_PRECISION = 0.005
_CLOSED_LOOP_VIDEOS = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The load that a fleet has to take, and how well.

    Attributes:
        videos_per_day: on average.
        peak_factor: the rate at the busiest time, of the average; the fleet is made for that.
        max_p99_seconds: of the latency at the busiest time, from a request to its score.
        max_utilisation: at the busiest time, of what the devices can do.
    """

    videos_per_day: float
    peak_factor: float = 1.0
    max_p99_seconds: float = 10.0
    max_utilisation: float = 0.8

    def __post_init__(self) -> None:
        for name, least, most in (
            ("videos_per_day", 1, 1e15),
            ("peak_factor", 1, SECONDS_A_DAY),  # from an even day to all of it in a second
            ("max_p99_seconds", 1e-6, SECONDS_A_DAY),
            ("max_utilisation", _LEAST_UTILISATION, 0.99),  # at full utilisation the queue grows without bound
        ):
            if not least <= (value := getattr(self, name)) <= most:
                raise ValueError(f"{name} is {value}; expected {least:g} to {most:g}")

    @property
    def peak_videos_per_second(self) -> float:
        return self.videos_per_day * self.peak_factor / SECONDS_A_DAY


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The fewest devices that meet a target.

    Attributes:
        devices: how many.
        bottleneck: the served model or the resource that fills up first.
        device_videos_per_second: what one device does without a pause.
        utilisation, peak_utilisation: of that, on average over the day and at the busiest time.
        p50_seconds, p99_seconds: the latency at the busiest time.
        device_hours_per_million: hours of devices, idle or not, for a million videos.
    """

    devices: int
    bottleneck: str
    device_videos_per_second: float
    utilisation: float
    peak_utilisation: float
    p50_seconds: float
    p99_seconds: float
    device_hours_per_million: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One number of a server, as it was measured and as the model predicts it."""

    clients: int
    quantity: str
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """The prediction's error as a share of the measured number; above 0 where the prediction is more."""
        return self.predicted / self.measured - 1


class Device:
    """One device with a server on it, as its measurement has it.

    On a CPU the engines take all cores and a decoder one: what a video costs is core-seconds, and they share them.
    Beside a GPU the cores decode and the engines share the GPU. Decoding is PyAV's on the cores, as `diffvqa score` has
    it, also where a server would leave it to NVDEC.
    """

    def __init__(self, measurement: Measurement) -> None:
        cores = measurement.cores
        # aot-inductor runs in one thread on a CPU; the other runtimes take what there is.
        engine_cores = 1 if measurement.backend == "aot-inductor" else cores
        resource, demand = ("gpu", 1) if measurement.is_gpu else ("cores", engine_cores)
        is_production = measurement.is_gpu and _has_triton_backend(measurement.backend)
        self.form: Form = "production" if is_production else "embedded"
        metric = metric_named(measurement.metric)
        # Every network of a metric has the same stages, one with a name of its own too.
        config = metric.presets.get(measurement.preset, next(iter(metric.presets.values())))
        # In the production form two videos take turns, turn by turn, at the one instance of a loop's engine.
        models = served_models(metric, config, self.form).values()
        instances = {model.stage: model.instances for model in models if model.stage is not None}
        names = [item.stage for item in metric.chain(config)]
        self.capacities = {"cores": float(cores)} | ({"gpu": 1.0} if measurement.is_gpu else {})
        self.stages = (
            # Passing requests and tensors on: Triton server has threads enough for it.
            ServedStage(name="serving", resource="cores", demand=1, instances=math.inf),
            ServedStage(name="preprocess", resource="cores", demand=1, instances=instances["preprocess"]),
            *(ServedStage(name=name, resource=resource, demand=demand, instances=instances[name]) for name in names),
        )
        overhead = measurement.overhead_seconds or 0.0
        self._videos = np.array(
            [
                (overhead, sum(video[stage] for stage in PREPARATION), *(video[name] for name in names))
                for video in measurement.videos
            ]
        )

    @property
    def seconds_alone(self) -> NDArray[np.float64]:
        """[measured videos], of each from its request to its score where nothing else is under way."""
        return self._videos.sum(axis=1)

    def limits(self) -> dict[str, float]:
        """The most videos a second that each resource and each served model lets through, without a pause."""
        seconds = self._videos.mean(axis=0)
        needed = dict.fromkeys(self.capacities, 0.0)
        for stage, each in zip(self.stages, seconds, strict=True):
            needed[stage.resource] += stage.demand * float(each)
        limits = {name: self.capacities[name] / work for name, work in needed.items() if work > 0}
        for stage, each in zip(self.stages, seconds, strict=True):
            if each > 0:
                limits[stage.name] = stage.instances / float(each)
        return limits

    def under_arrivals(self, videos_per_second: float, videos: int, seed: int) -> Passage:
        """Arrivals at random (Poisson), of videos drawn from the measured ones. More of the same seed come closer
        together, and are otherwise the same."""
        randomness = np.random.default_rng(seed)
        arrivals = randomness.exponential(size=videos).cumsum() / videos_per_second
        return simulate(self.stages, self.capacities, self._drawn(videos, randomness), arrivals.tolist())

    def under_clients(self, clients: int, videos: int, seed: int) -> Passage:
        """Clients that ask again once they are answered, until so many videos are through."""
        seconds = self._drawn(videos, np.random.default_rng(seed))
        return simulate(self.stages, self.capacities, seconds, [0.0] * min(clients, videos))

    def _drawn(self, videos: int, randomness: np.random.Generator) -> NDArray[np.float64]:
        return self._videos[randomness.integers(len(self._videos), size=videos)]


def _has_triton_backend(name: str) -> bool:
    return any(row.name == name and row.triton_backend is not None for row in BACKENDS.values())


def plan_fleet(measurement: Measurement, target: Target, *, seed: int = 0, videos: int = SIMULATED_VIDEOS) -> Plan:
    """The fewest devices for a target, each with an equal share of the arrivals, at random.

    Args:
        measurement: of one device.
        target: what they are to take.
        seed: of the simulated arrivals.
        videos: simulated on a device for each number of devices that is tried.

    Raises:
        CapacityError: no number of devices meets the target, or a video takes no time.
    """
    device = Device(measurement)
    alone = float(np.quantile(device.seconds_alone, 0.99))
    if not alone > 0:
        raise CapacityError("these measurements say that a video takes no time; check where they come from")
    if alone > target.max_p99_seconds:
        raise CapacityError(
            f"a video that is alone on {measurement.device} takes {alone:.3f} s (p99) already, more than the "
            f"{target.max_p99_seconds:g} s allowed; no number of devices changes that: raise --max-p99-seconds"
        )
    limits = device.limits()
    bottleneck = min(limits, key=limits.__getitem__)
    most, peak = limits[bottleneck], target.peak_videos_per_second

    def latencies(devices: int) -> NDArray[np.float64]:
        return device.under_arrivals(peak / devices, videos, seed).latencies[int(_WARM_UP * videos) :]

    idlest = math.ceil(peak / (most * _LEAST_UTILISATION))

    def p99(devices: int) -> float:
        return float(np.quantile(latencies(devices), 0.99))

    enough = max(1, math.ceil(peak / (most * target.max_utilisation)))
    too_few = enough - 1
    if (is_late := p99(enough) > target.max_p99_seconds) and p99(idlest) > target.max_p99_seconds:
        raise CapacityError(
            f"a p99 of {target.max_p99_seconds:g} s is not reached even at a utilisation of {_LEAST_UTILISATION:.0%}, "
            f"where most videos are alone and take {alone:.3f} s (p99); raise --max-p99-seconds"
        )
    while is_late:
        too_few, enough = enough, min(math.ceil(enough * 1.5), idlest)
        is_late = enough < idlest and p99(enough) > target.max_p99_seconds
    while enough - too_few > max(1, _PRECISION * enough):
        middle = (too_few + enough) // 2
        too_few, enough = (middle, enough) if p99(middle) > target.max_p99_seconds else (too_few, middle)
    p50_seconds, p99_seconds = np.quantile(latencies(enough), (0.5, 0.99)).tolist()
    return Plan(
        devices=enough,
        bottleneck=bottleneck,
        device_videos_per_second=most,
        utilisation=peak / target.peak_factor / (most * enough),
        peak_utilisation=peak / (most * enough),
        p50_seconds=p50_seconds,
        p99_seconds=p99_seconds,
        device_hours_per_million=enough * 24 / target.videos_per_day * 1e6,
    )


def checks(measurement: Measurement, *, seed: int = 0) -> list[Check]:
    """Each number that was measured on a server of this device, beside the model's prediction of it."""
    device = Device(measurement)
    return [check for row in measurement.served for check in _checks_of(device, row, seed)]


def _checks_of(device: Device, row: ServedRow, seed: int) -> list[Check]:
    passage = device.under_clients(row.clients, row.videos or max(_CLOSED_LOOP_VIDEOS, 20 * row.clients), seed)
    p50_seconds, p99_seconds = np.quantile(passage.latencies, (0.5, 0.99)).tolist()
    predictions = {
        "videos_per_second": len(passage.finished) / float(passage.finished.max()),
        "p50_seconds": p50_seconds,
        "p99_seconds": p99_seconds,
    }
    return [
        Check(clients=row.clients, quantity=quantity, measured=measured, predicted=predicted)
        for quantity, predicted in predictions.items()
        if (measured := getattr(row, quantity)) is not None
    ]
