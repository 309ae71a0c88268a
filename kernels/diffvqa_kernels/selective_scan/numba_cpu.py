"""The selective scan on the CPU as numba loops: compiled for this machine on first use, cached on disk after it.

A task is one batch row, one direction and BLOCK_D channels. It walks the tokens in TILE-sized tiles with its state
[d_state, BLOCK_D] in the first-level cache, and every inner loop runs over channels, so that it vectorises. Both
directions read natural time order. The backward stores the state before each tile and recomputes the rest.

Computes in float32. Softplus and silu are here too: torch rounds them differently in a
vector and at its end, so that a row's result would depend on the batch around it. Tasks are shared out to plain Python
threads (the loops release the GIL) rather than to numba's own, whose default layer ends the process when two threads
call it at once.
"""

from concurrent.futures import ThreadPoolExecutor

import numba
import torch
from llvmlite import ir
from numba import float32, int32
from numba.extending import intrinsic
from numpy import empty, floor, zeros
from numpy import float32 as f32
from numpy import int32 as i32
from torch import Tensor

from diffvqa_kernels.selective_scan.gate import gradient_of_gate, gradient_of_scan
from diffvqa_kernels.selective_scan.inputs import ScanInputs

# Measured on a Xeon at dim 128 and 384: 32 to 128 channels and 8 to 32 tokens differ by less than 15 %.
BLOCK_D = 64
TILE = 16


def _jit(function):
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "reassoc"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # Neither this folder nor the user's cache can be written: compile in every process.
        return numba.njit(**options)(function)


_inlined = numba.njit(inline="always", error_model="numpy", fastmath={"contract", "nsz"})


def forward(inputs: ScanInputs) -> Tensor:
    """The sum over directions of the scan's output, gated by silu(z); [batch, dim, length] in `u`'s dtype."""
    u, delta, A, B, C, D, z, delta_bias = _prepared(inputs)
    batch, directions, dim, _ = u.shape
    y, out = torch.empty_like(u), torch.empty_like(z)
    _share_out(_forward_tasks, batch * directions * _blocks(dim), u, delta, A, B, C, delta_bias, y)
    _share_out(_gate_tasks, batch * dim, y, u, D, z, out)
    return out.to(inputs.u.dtype)


def backward(grad_out: Tensor, inputs: ScanInputs) -> ScanInputs:
    """The gradient of each input, in float32."""
    u, delta, A, B, C, D, z, delta_bias = _prepared(inputs)
    batch, directions, dim, _ = u.shape
    grad_out = grad_out.float()
    grad_y = gradient_of_scan(grad_out, z).contiguous()

    y, grad_u, grad_delta = (torch.empty_like(u) for _ in range(3))
    grad_A = A.new_empty(batch, *A.shape)
    grad_B, grad_C = (B.new_empty(_blocks(dim), *B.shape) for _ in range(2))
    outputs = (y, grad_u, grad_delta, grad_A, grad_B, grad_C)
    tasks = batch * directions * _blocks(dim)
    _share_out(_backward_tasks, tasks, u, delta, A, B, C, delta_bias, grad_y[:, None], *outputs)

    skip = D[:, :, None]
    grad_u += grad_y[:, None] * skip
    return ScanInputs(
        u=grad_u,
        delta=grad_delta,
        A=grad_A.sum(0).transpose(1, 2),
        B=grad_B.sum(0).transpose(2, 3),
        C=grad_C.sum(0).transpose(2, 3),
        D=torch.einsum("bdl,bgdl->gd", grad_y, u),
        z=gradient_of_gate(grad_out, torch.addcmul(y, u, skip).sum(1), z),
        delta_bias=grad_delta.sum((0, 3)),
    )


def _prepared(inputs: ScanInputs) -> ScanInputs:
    """In float32 and contiguous, with d_state the last axis of B and C and the middle one of A."""
    inputs = inputs.widened()
    A, B, C = inputs.A.transpose(1, 2), inputs.B.transpose(2, 3), inputs.C.transpose(2, 3)
    return ScanInputs(*(t.contiguous() for t in inputs._replace(A=A, B=B, C=C)))


def _blocks(dim: int) -> int:
    return -(-dim // BLOCK_D)


def _share_out(loop, tasks: int, *arguments) -> None:
    """Run the loop's tasks on as many threads as torch itself would use."""
    arrays = [a.numpy() if isinstance(a, Tensor) else a for a in arguments]
    threads = min(torch.get_num_threads(), tasks)
    if threads <= 1:
        loop(0, 1, *arrays)
        return
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(loop, first, threads, *arrays) for first in range(threads)]:
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
def _softplus(x):
    """log(1 + exp(x)), precise also where it is small: log1p(t) = 2 atanh(t / (2 + t)) as a series."""
    t = _exp(-abs(x))
    s = t / (f32(2) + t)
    s2 = s * s
    series = f32(1 / 13)
    series = series * s2 + f32(1 / 11)
    series = series * s2 + f32(1 / 9)
    series = series * s2 + f32(1 / 7)
    series = series * s2 + f32(1 / 5)
    series = series * s2 + f32(1 / 3)
    series = series * s2 + f32(1)
    return max(x, f32(0)) + f32(2) * s * series


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
def _load_steps(delta, bias, row, direction, first_channel, width, first_token, tokens, raw, steps):
    """`delta` with its bias, and Δ; channels past the last have Δ = 0."""
    for j in range(width):
        for k in range(tokens):
            raw[k, j] = delta[row, direction, first_channel + j, first_token + k] + bias[direction, first_channel + j]
    for k in range(tokens):
        for j in range(BLOCK_D):
            steps[k, j] = _softplus(raw[k, j])


