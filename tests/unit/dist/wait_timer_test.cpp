#include "dist/watch/wait_timer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <vector>

namespace vax::dist {
namespace {

using Time = CallRecord::Time;

Time at(double seconds) {
  return Time(std::chrono::duration_cast<Time::duration>(std::chrono::duration<double>(seconds)));
}

TEST(WaitTimer, AddsUpLooksAtOneWait) {
  WaitTimer timer(0.5);
  const Wait wait{7, at(100)};
  timer.look({}, at(100));
  EXPECT_FALSE(timer.longest().has_value());
  for (int i = 0; i <= 10; ++i) timer.look({wait}, at(100.1 + 0.25 * i));
  ASSERT_TRUE(timer.longest().has_value());
  EXPECT_EQ(timer.longest()->wait, wait);
  EXPECT_NEAR(timer.longest()->seconds, 2.5, 1e-9);
  EXPECT_TRUE(timer.goes_on(wait));
}

TEST(WaitTimer, AJumpOfTheClockCountsAsOneStep) {
  WaitTimer timer(0.5);
  const Wait wait{7, at(0)};
  timer.look({wait}, at(0));
  timer.look({wait}, at(0.25));
  timer.look({wait}, at(1000));  // stopped and continued
  timer.look({wait}, at(1000.25));
  EXPECT_NEAR(timer.longest()->seconds, 1.0, 1e-9);
  EXPECT_NEAR(timer.awake_s(), 1.0, 1e-9);
}

TEST(WaitTimer, EveryWaitBeginsAnew) {
  WaitTimer timer(1);
  const Wait first{7, at(0)}, again{7, at(2)}, next{8, at(3)};
  timer.look({first}, at(0));
  timer.look({first}, at(1));
  timer.look({again}, at(2));  // the same call, waited for once more
  EXPECT_NEAR(timer.longest()->seconds, 0, 1e-9);
  EXPECT_FALSE(timer.goes_on(first));
  timer.look({again, next}, at(3));
  timer.look({again, next}, at(4));
  EXPECT_EQ(timer.longest()->wait, again);
  EXPECT_NEAR(timer.longest()->seconds, 2, 1e-9);
  timer.look({next}, at(4.5));
  EXPECT_EQ(timer.longest()->wait, next);
  EXPECT_NEAR(timer.longest()->seconds, 1.5, 1e-9);
  timer.look({}, at(5));
  EXPECT_FALSE(timer.longest().has_value());
}

}  // namespace
}  // namespace vax::dist
