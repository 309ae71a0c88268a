"""The bidirectional scan as a C++ kernel that Inductor writes into what it compiles for a CPU.

Importing this module registers the lowering: `torch.compile` and AOTInductor then turn the node into one C++ function,
so that a package holds the scan itself and needs neither this package nor numba to run. Triton does the same on a GPU.

One walk over the tokens takes a vector of channels with its d_state states in registers; whole vectors only, padded at
the last channel, so that no value depends on where it lies in a vector. Float32 inside; any strides; one thread.
"""

from typing import Any

import torch
from torch._inductor import ir, lowering
from torch._inductor.codegen.cpp import get_export_declaration
from torch._inductor.codegen.cpp_template import CppTemplate
from torch._inductor.select_algorithm import realize_inputs
from torch._inductor.virtualized import V

from diffvqa_kernels.selective_scan.inputs import ScanInputs
from diffvqa_kernels.selective_scan.operators import bidirectional_selective_scan_op

_OP = bidirectional_selective_scan_op._opoverload
_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})

# Tokens a tile: as many as a vector of AVX-512 has floats.
TILE = 16

_SOURCE = r"""
{{template.header().getvalue()}}
#include <memory>

extern "C" {{export_declaration}} {{kernel.def_kernel(inputs=inputs, outputs={"out": out})}}
{
  using Vec = at::vec::Vectorized<float>;
  constexpr int64_t W = Vec::size(), TILE = {{tile}}, N = {{d_state}};
  const int64_t batch = {{kernel.size(inputs.u, 0)}}, dim = {{kernel.size(inputs.u, 2)}};
  const int64_t length = {{kernel.size(inputs.u, 3)}};
  // exp(x) to 2e-7 relative, and exactly 1 at 0; 0 below exp(-88), infinity above exp(88).
  const auto exp = [](Vec x) {
    const auto t = at::vec::clamp(x * Vec(1.4426950408889634f), Vec(-127.0f), Vec(128.0f));
    const auto whole = (t + Vec(0.5f)).floor();
    const auto f = t - whole;
    // Minimax polynomial of 2^f on [-0.5, 0.5].
    auto p = at::vec::fmadd(Vec(1.5403530e-4f), f, Vec(1.3333558e-3f));
    p = at::vec::fmadd(p, f, Vec(9.6181291e-3f));
    p = at::vec::fmadd(p, f, Vec(5.5504109e-2f));
    p = at::vec::fmadd(p, f, Vec(2.4022651e-1f));
    p = at::vec::fmadd(p, f, Vec(6.9314718e-1f));
    p = at::vec::fmadd(p, f, Vec(1.0f));
    using Int = at::vec::Vectorized<int32_t>;
    const auto exponent = at::vec::convert_to_int_of_same_size(whole) + Int(127);
    return p * at::vec::cast<float>(exponent << Int(23));
  };
  const auto softplus = [exp](Vec x) { return at::vec::maximum(x, Vec(0.0f)) + exp(x.abs().neg()).log1p(); };
  // Of both directions: [direction, token, B and C], and a block's sum [token, channel].
  auto projections = std::make_unique<float[]>(2 * length * 2 * N);
  auto sums = std::make_unique<float[]>(length * W);
  alignas(64) float steps[TILE][W], inputs[TILE][W], a[N][W], carried[N][W], lane[W];

  for (int64_t row = 0; row < batch; ++row) {
    for (int64_t g = 0; g < 2; ++g) {
      for (int64_t n = 0; n < N; ++n) {
        for (int64_t token = 0; token < length; ++token) {
          auto* projection = &projections[((g * length + token) * 2) * N];
          projection[n] = static_cast<float>({{kernel.index(inputs.B, ["row", "g", "n", "token"])}});
          projection[N + n] = static_cast<float>({{kernel.index(inputs.C, ["row", "g", "n", "token"])}});
        }
      }
    }
    for (int64_t first = 0; first < dim; first += W) {
      const int64_t width = std::min(W, dim - first);
      for (int64_t g = 0; g < 2; ++g) {
        const bool reverse = g == 1;
        // Channels past the last: A and the state stay 0, and what they get is never stored.
        std::fill_n(&a[0][0], N * W, 0.0f);
        std::fill_n(&carried[0][0], N * W, 0.0f);
        std::fill_n(&inputs[0][0], TILE * W, 0.0f);
        std::fill_n(&steps[0][0], TILE * W, 0.0f);
        std::fill_n(lane, W, 0.0f);
        for (int64_t j = 0; j < width; ++j) {
          const int64_t channel = first + j;
          lane[j] = static_cast<float>({{kernel.index(inputs.delta_bias, ["g", "channel"])}});
          for (int64_t n = 0; n < N; ++n) {
            a[n][j] = static_cast<float>({{kernel.index(inputs.A, ["g", "channel", "n"])}});
          }
        }
        const auto bias = Vec::loadu(lane);
        for (int64_t j = 0; j < width; ++j) {
          const int64_t channel = first + j;
          lane[j] = static_cast<float>({{kernel.index(inputs.D, ["g", "channel"])}});
        }
        const auto skip = Vec::loadu(lane);
        const int64_t tiles = (length + TILE - 1) / TILE;
        for (int64_t t = 0; t < tiles; ++t) {
          const int64_t start = (reverse ? tiles - 1 - t : t) * TILE;
          const int64_t tokens = std::min(TILE, length - start);
          for (int64_t j = 0; j < width; ++j) {
            for (int64_t k = 0; k < tokens; ++k) {
              const int64_t channel = first + j, token = start + k;
              steps[k][j] = static_cast<float>({{kernel.index(inputs.delta, ["row", "g", "channel", "token"])}});
              inputs[k][j] = static_cast<float>({{kernel.index(inputs.u, ["row", "g", "channel", "token"])}});
            }
          }
          Vec h[N];
          {{kernel.unroll_pragma(64)}}
          for (int64_t n = 0; n < N; ++n) h[n] = Vec::loadu(carried[n]);
          for (int64_t position = 0; position < tokens; ++position) {
            const int64_t k = reverse ? tokens - 1 - position : position;
            const float* projection = &projections[((g * length + start + k) * 2) * N];
            const auto step = softplus(Vec::loadu(steps[k]) + bias), u = Vec::loadu(inputs[k]);
            const auto added = step * u;
            auto y = skip * u;
            {{kernel.unroll_pragma(64)}}
            for (int64_t n = 0; n < N; ++n) {
              const auto decay = exp(step * Vec::loadu(a[n]));
              h[n] = at::vec::fmadd(decay, h[n], added * Vec(projection[n]));
              y = at::vec::fmadd(h[n], Vec(projection[N + n]), y);
            }
            float* sum = &sums[(start + k) * W];
            if (reverse) y = y + Vec::loadu(sum);
            y.store(sum);
          }
          {{kernel.unroll_pragma(64)}}
          for (int64_t n = 0; n < N; ++n) h[n].store(carried[n]);
        }
      }
      for (int64_t token = 0; token < length; ++token) {
        for (int64_t j = 0; j < width; ++j) {
          const int64_t channel = first + j;
          lane[j] = static_cast<float>({{kernel.index(inputs.z, ["row", "channel", "token"])}});
        }
        const auto gate = Vec::loadu(lane);
        (Vec::loadu(&sums[token * W]) * gate / (Vec(1.0f) + exp(gate.neg()))).store(lane);
        for (int64_t j = 0; j < width; ++j) {
          const int64_t channel = first + j;
          {{kernel.index(out, ["row", "channel", "token"])}} = static_cast<{{kernel.dtype(out)}}>(lane[j]);
        }
      }
    }
  }
}
"""


