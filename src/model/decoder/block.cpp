#include "model/decoder/block.h"

#include <cmath>

namespace vax::model {

BlockDims::BlockDims(const Spec& spec, const LoraSpec& lora_spec, bool trains_base,
                     at::ScalarType type)
    : hidden_size(spec.hidden_size),
      intermediate_size(spec.intermediate_size),
      attention{.num_heads = spec.num_heads,
                .num_kv_heads = spec.num_kv_heads,
                .head_dim = spec.head_dim,
                .scale = 1 / std::sqrt(static_cast<double>(spec.head_dim))},
      norm(spec.norm),
      norm_eps(spec.norm_eps),
      mlp(spec.mlp),
      compute_dtype(type),
      lora(lora_spec),
      train_base(trains_base),
      qkv{.weight = kQkv,
          .bias = kQkvBias,
          .in = hidden_size,
          .branches = {{kQ, 0, query_width()},
                       {kK, query_width(), kv_width()},
                       {kV, query_width() + kv_width(), kv_width()}}},
      attention_out{.weight = kAttnOut,
                    .bias = kAttnOutBias,
                    .in = query_width(),
                    .branches = {{kO, 0, hidden_size}}},
      up{.weight = kGateUp, .bias = kGateUpBias, .in = hidden_size},
      down{.weight = kMlpDown,
           .bias = kMlpDownBias,
           .in = intermediate_size,
           .branches = {{kDown, 0, hidden_size}}} {
  if (spec.has_gate()) up.branches.push_back({kGate, 0, intermediate_size});
  up.branches.push_back({kUp, spec.has_gate() ? intermediate_size : 0, intermediate_size});
}

}  // namespace vax::model
