"""The selective scan in vectorised PyTorch, for any device and dtype: forward and backward, no compiler needed.

Exponentials, outer products and the contraction with C are taken for CHUNK tokens at once; only the recurrence itself,
one fused multiply-add a token, is a Python loop. Both directions advance as one batch in time-major layout, and the
backward keeps no more than the state at each chunk's start and recomputes the rest.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffvqa_kernels.selective_scan.gate import gradient_of_gate, gradient_of_scan
from diffvqa_kernels.selective_scan.inputs import ScanInputs

# Tokens a chunk: large enough to hide the calls, small enough that [CHUNK, directions, d_state, dim] stays in cache.
CHUNK = 32


def forward(inputs: ScanInputs) -> Tensor:
    """The sum over directions of the scan's output, gated by silu(z); [batch, dim, length] in `u`'s dtype."""
    scan = _Scan(inputs)
    out = scan.y().sum(1) * F.silu(inputs.z.to(scan.u.dtype))
    return out.to(inputs.u.dtype)


def backward(grad_out: Tensor, inputs: ScanInputs) -> ScanInputs:
    """The gradient of each input, in the dtype of the computation.

    With g_k = ∂L/∂y_k, the adjoint state runs the other way: λ_k = C_k g_k + exp(Δ_{k+1} A) ∘ λ_{k+1}.
    """
    scan = _Scan(inputs)
    grad_out, z = grad_out.to(scan.u.dtype), inputs.z.to(scan.u.dtype)
    grad_y = scan.to_scan_order(gradient_of_scan(grad_out, z)[:, None].expand(-1, 2, -1, -1))

    grad_u = torch.empty_like(scan.u)
    grad_step = torch.empty_like(scan.u)
    grad_B, grad_C = torch.empty_like(scan.B), torch.empty_like(scan.C)
    grad_A = torch.zeros_like(scan.A)
    chunks = scan.chunks()
    starts = scan.chunk_starts()
    adjoint = torch.zeros_like(starts[0])
    for chunk, start in zip(reversed(chunks), reversed(starts), strict=True):
        decay, h = scan.run(chunk, start)
        h_before = torch.cat((start[None], h[:-1]))
        adjoints = grad_y[chunk].unsqueeze(-2) * scan.C[chunk].unsqueeze(-1)
        adjoints[-1] += adjoint
        for k in reversed(range(len(adjoints) - 1)):
            torch.addcmul(adjoints[k], decay[k + 1], adjoints[k + 1], out=adjoints[k])
        adjoint = decay[0] * adjoints[0]

        through_decay = adjoints * decay * h_before
        grad_A += (through_decay * scan.step[chunk].unsqueeze(-2)).sum((0, 1))
        adjoint_B = (scan.B[chunk].unsqueeze(-2) @ adjoints).squeeze(-2)
        grad_u[chunk] = scan.step[chunk] * adjoint_B
        grad_step[chunk] = (through_decay * scan.A).sum(-2) + scan.u[chunk] * adjoint_B
        step_u = scan.step[chunk] * scan.u[chunk]
        grad_B[chunk] = (adjoints @ step_u.unsqueeze(-1)).squeeze(-1)
        grad_C[chunk] = (h @ grad_y[chunk].unsqueeze(-1)).squeeze(-1)

    grad_u += grad_y * scan.D
    # d softplus(x)/dx = sigmoid(x) = 1 − exp(−softplus(x)).
    grad_delta = grad_step * -torch.expm1(-scan.step)
    return ScanInputs(
        u=scan.to_natural_order(grad_u),
        delta=scan.to_natural_order(grad_delta),
        A=grad_A.transpose(1, 2),
        B=scan.to_natural_order(grad_B),
        C=scan.to_natural_order(grad_C),
        D=(grad_y * scan.u).sum((0, 1)),
        z=gradient_of_gate(grad_out, scan.y().sum(1), z),
        delta_bias=grad_delta.sum((0, 1)),
    )


class _Scan:
    """The inputs in the compute dtype and time-major, [length, batch, directions, …], and the recurrence over them."""

    def __init__(self, inputs: ScanInputs):
        u, delta, A, B, C, self.D, _, delta_bias = inputs.widened()
        self.A = A.transpose(1, 2).contiguous()  # [directions, d_state, dim]
        self.u, delta, self.B, self.C = (self.to_scan_order(t) for t in (u, delta, B, C))
        self.step = F.softplus(delta + delta_bias)

    def to_scan_order(self, x: Tensor) -> Tensor:
        """[batch, directions, size, length] to [length, batch, directions, size], each in the order of its scan."""
        forward, backward = x.permute(3, 0, 1, 2).unbind(2)
        return torch.stack((forward, backward.flip(0)), dim=2)

    def to_natural_order(self, x: Tensor) -> Tensor:
        forward, backward = x.permute(1, 2, 3, 0).unbind(1)
        return torch.stack((forward, backward.flip(-1)), dim=1)

    def chunks(self) -> list[slice]:
        length = len(self.u)
        return [slice(i, min(i + CHUNK, length)) for i in range(0, length, CHUNK)]

    def run(self, chunk: slice, h: Tensor) -> tuple[Tensor, Tensor]:
        """The chunk's decays and states, both [tokens, batch, directions, d_state, dim], from the state before it."""
        step = self.step[chunk]
        decay = torch.exp(step.unsqueeze(-2) * self.A)
        states = (step * self.u[chunk]).unsqueeze(-2) * self.B[chunk].unsqueeze(-1)
        for k in range(len(states)):
            h = torch.addcmul(states[k], decay[k], h, out=states[k])
        return decay, states

    def states(self):
        """Yield each chunk with its states."""
        h = self.zero_state()
        for chunk in self.chunks():
            _, states = self.run(chunk, h)
            h = states[-1].clone()
            yield chunk, states

    def zero_state(self) -> Tensor:
        return self.u.new_zeros(self.u.shape[1], *self.A.shape)

    def chunk_starts(self) -> list[Tensor]:
        """The state before each chunk."""
        return [self.zero_state(), *(states[-1].clone() for _, states in self.states())][:-1]

    def y(self) -> Tensor:
        """Each direction's output before the gate, [batch, directions, dim, length]."""
        y = torch.empty_like(self.u)
        for chunk, h in self.states():
            y[chunk] = (self.C[chunk].unsqueeze(-2) @ h).squeeze(-2)
        y += self.u * self.D
        return self.to_natural_order(y)
