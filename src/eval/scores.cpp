#include "eval/scores.h"

#include <cmath>

#include "base/error.h"

namespace vax::eval {
namespace {

constexpr double kZ95 = 1.959963984540054;  // 97.5 % quantile of the standard normal distribution

void check_share(int64_t count, int64_t total) {
  VAX_CHECK(total > 0 && count >= 0 && count <= total, count, " of ", total);
}

}  // namespace

double percent(int64_t count, int64_t total) {
  check_share(count, total);
  return 100.0 * static_cast<double>(count) / static_cast<double>(total);
}

Interval wilson95(int64_t count, int64_t total) {
  check_share(count, total);
  const auto n = static_cast<double>(total);
  const double p = static_cast<double>(count) / n;
  const double z2 = kZ95 * kZ95;
  const double center = p + z2 / (2 * n);
  const double half = kZ95 * std::sqrt(p * (1 - p) / n + z2 / (4 * n * n));
  const double scale = 100 / (1 + z2 / n);
  // Exact in theory at the ends; rounding would leave 1e-16 or pass 100.
  return {.low = count == 0 ? 0.0 : (center - half) * scale,
          .high = count == total ? 100.0 : (center + half) * scale};
}

}  // namespace vax::eval
