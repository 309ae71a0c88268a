"""The selective scan on the CPU as numba loops: compiled for this machine on first use, cached on disk after it.

A task is one batch row, one direction and BLOCK_D channels. It walks the tokens in TILE-sized tiles with its state
[d_state, BLOCK_D] in the first-level cache, and every inner loop runs over channels, so that it vectorises. Both
directions read natural time order. The backward stores the state before each tile and recomputes the rest.

Computes in float32. Shapes as in `chunked.py`. Tasks are shared out to plain Python threads (the loops release the
GIL) rather than to numba's own, whose default layer ends the process when two threads call it at once.
"""

from concurrent.futures import ThreadPoolExecutor

import numba
import torch
import torch.nn.functional as F
from llvmlite import ir
from numba import float32, int32
from numba.extending import intrinsic
from numpy import empty, float32 as f32, floor, int32 as i32, zeros
from torch import Tensor

# Measured on two Xeon cores with AVX-512: 32 and 128 channels, 32 and 64 tokens are within 10 % or slower.
BLOCK_D = 64
TILE = 16

_jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"})
_inlined = numba.njit(inline="always", error_model="numpy", fastmath={"contract", "nsz"})


def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    reverse: tuple[bool, ...],
) -> Tensor:
    """The sum over directions of the scan's output, gated by silu(z); [batch, dim, length] in `u`'s dtype."""
    u_32, step, A_32, B_32, C_32 = _prepared(u, delta, A, B, C, delta_bias)
    y = torch.empty_like(u_32)
    arrays = [t.numpy() for t in (u_32, step, A_32, B_32, C_32, y)]
    _run(_forward_tasks, u_32, arrays, reverse)
    total = _sum_directions(y, u_32, D)
    if z is not None:
        total *= F.silu(z.float())
    return total.to(u.dtype)


