#include "eval/scores.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>
#include <utility>

namespace vax::eval {
namespace {

TEST(Scores, PercentOfACount) {
  EXPECT_EQ(percent(0, 7), 0.0);
  EXPECT_EQ(percent(1, 8), 12.5);
  EXPECT_EQ(percent(500, 500), 100.0);
}

// The interval's definition, which the closed form solves: its ends are the shares p0 whose own
// standard deviation puts the observed share z deviations away, |p - p0| = z sqrt(p0 (1 - p0) / n).
TEST(Scores, WilsonIntervalSolvesItsDefinition) {
  const double z = 1.959963984540054;
  for (const auto& [count, total] : {std::pair{48, 100}, {214, 500}, {1, 10}, {9, 10}}) {
    const double p = static_cast<double>(count) / total;
    const Interval interval = wilson95(count, total);
    EXPECT_LT(interval.low, 100 * p);
    EXPECT_GT(interval.high, 100 * p);
    for (const double end : {interval.low / 100, interval.high / 100})
      // Shares are below 1 and took about ten roundings of 1e-16.
      EXPECT_NEAR(std::abs(p - end), z * std::sqrt(end * (1 - end) / total), 1e-14)
          << count << " of " << total;
  }
}

TEST(Scores, WilsonIntervalAtTheEnds) {
  // Closed forms: [0, z^2 / (n + z^2)] and its mirror image.
  const double z2 = 1.959963984540054 * 1.959963984540054;
  const Interval none = wilson95(0, 200);
  EXPECT_EQ(none.low, 0.0);
  EXPECT_NEAR(none.high, 100 * z2 / (200 + z2), 1e-12);  // a few roundings of numbers below 100
  const Interval all = wilson95(200, 200);
  EXPECT_NEAR(all.low, 100 - none.high, 1e-12);
  EXPECT_EQ(all.high, 100.0);
}

TEST(Scores, RefusesImpossibleShares) {
  EXPECT_THROW(percent(1, 0), std::logic_error);
  EXPECT_THROW(percent(3, 2), std::logic_error);
  EXPECT_THROW(wilson95(-1, 2), std::logic_error);
}

}  // namespace
}  // namespace vax::eval
