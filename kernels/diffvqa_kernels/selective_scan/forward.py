"""The selective scan's forward as Triton kernels: three launches for both directions, nothing flipped or padded.

    h_k = exp(Δ_k A) ∘ h_{k−1} + (Δ_k u_k) B_k        y_k = C_k · h_k + D u_k        out = Σ_directions y ∘ silu(z)

The sequence is cut into chunks of CHUNK tokens so that a small batch still fills the GPU:

    1. `_chunk_states`   each chunk's state after it, starting from zero, and its ΣΔ: all chunks in parallel;
    2. `_carry_states`   the same states with what earlier chunks carry in: h ← exp(ΣΔ A) ∘ h + chunk state;
    3. `_chunk_outputs`  each chunk's outputs from its carried state: one program runs both directions, adds and gates.

A state tile is [TILE, BLOCK_N, BLOCK_D] with channels across lanes and the other axes within a thread, so the scan over
TILE and the sum over d_state are plain register arithmetic. The backward direction reads the same natural order with
reversed addresses. Only CHUNK changes the order of the arithmetic, so it is fixed and results don't depend on tuning.

Shapes as in `ScanInputs`; any strides, fastest with the channel axis contiguous. State and arithmetic are float32.
Kernel arguments come as inputs, integers, outputs, constants: the order in which TensorRT's plugins pass them.
"""

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffvqa_kernels.selective_scan.inputs import ScanInputs
from diffvqa_kernels.selective_scan.tiles import (
    LOG2_E,
    advance,
    last_step,
    load_carried,
    load_step,
    load_tile,
    load_weights,
    scan_tile,
    store_tile,
    tile_tokens,
)
from diffvqa_kernels.selective_scan.tuning import INTERPRETED, autotuned, launch_tuned, launchable

# Short in the interpreter, so that small tests cross its borders.
CHUNK = 16 if INTERPRETED else 64
CARRY_BLOCK_CHUNKS, CARRY_BLOCK_D = 64, 32


