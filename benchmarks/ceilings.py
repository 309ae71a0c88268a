"""What a machine can do at most, measured: one large matrix product, and one large copy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from arithmetic import Arithmetic
from turns import Run, speedup

PRODUCT, COPY = "matrix_product", "copy"


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The two on a device, each a call that waits for its end."""

    product: Run
    product_flops: int
    copy: Run
    copy_bytes: int

    @classmethod
    def of(cls, device: str, dtype: torch.dtype, *, side: int, copied_bytes: int) -> "Ceilings":
        """A product of side³, and a copy of that many bytes: reads them and writes as many."""
        # Random numbers: a GPU multiplies ones in less power, and so in less time.
        a, b, product = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(3))
        source, target = (torch.zeros(copied_bytes, dtype=torch.uint8, device=device) for _ in range(2))
        return cls(
            product=waited_for(lambda: torch.mm(a, b, out=product), device),
            product_flops=2 * side**3,
            copy=waited_for(lambda: target.copy_(source), device),
            copy_bytes=2 * copied_bytes,
        )

    @property
    def runs(self) -> dict[str, Run]:
        return {PRODUCT: self.product, COPY: self.copy}

    def shares(self, work: Arithmetic, seconds: Sequence[float], theirs: dict[str, list[float]]) -> dict[str, Any]:
        """The share of both ceilings that a run of `work` reached, from the seconds of rounds in turns with `runs`."""
        of_product = speedup(seconds, theirs[PRODUCT]) * work.flops / self.product_flops
        of_copy = speedup(seconds, theirs[COPY]) * work.bytes / self.copy_bytes
        return {f"share_of_{PRODUCT}": round(of_product, 4), f"share_of_{COPY}": round(of_copy, 4)}


def waited_for(work: Callable[[], Any], device: str) -> Callable[[], Any]:
    """`work`, and the wait for a GPU to have done it."""

    def run() -> Any:
        result = work()
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    return run


def time_with_shares(
    benchmark: Any,
    time_in_turns: Any,
    run: Run,
    baselines: Mapping[str, Run],
    work: Arithmetic,
    ceilings: Ceilings,
    rounds: int,
) -> None:
    """Times a row, warm and checked, in turns with its baselines and with both ceilings; notes its arithmetic too."""
    theirs = time_in_turns(run, {**baselines, **ceilings.runs}, rounds, is_warm=True)
    extra = benchmark.extra_info
    extra |= {"flops": work.flops, "bytes": work.bytes, "operator_bytes": work.operator_bytes}
    if not benchmark.enabled:
        return
    # Two times of different work have no ratio.
    for name in ceilings.runs:
        del extra[f"speedup_over_{name}"], extra["baseline_seconds"][name]
    seconds = benchmark.stats.stats
    extra |= {
        "flops_per_second": round(work.flops / seconds.median),
        "bytes_per_second": round(work.bytes / seconds.median),
        **ceilings.shares(work, seconds.data, theirs),
    }
