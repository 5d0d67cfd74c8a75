#include "train/optimizer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "ops/adamw.h"
#include "ops/device/transfer.h"
#include "ops/hidden_state.h"

namespace vax::train {

double clip_scale(double norm, double clip) {
  return clip > 0 ? std::min(1.0, clip / (norm + 1e-6)) : 1.0;
}

ShardedAdamW::ShardedAdamW(Plane& trainable, dist::ShardedGradients& gradients,
                           const TrainOptions& options)
    : plane_(trainable), gradients_(gradients), options_(options), squares_options_(at::kDouble) {
  for (const FlatUnit& unit : plane_.layout().units()) {
    const int index = static_cast<int>(states_.size());
    const dist::Partition& part = plane_.units().partition(index);
    const at::TensorOptions like_shard = plane_.units().shard(index).options();
    UnitState state{.exp_avg = at::zeros({part.shard_count}, like_shard),
                    .exp_avg_sq = at::zeros({part.shard_count}, like_shard)};
    for (const FlatGroup& group : unit.groups)
      for (const FlatMember& member : group.members) {
        const int64_t begin = std::max(part.begin, member.offset);
        const int64_t end = std::min(part.end, member.offset + member.count);
        if (begin < end)
          state.stretches.push_back({begin - part.begin, end - part.begin, member.decay});
      }
    states_.push_back(std::move(state));
    squares_options_ = squares_options_.device(like_shard.device());
  }
}

double ShardedAdamW::gradient_norm() {
  at::Tensor sum = at::zeros({}, squares_options_);
  for (size_t i = 0; i < states_.size(); ++i)
    for (const Stretch& stretch : states_[i].stretches) {
      const at::Tensor part = gradients_.shard(static_cast<int>(i))
                                  .narrow(0, stretch.begin, stretch.end - stretch.begin);
      ops::add_squares(part, sum);
    }
  plane_.group()
      .all_reduce(sum.data_ptr(), 1, dist::DataType::kFloat64, dist::ReduceOp::kSum)
      .wait();
  return std::sqrt(ops::device::to_number(sum));
}

void ShardedAdamW::update(double lr, double grad_scale) {
  ++num_updates_;
  ops::AdamWOptions step{.lr = lr,
                         .beta1 = options_.beta1,
                         .beta2 = options_.beta2,
                         .eps = options_.eps,
                         .step = num_updates_,
                         .grad_scale = grad_scale};
  plane_.units().begin_update();
  for (size_t i = 0; i < states_.size(); ++i) {
    at::Tensor& weight = plane_.units().shard(static_cast<int>(i));
    at::Tensor& gradient = gradients_.shard(static_cast<int>(i));
    UnitState& state = states_[i];
    for (const auto& [begin, end, decay] : state.stretches) {
      step.weight_decay = decay ? options_.weight_decay : 0;
      const auto stretch = [first = begin, count = end - begin](const at::Tensor& shard) {
        return shard.narrow(0, first, count);
      };
      ops::adamw_update(stretch(weight), stretch(gradient), stretch(state.exp_avg),
                        stretch(state.exp_avg_sq), step);
    }
  }
  plane_.units().refresh();
}

int64_t ShardedAdamW::num_bytes() const {
  int64_t sum = 0;
  for (const UnitState& state : states_)
    sum += static_cast<int64_t>(state.exp_avg.nbytes() + state.exp_avg_sq.nbytes());
  return sum;
}

}  // namespace vax::train
