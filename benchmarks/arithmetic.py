"""What a stage must compute and move, counted on shapes alone: no weights, no device, no stopwatch.

* `flops`: additions and multiplications of matrix products, convolutions, attention and the scan, of the network as it
  is deployed, with its folds. Normalisations, activations and residual additions are left out: a percent or two of the
  arithmetic, and what they cost is in the bytes.
* `bytes`: the stage's inputs, weights and outputs, each once (a table of the K steps as a whole: a percent at most). No
  runtime moves less, so that a share of the memory's speed that is reckoned with it is never too high. What a stage
  writes and reads again in between is left out: a runtime that fuses operators, or keeps them in its cache, does not
  move it.
* `operator_bytes`: what crosses memory if every operator reads its inputs there and writes its outputs there. The truth
  lies between the two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffvqa_export.precision import write_precision
from diffvqa_export.registry import metric_export
from diffvqa_kernels.selective_scan import bidirectional_selective_scan  # noqa: F401  registers the operator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from diffvqa_rt.chain import Loop
from diffvqa_rt.metrics.registry import metric_named
from diffvqa_rt.models.registry import models_of
from diffvqa_rt.specs import Precision, TensorSpec

# Of one state in one step: Δ A, its exponential (counted as one), its product with h, (Δ u) B, the sum, and C h summed.
SCAN_FLOPS_OF_A_STATE = 7
# Of one channel in one step and direction: the bias, softplus (2), Δ u, and D u summed.
SCAN_FLOPS_OF_A_CHANNEL = 6
# Of one channel in one step, for both directions together: their sum, silu (3) and the gate's product.
SCAN_FLOPS_OF_A_GATE = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Arithmetic:
    """The work of one call of a stage; the module's first lines say what counts."""

    flops: int
    bytes: int
    operator_bytes: int

    def times(self, calls: int) -> "Arithmetic":
        return Arithmetic(
            flops=calls * self.flops, bytes=calls * self.bytes, operator_bytes=calls * self.operator_bytes
        )


def scan_flops(u: Sequence[int], delta: Sequence[int], A: Sequence[int], *_: Any, **__: Any) -> int:
    """The work of `bidirectional_selective_scan`, from shapes: u [batch, 2, dim, length], A [2, dim, d_state]."""
    batch, directions, dim, length = u
    of_a_direction = SCAN_FLOPS_OF_A_STATE * A[-1] + SCAN_FLOPS_OF_A_CHANNEL
    return batch * dim * length * (directions * of_a_direction + SCAN_FLOPS_OF_A_GATE)


def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> Arithmetic:
    """One call of a module, with its parameters and `inputs` on the meta device.

    Weights are what the call reads, once each: parameters that a fold has replaced by a table do not count.
    """
    formulas = {torch.ops.diffvqa.bidirectional_selective_scan: scan_flops}
    with torch.no_grad():
        with FlopCounterMode(display=False, custom_mapping=formulas) as flops:
            module(*inputs)
        traffic = _Traffic(inputs)
        with traffic, _WholeAttention(traffic):
            outputs = module(*inputs)
    return Arithmetic(
        flops=flops.get_total_flops(),
        bytes=_size(inputs) + traffic.weight_bytes + _size(outputs),
        operator_bytes=traffic.operator_bytes,
    )


def stage_arithmetic(
    metric: str,
    config: Any,
    *,
    names: Sequence[str] | None = None,
    rows: int = 1,
    sizes: Mapping[str, int] | None = None,
    precision: Precision = "fp32",
) -> dict[str, Arithmetic]:
    """The work of one call of each stage of a metric's network, or of those that are named; of a loop's, of one step.

    Args:
        rows: of the batch, the engines' leading axis.
        sizes: of the other dynamic dimensions; those of a whole source by default.
    """
    export, models = metric_export(metric), models_of(metric)
    with torch.device("meta"):
        # Small constants are made on the CPU all the same.
        modules = models.stages(models.network(config).to("meta"))
    sizes = {"videos": rows, **(export.dynamic_sizes(config) if sizes is None else sizes)}
    specs = metric_named(metric).engines(config)
    counted = {}
    for name in names or modules:
        write_precision(export.stages[name], modules[name], precision)
        inputs = tuple(
            torch.empty([sizes.get(size, size) for size in tensor.shape], dtype=_dtype(tensor), device="meta")
            for tensor in specs[name].inputs
        )
        counted[name] = count(modules[name].to("meta"), inputs)
    return counted


def chain_arithmetic(metric: str, config: Any, **options: Any) -> dict[str, Arithmetic]:
    """The work of each stage of the metric's chain, by the stage's name; of a loop, of all its turns.

    `options` are `stage_arithmetic`'s; with `names` the stages of those engines alone.
    """
    work = stage_arithmetic(metric, config, **options)
    return {
        item.stage: work[item.engine].times(item.count if isinstance(item, Loop) else 1)
        for item in metric_named(metric).chain(config)
        if item.engine in work
    }


def _dtype(tensor: TensorSpec) -> torch.dtype:
    return getattr(torch, tensor.dtype)


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of every operator's inputs and outputs. Views move nothing."""

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.operator_bytes = 0
        self.weight_bytes = 0
        self.is_inside_attention = False
        # By storage. Weights outlive the call, so no storage that the call makes can take the place of one.
        self._seen = {_storage(tensor) for tensor in inputs}

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        outputs = operator(*args, **(kwargs or {}))
        returned = operator._schema.returns
        is_view = any(value.alias_info is not None and not value.alias_info.is_write for value in returned)
        if not is_view:
            self.add(read=(args, kwargs), written=outputs)
        return outputs

    def add(self, read: Any, written: Any) -> None:
        for tensor in _tensors(read):
            # What nobody has made is a weight. All that a storage holds is read in the end, if view by view.
            if _storage(tensor) not in self._seen:
                self._seen.add(_storage(tensor))
                self.weight_bytes += tensor.untyped_storage().nbytes()
        self._seen |= {_storage(tensor) for tensor in _tensors(written)}
        if not self.is_inside_attention:
            self.operator_bytes += _size(read) + _size(written)


class _WholeAttention(TorchFunctionMode):
    """Counts attention as one operator, as runtimes have it: on the meta device torch shows the L×L matrix."""

    def __init__(self, traffic: _Traffic) -> None:
        super().__init__()
        self._traffic = traffic

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is not F.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        self._traffic.is_inside_attention = True
        attended = function(*args, **(kwargs or {}))
        self._traffic.is_inside_attention = False
        self._traffic.add(read=(args, kwargs), written=attended)
        return attended


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _size(tree: Any) -> int:
    """Bytes of all tensors; of one that was expanded, those that it has."""
    return sum(min(tensor.nbytes, tensor.untyped_storage().nbytes()) for tensor in _tensors(tree))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