@autotuned
@triton.jit
def _chunk_states(
    u_ptr,
    delta_ptr,
    A_ptr,
    B_ptr,
    delta_bias_ptr,
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
    states_ptr,
    step_sums_ptr,
    ADJOINT: tl.constexpr,
    CHUNK: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """states [batch, directions, chunks, d_state, dim] and step_sums [batch, directions, chunks, dim], float32.

    With ADJOINT, `u` is the gradient of y and `B` is C, and the recurrence is the adjoint's, μ ← exp(Δ A) ∘ (C g + μ),
    against the scan.
    """
    chunk = tl.program_id(0).to(tl.int64)
    group = tl.program_id(2).to(tl.int64)
    row = group // 2
    direction = group % 2
    reverse = (direction == 1) ^ ADJOINT
    channels = tl.program_id(1).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    in_dim = channels < dim
    in_state = n < d_state
    A, bias = load_weights(A_ptr, delta_bias_ptr, direction, channels, n, dim, d_state)

    u_rows = (u_ptr + row * u_batch + direction * u_direction, u_length, u_dim)
    delta_rows = (delta_ptr + row * delta_batch + direction * delta_direction, delta_length, delta_dim)
    B_rows = (B_ptr + row * B_batch + direction * B_direction, B_length, B_state)
    h = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    step_sum = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(0, CHUNK, TILE):
        token = tile_tokens(chunk, start, reverse, CHUNK, TILE)
        in_length = token < length
        mask = in_length[:, None] & in_dim[None, :]
        _, step = load_step(delta_rows, bias, token, channels, mask)
        u = load_tile(u_rows, token, channels, mask)
        B = load_tile(B_rows, token, n, in_length[:, None] & in_state[None, :])

        decay = tl.exp2(step[:, None, :] * A[None, :, :])  # [TILE, BLOCK_N, BLOCK_D]
        added = (u if ADJOINT else step * u)[:, None, :] * B[:, :, None]
        if ADJOINT:
            added *= decay
        h = last_step(scan_tile(decay, added, h, TILE), TILE)
        step_sum += tl.sum(step, axis=0)

    chunk_index = group * tl.num_programs(0) + chunk
    state_ptrs = states_ptr + (chunk_index * d_state + n[:, None]) * dim + channels[None, :]
    tl.store(state_ptrs, h, mask=in_state[:, None] & in_dim[None, :])
    tl.store(step_sums_ptr + chunk_index * dim + channels, step_sum, mask=in_dim)


@triton.jit
def _carry_states(
    states_ptr,
    step_sums_ptr,
    A_ptr,
    chunks,
    dim,
    d_state,
    carried_ptr,
    ADJOINT: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """From each chunk's own state, the state after it with everything that came before; `carried` may be `states`."""
    group = tl.program_id(2).to(tl.int64)
    direction = group % 2
    reverse = (direction == 1) ^ ADJOINT
    n = tl.program_id(1)
    channels = tl.program_id(0).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    in_dim = channels < dim
    A_ptrs = A_ptr + (direction * dim + channels) * d_state + n
    A = tl.load(A_ptrs, mask=in_dim, other=0.0).to(tl.float32) * LOG2_E

    c = tl.arange(0, BLOCK_CHUNKS)
    h = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(0, chunks, BLOCK_CHUNKS):
        order = start + c
        chunk = group * chunks + tl.where(reverse, chunks - 1 - order, order)
        mask = (order < chunks)[:, None] & in_dim[None, :]
        offsets = (chunk[:, None] * d_state + n) * dim + channels[None, :]
        state = tl.load(states_ptr + offsets, mask=mask, other=0.0)
        step_sum = tl.load(step_sums_ptr + chunk[:, None] * dim + channels[None, :], mask=mask, other=0.0)
        decay = tl.exp2(step_sum * A[None, :])
        state += tl.where((c == 0)[:, None], decay * h[None, :], 0.0)
        _, carried = tl.associative_scan((decay, state), 0, advance)
        tl.store(carried_ptr + offsets, carried, mask=mask)
        h = tl.sum(tl.where((c == BLOCK_CHUNKS - 1)[:, None], carried, 0.0), axis=0)


@autotuned
@triton.jit
def _chunk_outputs(
    u_ptr,
    delta_ptr,
    A_ptr,
    B_ptr,
    C_ptr,
    D_ptr,
    z_ptr,
    delta_bias_ptr,
    states_ptr,
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
    z_batch,
    z_dim,
    z_length,
    out_batch,
    out_dim,
    out_length,
    partial_ptr,
    out_ptr,
    CHUNK: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """out [batch, dim, length]; the first direction leaves its y in float32 `partial`, strides as `out`."""
    chunk = tl.program_id(0).to(tl.int64)
    row = tl.program_id(2).to(tl.int64)
    channels = tl.program_id(1).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    in_dim = channels < dim
    in_state = n < d_state
    z_rows = (z_ptr + row * z_batch, z_length, z_dim)
    partial_rows = (partial_ptr + row * out_batch, out_length, out_dim)
    out_rows = (out_ptr + row * out_batch, out_length, out_dim)

    for direction in tl.static_range(2):
        A, bias = load_weights(A_ptr, delta_bias_ptr, direction, channels, n, dim, d_state)
        D = tl.load(D_ptr + direction * dim + channels, mask=in_dim, other=0.0).to(tl.float32)
        before = chunk + 1 if direction == 1 else chunk - 1
        group = row * 2 + direction
        h = load_carried(states_ptr, group, before, tl.num_programs(0), channels, n, dim, d_state)
        u_rows = (u_ptr + row * u_batch + direction * u_direction, u_length, u_dim)
        delta_rows = (delta_ptr + row * delta_batch + direction * delta_direction, delta_length, delta_dim)
        B_rows = (B_ptr + row * B_batch + direction * B_direction, B_length, B_state)
        C_rows = (C_ptr + row * C_batch + direction * C_direction, C_length, C_state)
        for start in range(0, CHUNK, TILE):
            token = tile_tokens(chunk, start, direction == 1, CHUNK, TILE)
            in_length = token < length
            mask = in_length[:, None] & in_dim[None, :]
            state_mask = in_length[:, None] & in_state[None, :]
            _, step = load_step(delta_rows, bias, token, channels, mask)
            u = load_tile(u_rows, token, channels, mask)
            B = load_tile(B_rows, token, n, state_mask)
            C = load_tile(C_rows, token, n, state_mask)

            decay = tl.exp2(step[:, None, :] * A[None, :, :])  # [TILE, BLOCK_N, BLOCK_D]
            states = scan_tile(decay, (step * u)[:, None, :] * B[:, :, None], h, TILE)
            h = last_step(states, TILE)
            y = tl.sum(states * C[:, :, None], axis=1) + D[None, :] * u  # [TILE, BLOCK_D]

            if direction == 0:
                store_tile(partial_rows, token, channels, y, mask)
            else:
                y += load_tile(partial_rows, token, channels, mask)
                z = load_tile(z_rows, token, channels, mask)
                store_tile(out_rows, token, channels, y * (z / (1.0 + tl.exp(-z))), mask)
        if direction == 0:
            # The other direction meets the same tokens in the other order, maybe in another thread of this program.
            tl.debug_barrier()


def forward(inputs: ScanInputs, *, is_traced: bool = False) -> Tensor:
    """The sum over directions of the scan's output, gated by silu(z); strides as `z`, dtype as `u`.

    With `is_traced` the launches become nodes of the graph that is being traced.
    """
    inputs = contiguous_weights(inputs)
    u, delta, A, B, C, _, z, _ = inputs
    batch, _, dim, length = u.shape
    # An integer also where it is traced as a dynamic size, since the tile depends on it.
    d_state = int(A.shape[2])
    out = torch.empty_like(z, dtype=u.dtype)
    # Functionalisation, which traced launches go through, takes two arguments that a kernel writes for two tensors.
    can_share = out.dtype == torch.float32 and not is_traced
    partial = out if can_share else torch.empty_like(out, dtype=torch.float32)
    with nullcontext() if is_traced else torch.cuda.device_of(u):
        states = chunk_states(inputs, CHUNK, is_traced=is_traced)
        grid = lambda meta: (triton.cdiv(length, CHUNK), triton.cdiv(dim, meta["BLOCK_D"]), batch)  # noqa: E731
        arguments = (
            *(*inputs, states),
            *(dim, d_state, length),
            *(*u.stride(), *delta.stride(), *B.stride(), *C.stride(), *z.stride(), *out.stride()),
            *(partial, out),
        )
        launch_tuned(
            _chunk_outputs,
            grid,
            arguments,
            is_traced=is_traced,
            dim=dim,
            CHUNK=CHUNK,
            BLOCK_N=triton.next_power_of_2(d_state),
        )
    return out


def contiguous_weights(inputs: ScanInputs) -> ScanInputs:
    A, D, delta_bias = (t.contiguous() for t in (inputs.A, inputs.D, inputs.delta_bias))
    return inputs._replace(A=A, D=D, delta_bias=delta_bias)


def chunk_states(inputs: ScanInputs, chunk_length: int, *, adjoint: bool = False, is_traced: bool = False) -> Tensor:
    """The state after each chunk with all before it carried in, float32 [batch, directions, chunks, d_state, dim].

    With `adjoint` the adjoint's: `u` is then the gradient of y, and `B` is C.
    """
    u, delta, A, B, _, _, _, delta_bias = inputs
    batch, directions, dim, length = delta.shape
    d_state = int(A.shape[2])
    chunks = triton.cdiv(length, chunk_length)
    states = u.new_empty(batch, directions, chunks, d_state, dim, dtype=torch.float32)
    step_sums = u.new_empty(batch, directions, chunks, dim, dtype=torch.float32)
    grid = lambda meta: (chunks, triton.cdiv(dim, meta["BLOCK_D"]), batch * directions)  # noqa: E731
    arguments = (
        *(u, delta, A, B, delta_bias),
        *(dim, d_state, length),
        *(*u.stride(), *delta.stride(), *B.stride()),
        *(states, step_sums),
    )
    launch_tuned(
        _chunk_states,
        grid,
        arguments,
        is_traced=is_traced,
        dim=dim,
        ADJOINT=adjoint,
        CHUNK=chunk_length,
        BLOCK_N=triton.next_power_of_2(d_state),
    )
    launchable(_carry_states, is_traced)[triton.cdiv(dim, CARRY_BLOCK_D), d_state, batch * directions](
        *(states, step_sums, A),
        *(chunks, dim, d_state),
        states,
        ADJOINT=adjoint,
        BLOCK_CHUNKS=CARRY_BLOCK_CHUNKS,
        BLOCK_D=CARRY_BLOCK_D,
        num_warps=1,
    )
    return states
