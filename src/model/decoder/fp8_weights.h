// The 8-bit copies of a model's matrices that a pass with fp8 products multiplies with. Where the
// weights neither change nor move (frozen, not gathered) they are made once and kept: 2 bytes a
// parameter, both layouts. Elsewhere the copy that a product needs is made for that product.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <utility>

#include "model/weights.h"
#include "ops/fp8_linear.h"

namespace vax::model {

class Fp8Weights {
 public:
  // `keep`: whatever acquire() gives for a unit and role stays the same values.
  explicit Fp8Weights(bool keep) : keep_(keep) {}

  // SHAPES w [O, I] bf16, the unit's tensor of this role; valid until the next call, kept ones for
  // the life of the object.
  const ops::Fp8Weight& forward(int unit, Role role, const at::Tensor& w_OI) {
    return find(unit, role, w_OI, ops::Fp8Copies::kForward);
  }
  const ops::Fp8Weight& backward(int unit, Role role, const at::Tensor& w_OI) {
    return find(unit, role, w_OI, ops::Fp8Copies::kBackward);
  }
  int64_t num_bytes() const;  // kept
  // Of both copies of a matrix [out, in] with its scales.
  static int64_t bytes_of(int64_t num_outputs, int64_t num_inputs) {
    return 2 * num_outputs * num_inputs + static_cast<int64_t>(sizeof(float)) * num_outputs;
  }

 private:
  const ops::Fp8Weight& find(int unit, Role role, const at::Tensor& w_OI, ops::Fp8Copies copies);

  bool keep_;
  std::map<std::pair<int, Role>, ops::Fp8Weight> kept_;
  ops::Fp8Weight last_;
};

}  // namespace vax::model