def backward(
    grad_out: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    reverse: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Gradients of (u, delta, A, B, C, D, z, delta_bias), None for what was not given."""
    u_32, step, A_32, B_32, C_32 = _prepared(u, delta, A, B, C, delta_bias)
    grad_y = grad_out.float()
    gate = None
    if z is not None:
        gate = torch.sigmoid(z.float())
        grad_y = grad_y * z.float() * gate
    grad_y = grad_y.contiguous()

    batch, directions, dim, length = u_32.shape
    d_state = A_32.shape[1]
    y = torch.empty_like(u_32)
    grad_u, grad_step = torch.empty_like(u_32), torch.empty_like(u_32)
    grad_A = u_32.new_empty(batch, directions, d_state, dim)
    partials = (-(-dim // BLOCK_D), *B_32.shape)
    grad_B, grad_C = u_32.new_empty(partials), u_32.new_empty(partials)
    arrays = (u_32, step, A_32, B_32, C_32, grad_y, y, grad_u, grad_step, grad_A, grad_B, grad_C)
    _run(_backward_tasks, u_32, [t.numpy() for t in arrays], reverse)

    grad_z = None
    if z is not None:
        z_32 = z.float()
        y_total = _sum_directions(y, u_32, D)
        grad_z = (grad_out.float() * y_total * gate * (1 + z_32 * (1 - gate))).to(z.dtype)
    grad_D = None
    if D is not None:
        grad_D = torch.einsum("bdl,bgdl->gd", grad_y, u_32).to(D.dtype)
        grad_u += grad_y[:, None] * D.float()[:, :, None]
    # d softplus(x)/dx = sigmoid(x) = 1 − exp(−softplus(x)).
    grad_delta = grad_step.mul_(-torch.expm1(-step))
    return (
        grad_u.to(u.dtype),
        grad_delta.to(delta.dtype),
        grad_A.sum(0).transpose(1, 2).to(A.dtype),
        grad_B.sum(0).transpose(2, 3).to(B.dtype),
        grad_C.sum(0).transpose(2, 3).to(C.dtype),
        grad_D,
        grad_z,
        None if delta_bias is None else grad_delta.sum((0, 3)).to(delta_bias.dtype),
    )


def _prepared(u, delta, A, B, C, delta_bias):
    """Float32, contiguous: u and Δ [batch, directions, dim, length], A [directions, d_state, dim], B, C [… length, d_state]."""
    delta = delta.float()
    if delta_bias is not None:
        delta = delta + delta_bias.float()[:, :, None]
    return (
        u.float().contiguous(),
        F.softplus(delta).contiguous(),
        A.float().transpose(1, 2).contiguous(),
        B.float().transpose(2, 3).contiguous(),
        C.float().transpose(2, 3).contiguous(),
    )


def _sum_directions(y: Tensor, u: Tensor, D: Tensor | None) -> Tensor:
    if D is not None:
        y = torch.addcmul(y, u, D.float()[:, :, None])
    return y.sum(1)


def _run(tasks, u: Tensor, arrays: list, reverse: tuple[bool, ...]) -> None:
    """Share the tasks out to as many threads as torch itself would use."""
    batch, directions, dim, _ = u.shape
    count = batch * directions * -(-dim // BLOCK_D)
    threads = min(torch.get_num_threads(), count)
    arguments = (*arrays, bool(reverse[0]), bool(reverse[-1]))
    if threads <= 1:
        tasks(0, 1, *arguments)
        return
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(tasks, i, threads, *arguments) for i in range(threads)]:
            future.result()


@intrinsic
def _float_of_bits(context, bits):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return float32(int32), generate


@_inlined
def _exp(x):
    """exp(x) to 2e-7 relative, branch-free so that LLVM vectorises it; 0 below exp(−88), +inf above exp(88)."""
    t = x * f32(1.4426950408889634)
    t = f32(-127.0) if t < f32(-127.0) else t
    t = f32(128.0) if t > f32(128.0) else t
    whole = floor(t + f32(0.5))
    f = t - whole
    # Minimax polynomial of 2^f on [−0.5, 0.5].
    p = f32(1.5403530e-4)
    p = p * f + f32(1.3333558e-3)
    p = p * f + f32(9.6181291e-3)
    p = p * f + f32(5.5504109e-2)
    p = p * f + f32(2.4022651e-1)
    p = p * f + f32(6.9314718e-1)
    p = p * f + f32(1.0)
    return p * _float_of_bits((i32(whole) + i32(127)) << i32(23))


@_inlined
def _place(task, blocks, directions):
    """The batch row, the direction and the block of channels of a task."""
    return task // (blocks * directions), (task // blocks) % directions, task % blocks


@_inlined
def _load_tile(source, row, direction, first_channel, width, first_token, tokens, tile):
    for j in range(width):
        for k in range(tokens):
            tile[k, j] = source[row, direction, first_channel + j, first_token + k]


@_inlined
def _store_tile(tile, width, tokens, target, row, direction, first_channel, first_token):
    for j in range(width):
        for k in range(tokens):
            target[row, direction, first_channel + j, first_token + k] = tile[k, j]


@_jit
def _forward_tasks(first_task, stride, u, step, A, B, C, y, reverse_first, reverse_second):
    batch, directions, dim, length = u.shape
    d_state = A.shape[1]
    blocks = (dim + BLOCK_D - 1) // BLOCK_D
    tiles = (length + TILE - 1) // TILE
    a = zeros((d_state, BLOCK_D), f32)
    h = empty((d_state, BLOCK_D), f32)
    steps, inputs = zeros((TILE, BLOCK_D), f32), zeros((TILE, BLOCK_D), f32)
    outputs = empty((TILE, BLOCK_D), f32)
    for task in range(first_task, batch * directions * blocks, stride):
        row, direction, block = _place(task, blocks, directions)
        reverse = reverse_first if direction == 0 else reverse_second
        channel = block * BLOCK_D
        width = min(BLOCK_D, dim - channel)
        a[:, :width] = A[direction, :, channel : channel + width]
        steps[:, :] = f32(0)
        inputs[:, :] = f32(0)
        h[:, :] = f32(0)
        for tile in range(tiles):
            token = (tiles - 1 - tile if reverse else tile) * TILE
            tokens = min(TILE, length - token)
            _load_tile(step, row, direction, channel, width, token, tokens, steps)
            _load_tile(u, row, direction, channel, width, token, tokens, inputs)
            for position in range(tokens):
                k = tokens - 1 - position if reverse else position
                for j in range(BLOCK_D):
                    inputs[k, j] *= steps[k, j]
                    outputs[k, j] = f32(0)
                for i in range(d_state):
                    b = B[row, direction, token + k, i]
                    c = C[row, direction, token + k, i]
                    for j in range(BLOCK_D):
                        state = _exp(steps[k, j] * a[i, j]) * h[i, j] + inputs[k, j] * b
                        h[i, j] = state
                        outputs[k, j] += c * state
            _store_tile(outputs, width, tokens, y, row, direction, channel, token)


@_jit
def _backward_tasks(
    first_task, stride, u, step, A, B, C, grad_y, y, grad_u, grad_step, grad_A, grad_B, grad_C, reverse_first, reverse_second
):
    batch, directions, dim, length = u.shape
    d_state = A.shape[1]
    blocks = (dim + BLOCK_D - 1) // BLOCK_D
    tiles = (length + TILE - 1) // TILE
    a, grad_a = zeros((d_state, BLOCK_D), f32), empty((d_state, BLOCK_D), f32)
    starts = empty((tiles + 1, d_state, BLOCK_D), f32)
    states, decays = empty((TILE + 1, d_state, BLOCK_D), f32), empty((TILE, d_state, BLOCK_D), f32)
    carry = empty((d_state, BLOCK_D), f32)
    steps, inputs, upstream = (zeros((TILE, BLOCK_D), f32), zeros((TILE, BLOCK_D), f32), zeros((TILE, BLOCK_D), f32))
    outputs, grad_inputs, grad_steps = empty((TILE, BLOCK_D), f32), empty((TILE, BLOCK_D), f32), empty((TILE, BLOCK_D), f32)
    through_B = empty(BLOCK_D, f32)
    for task in range(first_task, batch * directions * blocks, stride):
        row, direction, block = _place(task, blocks, directions)
        reverse = reverse_first if direction == 0 else reverse_second
        channel = block * BLOCK_D
        width = min(BLOCK_D, dim - channel)
        a[:, :width] = A[direction, :, channel : channel + width]
        steps[:, :] = f32(0)
        inputs[:, :] = f32(0)
        upstream[:, :] = f32(0)

        starts[0] = f32(0)
        for tile in range(tiles):
            token = (tiles - 1 - tile if reverse else tile) * TILE
            tokens = min(TILE, length - token)
            _load_tile(step, row, direction, channel, width, token, tokens, steps)
            _load_tile(u, row, direction, channel, width, token, tokens, inputs)
            starts[tile + 1] = starts[tile]
            h = starts[tile + 1]
            for position in range(tokens):
                k = tokens - 1 - position if reverse else position
                for j in range(BLOCK_D):
                    outputs[k, j] = f32(0)
                for i in range(d_state):
                    b = B[row, direction, token + k, i]
                    c = C[row, direction, token + k, i]
                    for j in range(BLOCK_D):
                        state = _exp(steps[k, j] * a[i, j]) * h[i, j] + steps[k, j] * inputs[k, j] * b
                        h[i, j] = state
                        outputs[k, j] += c * state
            _store_tile(outputs, width, tokens, y, row, direction, channel, token)

        carry[:, :] = f32(0)
        grad_a[:, :] = f32(0)
        for tile in range(tiles - 1, -1, -1):
            token = (tiles - 1 - tile if reverse else tile) * TILE
            tokens = min(TILE, length - token)
            _load_tile(step, row, direction, channel, width, token, tokens, steps)
            _load_tile(u, row, direction, channel, width, token, tokens, inputs)
            for j in range(width):
                for k in range(tokens):
                    upstream[k, j] = grad_y[row, channel + j, token + k]
            states[0] = starts[tile]
            for position in range(tokens):
                k = tokens - 1 - position if reverse else position
                for i in range(d_state):
                    b = B[row, direction, token + k, i]
                    for j in range(BLOCK_D):
                        decay = _exp(steps[k, j] * a[i, j])
                        decays[position, i, j] = decay
                        states[position + 1, i, j] = decay * states[position, i, j] + steps[k, j] * inputs[k, j] * b
            for position in range(tokens - 1, -1, -1):
                k = tokens - 1 - position if reverse else position
                for j in range(BLOCK_D):
                    through_B[j] = f32(0)
                    grad_steps[k, j] = f32(0)
                for i in range(d_state):
                    b = B[row, direction, token + k, i]
                    c = C[row, direction, token + k, i]
                    sum_b = f32(0)
                    sum_c = f32(0)
                    for j in range(BLOCK_D):
                        adjoint = upstream[k, j] * c + carry[i, j]
                        kept = decays[position, i, j] * adjoint
                        carry[i, j] = kept
                        through_decay = kept * states[position, i, j]
                        grad_a[i, j] += through_decay * steps[k, j]
                        grad_steps[k, j] += through_decay * a[i, j]
                        through_B[j] += adjoint * b
                        sum_b += adjoint * steps[k, j] * inputs[k, j]
                        sum_c += upstream[k, j] * states[position + 1, i, j]
                    grad_B[block, row, direction, token + k, i] = sum_b
                    grad_C[block, row, direction, token + k, i] = sum_c
                for j in range(BLOCK_D):
                    grad_inputs[k, j] = steps[k, j] * through_B[j]
                    grad_steps[k, j] += inputs[k, j] * through_B[j]
            _store_tile(grad_inputs, width, tokens, grad_u, row, direction, channel, token)
            _store_tile(grad_steps, width, tokens, grad_step, row, direction, channel, token)
        for i in range(d_state):
            for j in range(width):
                grad_A[row, direction, i, channel + j] = grad_a[i, j]
