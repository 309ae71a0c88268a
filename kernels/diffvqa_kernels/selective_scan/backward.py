"""The selective scan's backward as Triton kernels; nothing but the forward's inputs is kept for it.

With g_k = ∂L/∂y_k, the adjoint runs against the scan: λ_k = C_k g_k + μ_{k+1} with μ_k = exp(Δ_k A) ∘ λ_k, and

    ∂u_k = Δ_k (B_k · λ_k) + D g_k            ∂Δ_k = A · (μ_k ∘ h_{k−1}) + u_k (B_k · λ_k)
    ∂B_k = Σ_d Δ_k u_k λ_k                    ∂C_k = Σ_d g_k h_k            ∂A = Σ_k Δ_k μ_k ∘ h_{k−1}

Forward states and adjoints at the borders of short chunks come from the forward's own kernels. `_chunk_gradients` then
takes a chunk's tiles against the scan, each with its states recomputed from the chunk's start. Sums over channels and
over chunks are written as partial sums and added up by torch: no atomics, so gradients are deterministic.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffvqa_kernels.selective_scan.forward import chunk_states, contiguous_weights
from diffvqa_kernels.selective_scan.gate import gradient_of_gate, gradient_of_scan
from diffvqa_kernels.selective_scan.inputs import ScanInputs
from diffvqa_kernels.selective_scan.tiles import (
    last_step,
    load_carried,
    load_step,
    load_tile,
    load_weights,
    scan_tile,
    store_tile,
    tile_tokens,
)
from diffvqa_kernels.selective_scan.tuning import INTERPRETED, MAX_REGISTERS, lanes

# Four tiles: recomputing the states before a tile costs 1.5 more exponentials a token on average, and the states at the
# borders take d_state / 16 of the inputs' float32 size.
CHUNK = 16
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def advance_keeping(a_first, x_first, ab_first, xb_first, a_second, x_second, ab_second, xb_second):
    """`advance`, and beside it the map up to just before the last step: it gives each step the state it starts from."""
    return (
        a_first * a_second,
        x_first * a_second + x_second,
        a_first * ab_second,
        x_first * ab_second + xb_second,
    )


@triton.jit
def _chunk_gradients(
    u_ptr,
    delta_ptr,
    A_ptr,
    B_ptr,
    C_ptr,
    D_ptr,
    delta_bias_ptr,
    grad_y_ptr,
    states_ptr,
    adjoints_ptr,
    y_ptr,
    grad_u_ptr,
    grad_delta_ptr,
    grad_A_ptr,
    grad_B_ptr,
    grad_C_ptr,
    dim,
    d_state,
    length,
    u_batch,
    u_direction,
    u_dim,
    u_length,
    delta_batch,
    delta_direction,
    delta_dim,
    delta_length,
    B_batch,
    B_direction,
    B_state,
    B_length,
    C_batch,
    C_direction,
    C_state,
    C_length,
    grad_y_batch,
    grad_y_dim,
    grad_y_length,
    grad_u_batch,
    grad_u_direction,
    grad_u_dim,
    grad_u_length,
    grad_delta_batch,
    grad_delta_direction,
    grad_delta_dim,
    grad_delta_length,
    CHUNK: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """grad_u, grad_delta and y (before the gate; [batch, directions, length, dim]), and float32 partial sums.

    grad_A [batch, directions, chunks, d_state, dim]; grad_B, grad_C [dim blocks, batch, directions, length, d_state].
    """
    chunk = tl.program_id(0).to(tl.int64)
    group = tl.program_id(2).to(tl.int64)
    row = group // 2
    direction = group % 2
    reverse = direction == 1
    channels = tl.program_id(1).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    t = tl.arange(0, TILE)
    in_dim = channels < dim
    in_state = n < d_state
    A, bias = load_weights(A_ptr, delta_bias_ptr, direction, channels, n, dim, d_state)
    D = tl.load(D_ptr + direction * dim + channels, mask=in_dim, other=0.0).to(tl.float32)

    u_rows = (u_ptr + row * u_batch + direction * u_direction, u_length, u_dim)
    delta_rows = (delta_ptr + row * delta_batch + direction * delta_direction, delta_length, delta_dim)
    B_rows = (B_ptr + row * B_batch + direction * B_direction, B_length, B_state)
    C_rows = (C_ptr + row * C_batch + direction * C_direction, C_length, C_state)
    grad_y_rows = (grad_y_ptr + row * grad_y_batch, grad_y_length, grad_y_dim)
    grad_u_row = grad_u_ptr + row * grad_u_batch + direction * grad_u_direction
    grad_u_rows = (grad_u_row, grad_u_length, grad_u_dim)
    grad_delta_row = grad_delta_ptr + row * grad_delta_batch + direction * grad_delta_direction
    grad_delta_rows = (grad_delta_row, grad_delta_length, grad_delta_dim)
    y_rows = (y_ptr + group * length * dim, dim, 1)
    partial = (tl.program_id(1).to(tl.int64) * tl.num_programs(2) + group) * length * d_state
    grad_B_rows = (grad_B_ptr + partial, d_state, 1)
    grad_C_rows = (grad_C_ptr + partial, d_state, 1)

    chunks = tl.num_programs(0)
    before = tl.where(reverse, chunk + 1, chunk - 1)
    after = tl.where(reverse, chunk - 1, chunk + 1)
    h_start = load_carried(states_ptr, group, before, chunks, channels, n, dim, d_state)
    mu = load_carried(adjoints_ptr, group, after, chunks, channels, n, dim, d_state)
    grad_A = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for start in range(CHUNK - TILE, -1, -TILE):
        h = h_start
        for earlier in range(0, start, TILE):
            token = tile_tokens(chunk, earlier, reverse, CHUNK, TILE)
            in_length = token < length
            mask = in_length[:, None] & in_dim[None, :]
            _, step = load_step(delta_rows, bias, token, channels, mask)
            u = load_tile(u_rows, token, channels, mask)
            B = load_tile(B_rows, token, n, in_length[:, None] & in_state[None, :])
            decay = tl.exp2(step[:, None, :] * A[None, :, :])
            h = last_step(scan_tile(decay, (step * u)[:, None, :] * B[:, :, None], h, TILE), TILE)

        token = tile_tokens(chunk, start, reverse, CHUNK, TILE)
        in_length = token < length
        mask = in_length[:, None] & in_dim[None, :]
        state_mask = in_length[:, None] & in_state[None, :]
        raw, step = load_step(delta_rows, bias, token, channels, mask)
        u = load_tile(u_rows, token, channels, mask)
        grad_y = load_tile(grad_y_rows, token, channels, mask)
        B = load_tile(B_rows, token, n, state_mask)
        C = load_tile(C_rows, token, n, state_mask)

        decay = tl.exp2(step[:, None, :] * A[None, :, :])  # [TILE, BLOCK_N, BLOCK_D]
        ones = tl.full((TILE, BLOCK_N, BLOCK_D), 1.0, tl.float32)
        first = tl.where((t == 0)[:, None, None], h[None, :, :], 0.0)
        added = (step * u)[:, None, :] * B[:, :, None]
        _, states, _, states_before = tl.associative_scan(
            (decay, added + decay * first, ones, first), 0, advance_keeping
        )
        last = tl.where((t == TILE - 1)[:, None, None], mu[None, :, :], 0.0)
        emitted = grad_y[:, None, :] * C[:, :, None]
        _, mus, _, mus_after = tl.associative_scan(
            (decay, decay * (emitted + last), ones, last), 0, advance_keeping, reverse=True
        )
        mu = tl.sum(tl.where((t == 0)[:, None, None], mus, 0.0), axis=0)
        adjoint = emitted + mus_after
        through_decay = mus * states_before

        through_B = tl.sum(adjoint * B[:, :, None], axis=1)  # [TILE, BLOCK_D]
        grad_step = tl.sum(through_decay * A[None, :, :], axis=1) * LN_2 + u * through_B
        grad_delta = grad_step / (1.0 + tl.exp(-raw))
        grad_u = step * through_B + D[None, :] * grad_y
        y = tl.sum(states * C[:, :, None], axis=1) + D[None, :] * u
        grad_A += tl.sum(through_decay * step[:, None, :], axis=0)
        grad_B = tl.sum(adjoint * (step * u)[:, None, :], axis=2)  # [TILE, BLOCK_N]
        grad_C = tl.sum(states * grad_y[:, None, :], axis=2)

        store_tile(grad_u_rows, token, channels, grad_u, mask)
        store_tile(grad_delta_rows, token, channels, grad_delta, mask)
        store_tile(y_rows, token, channels, y, mask)
        store_tile(grad_B_rows, token, n, grad_B, state_mask)
        store_tile(grad_C_rows, token, n, grad_C, state_mask)

    grad_A_offsets = ((group * chunks + chunk) * d_state + n[:, None]) * dim + channels[None, :]
    tl.store(grad_A_ptr + grad_A_offsets, grad_A, mask=in_state[:, None] & in_dim[None, :])


def gradient_tile(block_n: int) -> tuple[int, int, int]:
    """TILE, BLOCK_D and warps of `_chunk_gradients`: fixed, since the partial sums' shape depends on them."""
    if INTERPRETED:
        return 4, 8, 1
    return 2, lanes(max(2 * block_n, 32)), 1