class _ScanTemplate(CppTemplate):
    def __init__(self, input_nodes: list[Any], layout: ir.Layout, d_state: int) -> None:
        super().__init__("bidirectional_selective_scan", input_nodes, layout, num_threads=1)
        self.d_state = d_state

    def render(  # type: ignore[override]
        self,
        kernel: Any,
        template_buffer_node: Any = None,
        flag_template_buffer_has_other_users: bool | None = None,
        epilogue_nodes: list[Any] | None = None,
    ) -> str:
        assert not epilogue_nodes  # Inductor fuses only into templates of its own
        return self._template_from_string(_SOURCE).render(
            template=self,
            kernel=kernel,
            inputs=dict(zip(ScanInputs._fields, self.input_nodes, strict=True)),
            out=self.output_node if template_buffer_node is None else template_buffer_node,
            tile=TILE,
            d_state=self.d_state,
            export_declaration=get_export_declaration(),
        )


@lowering.register_lowering(_OP, type_promotion_kind=None)
def _lower(u, delta, A, B, C, D, z, delta_bias, backend="auto"):
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    if u.get_device().type != "cpu" or any(t.get_dtype() not in _DTYPES for t in tensors):
        return lowering.fallback_handler(_OP)(*tensors, backend)
    nodes = [realize_inputs(t) for t in tensors]
    names = [node.get_name() for node in nodes]
    # The template calls an argument by its storage, and B and C are cut from one.
    nodes = [n if names.count(n.get_name()) == 1 else ir.ExternKernel.copy_input(n) for n in nodes]
    batch, dim, length = z.get_size()
    # Channel-last: what comes next multiplies over the channels.
    layout = ir.FixedLayout(z.get_device(), u.get_dtype(), [batch, dim, length], [dim * length, 1, dim])
    # A number in the source, since it says how many registers there are; the other sizes may be dynamic.
    d_state = V.graph.sizevars.guard_int(A.get_size()[2])
    return _ScanTemplate(nodes, layout, d_state).generate().output_node()
