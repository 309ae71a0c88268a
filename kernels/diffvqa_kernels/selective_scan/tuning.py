"""The tile shapes of the kernels, the tuner that times them, and the launch that remembers its choice."""

import os

import torch
import triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# Without a limit ptxas aims at a higher occupancy than a sequence in chunks can fill, and spills a few bytes for it.
MAX_REGISTERS = 255


def lanes(block_n: int) -> int:
    """Lanes of a warp that lie along channels: a thread then holds 16 states of a channel, or all there are."""
    return max(8, min(32, 512 // block_n))


def prune(candidates: list[triton.Config], named_args: dict, **meta) -> list[triton.Config]:
    """The configurations that split d_state over lanes in the one way that goes with it: sums keep their order."""
    width = lanes(meta["BLOCK_N"])
    return [c for c in candidates if c.kwargs["BLOCK_D"] == width * c.num_warps and (c.num_warps == 1 or width == 32)]


def tile_configs() -> list[triton.Config]:
    """The tile shapes to choose from. A tile leaves a thread at most 64 elements; twice as many spill."""
    shapes = [(4, 32, 1), (2, 32, 1), (4, 64, 2), (4, 16, 1), (2, 16, 1), (4, 8, 1), (2, 8, 1)]
    if INTERPRETED:
        # The interpreter can time nothing and pays for every element of a scan: one small tile.
        shapes = [(4, 8, 1)]
    return [
        triton.Config({"TILE": tile, "BLOCK_D": block_d}, num_warps=warps, maxnreg=MAX_REGISTERS)
        for tile, block_d, warps in shapes
    ]


def autotuned(kernel):
    """Times the configurations once per (dim, d_state, dtype) and GPU, and keeps the choice in Triton's disk cache.

    Batch and length are not part of the key: the same video scores the same whatever it is batched with. Launched by
    `launch_tuned`.
    """
    return triton.autotune(
        tile_configs(),
        key=["dim", "BLOCK_N"],
        prune_configs_by=None if INTERPRETED else {"early_config_prune": prune},
        cache_results=not INTERPRETED,
    )(kernel)


_chosen: dict[tuple, dict] = {}


def launchable(kernel, is_traced: bool):
    """The kernel, or what leaves its launch as a node in the graph that is being traced."""
    # The interpreter's kernels run as they are: they can't be compiled into a graph.
    return torch.library.wrap_triton(kernel) if is_traced and not INTERPRETED else kernel


def launch_tuned(kernel, grid, arguments: tuple, *, is_traced: bool, dim: int, **constants) -> None:
    """Launch in the tile shape that the tuner chose for the first such launch; later ones skip the tuner's overhead.

    A traced launch has all of the tuner's tile shapes in its node, for Inductor to choose from.
    """
    if is_traced:
        launchable(kernel, is_traced)[grid](*arguments, **constants)
        return
    key = (kernel, arguments[0].device, arguments[0].dtype, dim, constants["BLOCK_N"])
    if (config := _chosen.get(key)) is not None:
        kernel.fn[grid](*arguments, **constants, **config)
        return
    kernel[grid](*arguments, **constants)
    _chosen[key] = kernel.best_config.all_kwargs()
