#include "train/optimizer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "base/error.h"
#include "ops/adamw.h"

namespace vax::train {
namespace {

std::span<float> floats(at::Tensor& shard, int64_t begin, int64_t end) {
  return {shard.data_ptr<float>() + begin, static_cast<size_t>(end - begin)};
}

}  // namespace

ShardedAdamW::ShardedAdamW(Plane& trainable, dist::ShardedGradients& gradients,
                           const TrainOptions& options)
    : plane_(trainable), gradients_(gradients), options_(options) {
  for (const FlatUnit& unit : plane_.layout()) {
    if (unit.count == 0) continue;
    const int index = static_cast<int>(states_.size());
    const dist::Partition& part = plane_.units().partition(index);
    UnitState state{.exp_avg = at::zeros({part.shard_count}, at::kFloat),
                    .exp_avg_sq = at::zeros({part.shard_count}, at::kFloat)};
    for (const FlatGroup& group : unit.groups)
      for (const FlatMember& member : group.members) {
        const int64_t begin = std::max(part.begin, member.offset);
        const int64_t end = std::min(part.end, member.offset + member.count);
        if (begin < end)
          state.stretches.push_back({begin - part.begin, end - part.begin, member.decay});
      }
    states_.push_back(std::move(state));
  }
}

double ShardedAdamW::gradient_norm() {
  double sum = 0;
  for (size_t i = 0; i < states_.size(); ++i)
    for (const Stretch& stretch : states_[i].stretches) {
      const at::Tensor part = gradients_.shard(static_cast<int>(i))
                                  .narrow(0, stretch.begin, stretch.end - stretch.begin);
      const double norm = at::linalg_vector_norm(part).item<double>();
      sum += norm * norm;
    }
  plane_.group().all_reduce(&sum, 1, dist::DataType::kFloat64, dist::ReduceOp::kSum).wait();
  return std::sqrt(sum);
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
      ops::adamw_update(floats(weight, begin, end), floats(gradient, begin, end),
                        floats(state.exp_avg, begin, end), floats(state.exp_avg_sq, begin, end),
                        step);
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