def backward(grad_out: Tensor, inputs: ScanInputs) -> ScanInputs:
    """The gradient of each input: of u and delta in their dtypes, of the others in float32."""
    inputs = contiguous_weights(inputs)
    u, delta, A, B, C, D, _, delta_bias = inputs
    batch, directions, dim, length = u.shape
    d_state = A.shape[2]
    grad_out, z = grad_out.float(), inputs.z.float()
    grad_y = gradient_of_scan(grad_out, z)
    grad_y_rows = grad_y[:, None].expand(-1, directions, -1, -1)

    with torch.cuda.device_of(u):
        chunks = triton.cdiv(length, CHUNK)
        states = chunk_states(inputs, CHUNK)
        adjoints = chunk_states(inputs._replace(u=grad_y_rows, B=C), CHUNK, adjoint=True)
        grad_u, grad_delta = torch.empty_like(u), torch.empty_like(delta)
        y = u.new_empty(batch, directions, length, dim, dtype=torch.float32)
        grad_A = torch.empty_like(states)
        block_n = triton.next_power_of_2(d_state)
        tile, block_d, num_warps = gradient_tile(block_n)
        blocks = triton.cdiv(dim, block_d)
        grad_B = u.new_empty(blocks, batch, directions, length, d_state, dtype=torch.float32)
        grad_C = torch.empty_like(grad_B)
        _chunk_gradients[chunks, blocks, batch * directions](
            *(u, delta, A, B, C, D, delta_bias, grad_y, states, adjoints),
            *(y, grad_u, grad_delta, grad_A, grad_B, grad_C),
            *(dim, d_state, length),
            *(*u.stride(), *delta.stride(), *B.stride(), *C.stride(), *grad_y.stride()),
            *(*grad_u.stride(), *grad_delta.stride()),
            CHUNK=CHUNK,
            TILE=tile,
            BLOCK_N=block_n,
            BLOCK_D=block_d,
            num_warps=num_warps,
            maxnreg=MAX_REGISTERS,
        )
    return ScanInputs(
        u=grad_u,
        delta=grad_delta,
        A=grad_A.sum((0, 2)).transpose(1, 2),
        B=grad_B.sum(0).transpose(2, 3),
        C=grad_C.sum(0).transpose(2, 3),
        D=torch.einsum("bdl,bgdl->gd", grad_y, u.float()),
        z=gradient_of_gate(grad_out, y.sum(1).transpose(1, 2), z),
        delta_bias=grad_delta.float().sum((0, 3)),
    )
