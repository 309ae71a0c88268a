"""`diffvqa plan`: the devices that a stream of videos takes, from stage times that were measured."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffvqa_rt.arguments import UsageError, checked_arguments, number, whole_number
from diffvqa_rt.capacity.measurements import Measurement, Wanted, kind_name, known_measurement, measurement_from
from diffvqa_rt.capacity.planning import SIMULATED_VIDEOS, Check, Device, Plan, Target, checks, plan_fleet
from diffvqa_rt.commands.command import Command
from diffvqa_rt.engines import BACKENDS, available_cpus
from diffvqa_rt.metrics.registry import METRICS
from diffvqa_rt.standard_output import print_results
from diffvqa_rt.video import MAX_SEED

_FEW_VIDEOS = 30
_UNITS = {"videos_per_second": "videos/s", "p50_seconds": "p50, s", "p99_seconds": "p99, s"}


def _add_arguments(command: argparse.ArgumentParser) -> None:
    defaults = Target(videos_per_day=1)
    command.add_argument(
        "--videos-per-day", type=number, required=True, metavar="N", help="on average; 10e6 is ten million"
    )
    device = command.add_mutually_exclusive_group()
    device.add_argument("--gpu", metavar="NAME", help="the devices are GPUs of this name, such as h200")
    device.add_argument("--device", metavar="NAME", help="the devices are machines without a GPU, such as xeon-2cpu")
    command.add_argument(
        "--measured",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="your own measurement: what `diffvqa score --format json` printed for videos like yours on such a device, "
        "without --batch, or pytest-benchmark's JSON (default: what this project measured on the device named)",
    )
    command.add_argument(
        "--cores",
        type=whole_number(1),
        metavar="N",
        help="cores of the machine that --measured comes from, for each GPU if it has some (default: as the file says, "
        "or else as many as here)",
    )
    command.add_argument("--metric", choices=METRICS, help="where several metrics were measured: which")
    command.add_argument(
        "--preset",
        metavar="NAME",
        help="where several networks were measured: which, as `model` of a score has it, such as 'tiny, 1 step'",
    )
    command.add_argument("--backend", choices=BACKENDS, help="where several runtimes were measured: which")
    command.add_argument(
        "--peak-factor",
        type=number,
        default=defaults.peak_factor,
        metavar="F",
        help="the busiest time has F times the average rate, and the devices are for that (default: %(default)s)",
    )
    command.add_argument(
        "--max-p99-seconds",
        type=number,
        default=defaults.max_p99_seconds,
        metavar="S",
        help="99 of 100 videos have their score within S seconds at the busiest time (default: %(default)s)",
    )
    command.add_argument(
        "--max-utilisation",
        type=number,
        default=defaults.max_utilisation,
        metavar="U",
        help="of what a device can do, at the busiest time (default: %(default)s)",
    )
    command.add_argument(
        "--price-per-hour", type=number, metavar="USD", help="of a device; adds the cost of a million videos"
    )
    command.add_argument(
        "--seed",
        type=whole_number(0, MAX_SEED),
        default=0,
        metavar="N",
        help="of the simulated arrivals (default: %(default)s)",
    )
    command.add_argument("--format", choices=("table", "json"), default="table", help="(default: %(default)s)")


def _run(arguments: argparse.Namespace) -> int:
    name = arguments.gpu or arguments.device
    if not name and not arguments.measured:
        raise UsageError("say whose measurement to plan with: --gpu NAME, --device NAME or --measured FILE")
    if arguments.price_per_hour is not None and arguments.price_per_hour < 0:
        raise UsageError(f"--price-per-hour is {arguments.price_per_hour:g}; expected 0 or more")
    with checked_arguments():
        target = Target(
            videos_per_day=arguments.videos_per_day,
            peak_factor=arguments.peak_factor,
            max_p99_seconds=arguments.max_p99_seconds,
            max_utilisation=arguments.max_utilisation,
        )
    wanted = Wanted(
        device=name or "the measured device",
        is_gpu=bool(arguments.gpu) if name else None,
        metric=arguments.metric,
        preset=arguments.preset,
        backend=arguments.backend,
        cores=arguments.cores,
    )
    if arguments.measured:
        measurement = measurement_from(arguments.measured, wanted, available_cpus())
    else:
        measurement = known_measurement(wanted)
    plan = plan_fleet(measurement, target, seed=arguments.seed, videos=SIMULATED_VIDEOS)
    compared = checks(measurement, seed=arguments.seed)
    for sentence in _reservations(measurement, compared):
        print(f"diffvqa: {sentence}", file=sys.stderr)
    price = arguments.price_per_hour
    if arguments.format == "json":
        print_results(json.dumps(_as_dict(measurement, target, plan, compared, price, arguments.seed)))
    else:
        print_results("\n".join(_table(measurement, target, plan, compared, price)))
    return 0


def _reservations(measurement: Measurement, compared: Sequence[Check]) -> list[str]:
    """A sentence for each thing that the measurement lacks."""
    sentences = []
    if (count := len(measurement.videos)) < _FEW_VIDEOS:
        sentences.append(
            f"the stage times are of {count} video{'s' if count > 1 else ''}: of videos that differ more, some take "
            "longer than this p99 says; --measured takes your own"
        )
    if measurement.overhead_seconds is None:
        sentences.append("what a server adds to a video was not measured, and counts as nothing")
    if not compared:
        sentences.append("no server was measured on this device: how far off the model is, is not known")
    return sentences


def _largest_error(compared: Sequence[Check]) -> float | None:
    return max((abs(check.error) for check in compared), default=None)


def _cost(plan: Plan, price_per_hour: float | None) -> float | None:
    return None if price_per_hour is None else plan.device_hours_per_million * price_per_hour


def _as_dict(
    measurement: Measurement,
    target: Target,
    plan: Plan,
    compared: Sequence[Check],
    price_per_hour: float | None,
    seed: int,
) -> dict[str, Any]:
    facts = {
        name: getattr(measurement, name)
        for name in ("device", "is_gpu", "metric", "preset", "backend", "cores", "sources")
    }
    return {
        **facts,
        "measured_videos": len(measurement.videos),
        "seconds_alone": float(np.median(Device(measurement).seconds_alone)),
        "overhead_seconds": measurement.overhead_seconds,
        "target": dataclasses.asdict(target),
        "seed": seed,
        "simulated_videos": SIMULATED_VIDEOS,
        **dataclasses.asdict(plan),
        "price_per_hour_usd": price_per_hour,
        "cost_per_million_usd": _cost(plan, price_per_hour),
        "checks": [{**dataclasses.asdict(check), "error": check.error} for check in compared],
        "largest_error": _largest_error(compared),
    }


def _table(
    measurement: Measurement, target: Target, plan: Plan, compared: Sequence[Check], price_per_hour: float | None
) -> list[str]:
    """The lines of the plan for a person."""
    alone = float(np.median(Device(measurement).seconds_alone))
    rows = {
        "device": f"{measurement.device}, {measurement.cores} cores: "
        + kind_name(measurement.metric, measurement.preset, measurement.backend),
        "measured": "\n".join(measurement.sources),
        "one video alone": f"{alone:.3g} s (the median of {len(measurement.videos)})",
        "one device": f"{plan.device_videos_per_second:.3g} videos/s at most; first to fill up: {plan.bottleneck}",
        "devices": f"{plan.devices:,}, for {target.peak_videos_per_second:,.4g} videos/s at the busiest time, "
        f"{target.peak_factor:g} times the average",
        "utilisation": f"{plan.utilisation:.0%} on average, {plan.peak_utilisation:.0%} at the busiest time",
        "latency, busiest time": f"p50 {plan.p50_seconds:.3g} s, p99 {plan.p99_seconds:.3g} s",
        "device-hours/million": f"{plan.device_hours_per_million:,.4g}",
    }
    if (cost := _cost(plan, price_per_hour)) is not None:
        rows["cost/million"] = f"${cost:,.2f} at ${price_per_hour:,.2f} an hour"
    lines = [f"{name:<22} {text}".replace("\n", f"\n{'':<23}") for name, text in rows.items()]
    if compared:
        lines += ["", f"{'served':<12} {'':<9} {'measured':>9} {'predicted':>9} {'error':>7}"]
    for check in compared:
        clients = f"{check.clients} client{'s' if check.clients > 1 else ''}"
        numbers = f"{check.measured:9.3f} {check.predicted:9.3f} {check.error:+7.1%}"
        lines.append(f"{clients:<12} {_UNITS[check.quantity]:<9} {numbers}")
    if (largest := _largest_error(compared)) is not None:
        lines.append(f"largest error {largest:.1%}")
    return lines


COMMAND = Command(
    name="plan",
    help="how many devices a stream of videos takes",
    description="Simulate servers under a stream of videos, from stage times that were measured, and print the "
    "fewest devices that keep latency and utilisation within bounds, and how far the same model is from what "
    "servers were measured to do. Without a measurement there is no plan.",
    add_arguments=_add_arguments,
    run=_run,
)
