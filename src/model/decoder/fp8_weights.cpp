#include "model/decoder/fp8_weights.h"

namespace vax::model {

const ops::Fp8Weight& Fp8Weights::find(int unit, Role role, const at::Tensor& w_OI,
                                       ops::Fp8Copies copies) {
  if (!keep_) return last_ = ops::quantise_weight(w_OI, copies);
  const auto [place, is_new] = kept_.try_emplace({unit, role});
  if (is_new) place->second = ops::quantise_weight(w_OI, ops::Fp8Copies::kBoth);
  return place->second;
}

int64_t Fp8Weights::num_bytes() const {
  int64_t sum = 0;
  for (const auto& [place, weight] : kept_) sum += weight.num_bytes();
  return sum;
}

}  // namespace vax::model
