// The norm in front of a half and of the head, of the kind that the spec names. Saved for the
// backward, besides x: statistics, 4 bytes a row (RMS) or 8 (layer norm). SHAPES as in
// model/model.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "model/spec.h"
#include "model/weights.h"

namespace vax::model {

struct NormRoles {
  Role weight, bias;  // a norm without a bias has no tensor of that role
};
inline constexpr NormRoles kAttentionNormRoles{kInputNorm, kInputNormBias};
inline constexpr NormRoles kMlpNormRoles{kPostNorm, kPostNormBias};
inline constexpr NormRoles kFinalNormRoles{kFinalNorm, kFinalNormBias};

struct NormSaved {
  at::Tensor rstd_T;
  at::Tensor mean_T;  // of a layer norm
};
int64_t norm_saved_bytes(NormKind kind);  // a row

// One norm with its weights. Borrows them.
class Norm {
 public:
  Norm(NormKind kind, double eps, NormRoles roles, const UnitTensors& weights)
      : kind_(kind), eps_(eps), roles_(roles), weights_(weights) {}

  // Returns y [T, D] of `type`. x [T, D] fp32.
  at::Tensor forward(const at::Tensor& x_TD, at::ScalarType type, NormSaved& saved) const;
  // The same y once more, from what was saved.
  at::Tensor again(const at::Tensor& x_TD, at::ScalarType type, const NormSaved& saved) const;
  // dx [T, D] fp32 is added to. `gradients` null: dx only.
  void backward(const at::Tensor& dy_TD, const at::Tensor& x_TD, const NormSaved& saved,
                UnitGradients* gradients, at::Tensor& dx_TD) const;

 private:
  const at::Tensor& weight() const { return weights_[roles_.weight]; }
  const at::Tensor& bias() const { return weights_[roles_.bias]; }

  NormKind kind_;
  double eps_;
  NormRoles roles_;
  const UnitTensors& weights_;
};

}  // namespace vax::model
