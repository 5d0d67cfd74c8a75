// Loops over threads: every element once, in ranges of the grain, on as many threads as LibTorch
// was told; serial inside another loop; exceptions come out.
#include "ops/parallel.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace vax::ops {
namespace {

class ParallelTest : public ::testing::Test {
 protected:
  void TearDown() override { at::set_num_threads(before_); }
  // How often each of [0, count) was visited, and the ranges.
  struct Visits {
    std::vector<int> counts;
    std::vector<int64_t> sizes;
    std::set<std::thread::id> threads;
  };
  static Visits visit(int64_t count, int64_t grain) {
    Visits visits{.counts = std::vector<int>(static_cast<size_t>(count))};
    std::mutex mutex;
    parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
      const std::lock_guard lock(mutex);
      for (int64_t i = begin; i < end; ++i) ++visits.counts[static_cast<size_t>(i)];
      visits.sizes.push_back(end - begin);
      visits.threads.insert(std::this_thread::get_id());
    });
    return visits;
  }
  int before_ = at::get_num_threads();
};

TEST_F(ParallelTest, VisitsEveryElementOnce) {
  for (const int threads : {1, 2, 3, 5}) {
    at::set_num_threads(threads);
    for (const int64_t count : {0, 1, 2, 7, 64, 1000})
      for (const int64_t grain : {0, 1, 3, 100, 5000}) {
        const Visits visits = visit(count, grain);
        EXPECT_EQ(visits.counts, std::vector<int>(static_cast<size_t>(count), 1))
            << threads << " threads, " << count << " elements, grain " << grain;
        EXPECT_LE(visits.sizes.size(), static_cast<size_t>(threads));
        size_t short_ranges = 0;
        for (const int64_t size : visits.sizes) short_ranges += size < std::min(grain, count);
        EXPECT_LE(short_ranges, 1u);
      }
  }
}

TEST_F(ParallelTest, TakesTheThreadsOfLibTorch) {
  for (const int threads : {1, 2, 4}) {
    at::set_num_threads(threads);
    EXPECT_EQ(visit(1000, 1).threads.size(), static_cast<size_t>(threads));
    EXPECT_EQ(may_run_parallel(), threads > 1);
  }
  EXPECT_EQ(visit(1000, 1000).threads, std::set{std::this_thread::get_id()});
}

TEST_F(ParallelTest, IsSerialInsideAnotherLoop) {
  at::set_num_threads(2);
  std::atomic<int> inner_ranges = 0, parallel_inside = 0;
  parallel_for(0, 2, 1, [&](int64_t, int64_t) {
    parallel_inside += may_run_parallel();
    parallel_for(0, 100, 1, [&](int64_t, int64_t) { ++inner_ranges; });
  });
  EXPECT_EQ(inner_ranges, 2);
  EXPECT_EQ(parallel_inside, 0);
}

TEST_F(ParallelTest, ThrowsWhatABodyThrows) {
  at::set_num_threads(3);
  for (const int64_t bad : {0, 50, 99}) {
    const auto fail = [bad](int64_t begin, int64_t end) {
      if (begin <= bad && bad < end) throw std::runtime_error("bad");
    };
    EXPECT_THROW(parallel_for(0, 100, 1, fail), std::runtime_error) << bad;
  }
}

}  // namespace
}  // namespace vax::ops
