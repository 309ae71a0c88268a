"""The pieces that the scan's Triton kernels are made of.

A program walks its tokens in tiles of TILE. Values of channels are [TILE, BLOCK_D], of states [TILE, BLOCK_N], and a
state is [BLOCK_N, BLOCK_D]. All of them are float32 whatever lies in memory.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def advance(a_first, x_first, a_second, x_second):
    """Two steps h ← a h + x after one another, as one."""
    return a_first * a_second, x_first * a_second + x_second


@triton.jit
def softplus(x):
    """log(1 + exp(x)) to float32's precision, also where it is small: log1p(t) = 2 atanh(t / (2 + t)) as a series."""
    t = tl.exp(-tl.abs(x))
    s = t / (2.0 + t)
    s2 = s * s
    series = 1.0 / 13.0
    series = series * s2 + 1.0 / 11.0
    series = series * s2 + 1.0 / 9.0
    series = series * s2 + 1.0 / 7.0
    series = series * s2 + 1.0 / 5.0
    series = series * s2 + 1.0 / 3.0
    series = series * s2 + 1.0
    return tl.maximum(x, 0.0) + 2.0 * s * series


@triton.jit
def last_step(x, TILE: tl.constexpr):
    """Row TILE − 1 of [TILE, …]; within a thread the mask is a constant and nothing is left to compute."""
    is_last = (tl.arange(0, TILE) == TILE - 1)[:, None, None]
    return tl.sum(tl.where(is_last, x, 0.0), axis=0)


@triton.jit
def tile_tokens(chunk, start, reverse, CHUNK: tl.constexpr, TILE: tl.constexpr):
    """The tokens of a tile in the order of the scan, [TILE], from the `start`-th step of a chunk on."""
    t = tl.arange(0, TILE)
    return chunk * CHUNK + tl.where(reverse, CHUNK - 1 - start - t, start + t)


@triton.jit
def load_tile(rows, token, columns, mask):
    """[TILE, columns] in float32, 0 where masked; `rows` is a pointer and its strides along tokens and columns."""
    ptr, stride_length, stride_column = rows
    ptrs = ptr + token[:, None] * stride_length + columns[None, :] * stride_column
    return tl.load(ptrs, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_tile(rows, token, columns, x, mask):
    """Write [TILE, columns] in the memory's dtype; `rows` as in `load_tile`."""
    ptr, stride_length, stride_column = rows
    ptrs = ptr + token[:, None] * stride_length + columns[None, :] * stride_column
    tl.store(ptrs, x.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def load_step(delta_rows, bias, token, channels, mask):
    """`delta` with its bias, and Δ, [TILE, BLOCK_D]; Δ = 0 where masked: such a step leaves the state as it is."""
    raw = load_tile(delta_rows, token, channels, mask) + bias[None, :]
    return raw, tl.where(mask, softplus(raw), 0.0)


@triton.jit
def scan_tile(decay, added, h, TILE: tl.constexpr):
    """The states after each step of a tile, [TILE, BLOCK_N, BLOCK_D], from the state `h` before it."""
    is_first = (tl.arange(0, TILE) == 0)[:, None, None]
    added += tl.where(is_first, decay * h[None, :, :], 0.0)
    _, states = tl.associative_scan((decay, added), 0, advance)
    return states


@triton.jit
def load_weights(A_ptr, delta_bias_ptr, direction, channels, n, dim, d_state):
    """A · log2(e), [BLOCK_N, BLOCK_D], and the bias of Δ, [BLOCK_D]."""
    mask = (n < d_state)[:, None] & (channels < dim)[None, :]
    offsets = (direction * dim + channels)[None, :] * d_state + n[:, None]
    A = tl.load(A_ptr + offsets, mask=mask, other=0.0).to(tl.float32) * LOG2_E
    bias = tl.load(delta_bias_ptr + direction * dim + channels, mask=channels < dim, other=0.0).to(tl.float32)
    return A, bias


@triton.jit
def load_carried(states_ptr, group, chunk, chunks, channels, n, dim, d_state):
    """The state after a chunk, [BLOCK_N, BLOCK_D]; zero for a chunk that does not exist, before the first or last."""
    # A comparison of vectors: the interpreter does not take the conjunction with a scalar as a mask.
    existing_d_state = tl.where((chunk >= 0) & (chunk < chunks), d_state, 0)
    mask = (n < existing_d_state)[:, None] & (channels < dim)[None, :]
    offsets = ((group * chunks + chunk) * d_state + n[:, None]) * dim + channels[None, :]
    return tl.load(states_ptr + offsets, mask=mask, other=0.0)
