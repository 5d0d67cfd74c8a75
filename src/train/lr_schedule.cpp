#include "train/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace vax::train {

int64_t num_warmup_steps(double warmup_ratio, int64_t num_steps) {
  return static_cast<int64_t>(std::ceil(warmup_ratio * static_cast<double>(num_steps)));
}

double learning_rate(const TrainOptions& options, int64_t update, int64_t num_steps) {
  const int64_t warmup = num_warmup_steps(options.warmup_ratio, num_steps);
  const auto u = static_cast<double>(update), w = static_cast<double>(warmup),
             n = static_cast<double>(num_steps);
  if (update < warmup) return options.lr * u / std::max(1.0, w);
  const double rest = std::max(1.0, n - w);
  switch (options.schedule) {
    case Schedule::kConstant:
      return options.lr;
    case Schedule::kLinear:
      return options.lr * std::max(0.0, (n - u) / rest);
    case Schedule::kCosine:
      break;
  }
  return options.lr * std::max(0.0, 0.5 * (1 + std::cos(std::numbers::pi * (u - w) / rest)));
}

}  // namespace vax::train