@_inlined
def _store_tile(tile, width, tokens, target, row, direction, first_channel, first_token):
    for j in range(width):
        for k in range(tokens):
            target[row, direction, first_channel + j, first_token + k] = tile[k, j]


@_jit
def _forward_tasks(first_task, stride, u, delta, A, B, C, delta_bias, y):
    batch, directions, dim, length = u.shape
    d_state = A.shape[1]
    blocks = (dim + BLOCK_D - 1) // BLOCK_D
    tiles = (length + TILE - 1) // TILE
    a = zeros((d_state, BLOCK_D), f32)
    h = empty((d_state, BLOCK_D), f32)
    raw, steps, inputs = empty((TILE, BLOCK_D), f32), empty((TILE, BLOCK_D), f32), empty((TILE, BLOCK_D), f32)
    outputs = empty((TILE, BLOCK_D), f32)
    for task in range(first_task, batch * directions * blocks, stride):
        row, direction, block = _place(task, blocks, directions)
        reverse = direction == 1
        channel = block * BLOCK_D
        width = min(BLOCK_D, dim - channel)
        a[:, :width] = A[direction, :, channel : channel + width]
        # Channels past the last one: nothing goes in, and Δ is small.
        raw[:, :] = f32(-20)
        inputs[:, :] = f32(0)
        h[:, :] = f32(0)
        for tile in range(tiles):
            token = (tiles - 1 - tile if reverse else tile) * TILE
            tokens = min(TILE, length - token)
            _load_steps(delta, delta_bias, row, direction, channel, width, token, tokens, raw, steps)
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
def _gate_tasks(first_task, stride, y, u, D, z, out):
    """out = Σ_directions (y + D u) ∘ silu(z); a task is one channel of one batch row."""
    batch, _, dim, length = y.shape
    for task in range(first_task, batch * dim, stride):
        row, channel = task // dim, task % dim
        for k in range(length):
            total = y[row, 0, channel, k] + D[0, channel] * u[row, 0, channel, k]
            total += y[row, 1, channel, k] + D[1, channel] * u[row, 1, channel, k]
            out[row, channel, k] = total * (z[row, channel, k] / (f32(1) + _exp(-z[row, channel, k])))


@_jit
def _backward_tasks(
    first_task,
    stride,
    u,
    delta,
    A,
    B,
    C,
    delta_bias,
    grad_y,
    y,
    grad_u,
    grad_delta,
    grad_A,
    grad_B,
    grad_C,
):
    batch, directions, dim, length = u.shape
    d_state = A.shape[1]
    blocks = (dim + BLOCK_D - 1) // BLOCK_D
    tiles = (length + TILE - 1) // TILE
    a, grad_a = zeros((d_state, BLOCK_D), f32), empty((d_state, BLOCK_D), f32)
    starts = empty((tiles + 1, d_state, BLOCK_D), f32)
    states, decays = empty((TILE + 1, d_state, BLOCK_D), f32), empty((TILE, d_state, BLOCK_D), f32)
    carry = empty((d_state, BLOCK_D), f32)
    raw, steps = empty((TILE, BLOCK_D), f32), empty((TILE, BLOCK_D), f32)
    inputs, upstream, outputs = empty((TILE, BLOCK_D), f32), empty((TILE, BLOCK_D), f32), empty((TILE, BLOCK_D), f32)
    grad_inputs, grad_steps = empty((TILE, BLOCK_D), f32), empty((TILE, BLOCK_D), f32)
    through_B = empty(BLOCK_D, f32)
    for task in range(first_task, batch * directions * blocks, stride):
        row, direction, block = _place(task, blocks, directions)
        reverse = direction == 1
        channel = block * BLOCK_D
        width = min(BLOCK_D, dim - channel)
        a[:, :width] = A[direction, :, channel : channel + width]
        # Channels past the last one: nothing goes in, and Δ is small.
        raw[:, :] = f32(-20)
        inputs[:, :] = f32(0)
        upstream[:, :] = f32(0)

        starts[0] = f32(0)
        for tile in range(tiles):
            token = (tiles - 1 - tile if reverse else tile) * TILE
            tokens = min(TILE, length - token)
            _load_steps(delta, delta_bias, row, direction, channel, width, token, tokens, raw, steps)
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
            _load_steps(delta, delta_bias, row, direction, channel, width, token, tokens, raw, steps)
            _load_tile(u, row, direction, channel, width, token, tokens, inputs)
            _load_tile(grad_y, row, 0, channel, width, token, tokens, upstream)
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
                    grad_steps[k, j] /= f32(1) + _exp(-raw[k, j])
            _store_tile(grad_inputs, width, tokens, grad_u, row, direction, channel, token)
            _store_tile(grad_steps, width, tokens, grad_delta, row, direction, channel, token)
        for i in range(d_state):
            for j in range(width):
                grad_A[row, direction, i, channel + j] = grad_a[i, j]
