// main() of every MPI test program: all ranks run the same tests in the same order. Rank 0 prints
// in full, the others their failures only. When a test ends the ranks tell each other how it went,
// so that a test counts as failed when it fails anywhere. A rank that leaves a test early (a fatal
// failure, an exception) would leave the others waiting in a collective: exceptions end all ranks
// at once, and a rank that nobody joins at the end of a test ends them after a while.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <exception>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "dist/comm/communicator.h"
#include "dist/comm/environment.h"

namespace {

using vax::cat;

constexpr std::chrono::seconds kPatience{60};
constexpr int kFailureExit = 1;
// Programs that need a device skip their tests where there is none.
#ifdef VAX_TESTS_MAY_SKIP
constexpr bool kMaySkip = true;
#else
constexpr bool kMaySkip = false;
#endif

// Prints a failed assertion with the rank; everything else is left to rank 0.
void print_failure(const testing::TestPartResult& result, int rank) {
  std::cerr << cat("[rank ", rank, "] ", result.file_name() ? result.file_name() : "?", ":",
                   result.line_number(), ": Failure\n", result.message(), "\n");
}

// Agreement over the ranks at the end of each test.
class RankAgreement : public testing::EmptyTestEventListener {
 public:
  explicit RankAgreement(const vax::dist::Communicator& world)
      : group_(world.make_collectives()), outcomes_(static_cast<size_t>(world.size())) {}

  bool all_passed() const { return all_passed_; }

 private:
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (group_->rank() != 0 && result.failed()) print_failure(result, group_->rank());
  }

  void OnTestEnd(const testing::TestInfo& info) override {
    const std::string test = cat(info.test_suite_name(), ".", info.name());
    // A skip would hide what was not tested.
    const bool passed = info.result()->Passed() || (kMaySkip && info.result()->Skipped());
    const int32_t failed = passed ? 0 : 1;
    vax::dist::Work work =
        group_->all_gather(&failed, outcomes_.data(), 1, vax::dist::DataType::kInt32);
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!work.test()) {
      if (std::chrono::steady_clock::now() > deadline) {
        vax::log::error(cat(test, failed ? " failed" : " ended",
                            " here, but other ranks are still ", "in it after ", kPatience.count(),
                            " s: ending all ranks"));
        vax::dist::Environment::abort(kFailureExit);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    for (size_t rank = 0; rank < outcomes_.size(); ++rank) {
      if (outcomes_[rank] == 0) continue;
      all_passed_ = false;
      if (group_->rank() == 0)
        std::cout << cat("[  FAILED  ] ", test, " on rank ", rank, "\n") << std::flush;
    }
  }

  std::unique_ptr<vax::dist::Collectives> group_;
  std::vector<int32_t> outcomes_;
  bool all_passed_ = true;
};

int run_tests() {
  const vax::dist::Communicator world = vax::dist::Communicator::world();
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  if (world.rank() != 0) delete listeners.Release(listeners.default_result_printer());
  auto owned = std::make_unique<RankAgreement>(world);
  RankAgreement* const agreement = owned.get();
  listeners.Append(owned.release());
  const int exit_code = RUN_ALL_TESTS();
  // Back before MPI ends: its group must not outlive the Environment.
  const std::unique_ptr<testing::TestEventListener> returned(listeners.Release(agreement));
  return exit_code == 0 && !agreement->all_passed() ? kFailureExit : exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  testing::FLAGS_gtest_catch_exceptions = false;
  try {
    vax::dist::Environment environment(&argc, &argv);
    try {
      return run_tests();
    } catch (const std::exception& error) {
      const testing::TestInfo* const test = testing::UnitTest::GetInstance()->current_test_info();
      vax::log::error(
          cat(test ? cat(test->test_suite_name(), ".", test->name(), ": ") : "", error.what()));
      vax::dist::Environment::abort(kFailureExit);
    }
  } catch (const std::exception& error) {
    vax::log::error(error.what());
    return kFailureExit;
  }
}
