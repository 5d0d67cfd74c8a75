// AdamW on this rank's shards: weights (fp32 masters), gradients and moments all have the shape of
// the shard, so state is spread like the weights. Norm weights and biases are not decayed.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "dist/shard/sharded_units.h"
#include "train/sharded_weights.h"
#include "train/train_options.h"

namespace vax::train {

// Factor on a gradient of this L2 norm so that it has at most `clip` (0: no clipping), as
// torch.nn.utils.clip_grad_norm_ has it.
double clip_scale(double norm, double clip);

class ShardedAdamW {
 public:
  // Borrows plane and gradients. REQUIRES fp32 shards.
  ShardedAdamW(Plane& trainable, dist::ShardedGradients& gradients, const TrainOptions& options);

  // L2 norm of the whole gradient. COLLECTIVE over the shard group. BLOCKS host.
  double gradient_norm();
  // One update with the gradients scaled by `grad_scale`; weights gathered before are stale after
  // it (the plane is refreshed; views of its shards are the caller's affair). COLLECTIVE over the
  // shard group.
  void update(double lr, double grad_scale);

  int64_t num_updates() const { return num_updates_; }
  // Goes on as if so many updates had been made; the moments are the caller's affair.
  void set_num_updates(int64_t num_updates) { num_updates_ = num_updates; }
  // First and second moments of this rank's shard of a unit of the plane, [shard_count], fp32.
  struct Moments {
    at::Tensor exp_avg, exp_avg_sq;
  };
  Moments moments(int unit) const {
    const UnitState& state = states_[static_cast<size_t>(unit)];
    return {state.exp_avg, state.exp_avg_sq};
  }
  int64_t num_bytes() const;

 private:
  // A stretch of a shard with one decay rule: [begin, end) in elements of the shard.
  struct Stretch {
    int64_t begin, end;
    bool decay;
  };
  struct UnitState {
    at::Tensor exp_avg, exp_avg_sq;
    std::vector<Stretch> stretches;
  };

  Plane& plane_;
  dist::ShardedGradients& gradients_;
  TrainOptions options_;
  at::TensorOptions squares_options_;  // fp64, where the shards are
  std::vector<UnitState> states_;
  int64_t num_updates_ = 0;
};

}  // namespace vax::train
