// Learning rates against the formulas of transformers.optimization, evaluated by hand; the parity
// test compares a whole run with that package.
#include <gtest/gtest.h>

#include <cmath>

#include "train/lr_schedule.h"

namespace vax::train {
namespace {

TEST(LearningRate, WarmUpStartsAtZeroAndRoundsUp) {
  EXPECT_EQ(num_warmup_steps(0.1, 11), 2);
  EXPECT_EQ(num_warmup_steps(0, 11), 0);
  const TrainOptions options{.lr = 1e-3, .warmup_ratio = 0.1};
  EXPECT_EQ(learning_rate(options, 0, 11), 0);
  EXPECT_DOUBLE_EQ(learning_rate(options, 1, 11), 0.5e-3);
  EXPECT_DOUBLE_EQ(learning_rate(options, 2, 11), 1e-3);
}

TEST(LearningRate, CosineFallsToHalfInTheMiddle) {
  const TrainOptions options{.lr = 2, .schedule = Schedule::kCosine, .warmup_ratio = 0};
  EXPECT_DOUBLE_EQ(learning_rate(options, 0, 8), 2);
  EXPECT_DOUBLE_EQ(learning_rate(options, 4, 8), 1);
  EXPECT_DOUBLE_EQ(learning_rate(options, 2, 8), 1 + std::sqrt(0.5));
  EXPECT_NEAR(learning_rate(options, 8, 8), 0, 1e-15);
}

TEST(LearningRate, LinearAndConstant) {
  const TrainOptions linear{.lr = 2, .schedule = Schedule::kLinear, .warmup_ratio = 0.25};
  EXPECT_DOUBLE_EQ(learning_rate(linear, 1, 8), 1);
  EXPECT_DOUBLE_EQ(learning_rate(linear, 2, 8), 2);
  EXPECT_DOUBLE_EQ(learning_rate(linear, 5, 8), 1);
  const TrainOptions constant{.lr = 2, .schedule = Schedule::kConstant, .warmup_ratio = 0};
  EXPECT_DOUBLE_EQ(learning_rate(constant, 7, 8), 2);
}

TEST(LearningRate, OneStepOnly) {
  const TrainOptions options{.lr = 1, .warmup_ratio = 0.1};
  EXPECT_EQ(learning_rate(options, 0, 1), 0);
}

}  // namespace
}  // namespace vax::train
