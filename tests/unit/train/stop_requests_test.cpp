#include "train/stop_requests.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "unit/io/io_test_support.h"

namespace vax::train {
namespace {

volatile sig_atomic_t num_handled_before = 0;
void count_signal(int) { num_handled_before = num_handled_before + 1; }

TEST(StopSignals, AreRememberedUntilTheEnd) {
  {
    const StopSignals signals({StopSignal::kUsr1, StopSignal::kTerm}, 100, 3);
    EXPECT_FALSE(StopSignals::received());
    ::raise(SIGTERM);
    EXPECT_TRUE(StopSignals::received());
    ::raise(SIGTERM);
    ::raise(SIGUSR1);
    EXPECT_TRUE(StopSignals::received());
  }
  EXPECT_FALSE(StopSignals::received());
  EXPECT_EQ(::alarm(0), 0U) << "the limit ends with the object";
}

TEST(StopSignals, OneThatComesTooLateKillsNobody) {
  { const StopSignals signals({StopSignal::kUsr1}, 100, 3); }
  ::raise(SIGUSR1);
  EXPECT_FALSE(StopSignals::received());
  EXPECT_EQ(::alarm(0), 0U);
  ::signal(SIGUSR1, SIG_DFL);
}

TEST(StopSignals, OnlyThoseNamed) {
  ::signal(SIGUSR2, &count_signal);
  num_handled_before = 0;
  const StopSignals signals({StopSignal::kUsr1}, 100, 3);
  ::raise(SIGUSR2);
  EXPECT_FALSE(StopSignals::received());
  EXPECT_EQ(num_handled_before, 1);
  ::signal(SIGUSR2, SIG_DFL);
}

TEST(StopSignals, NamesAreThoseOfTheSystem) {
  for (const std::string_view word : words_of(StopSignal{})) {
    const StopSignals signals({*choice_of<StopSignal>(word)}, 100, 3);
    for (const int number : {SIGHUP, SIGINT, SIGUSR1, SIGUSR2, SIGTERM})
      if (::sigabbrev_np(number) == word) ::raise(number);
    EXPECT_TRUE(StopSignals::received()) << word;
  }
}

TEST(StopSignals, TheLimitEndsTheProcess) {
  EXPECT_EXIT(
      {
        const StopSignals signals({StopSignal::kUsr1}, 0.1, 42);
        ::raise(SIGUSR1);
        std::this_thread::sleep_for(std::chrono::seconds(60));
        ::_exit(0);
      },
      ::testing::ExitedWithCode(42), "checkpoint.stop_limit_s");
}

TEST(StopSignals, ALiftedLimitDoesNot) {
  const StopSignals signals({StopSignal::kUsr1}, 100, 42);
  ::raise(SIGUSR1);
  StopSignals::lift_limit();
  EXPECT_EQ(::alarm(0), 0U);
  EXPECT_TRUE(StopSignals::received());
}

TEST(StopSignals, NorDoesOneThatComesLater) {
  const StopSignals signals({StopSignal::kUsr1}, 100, 42);
  StopSignals::lift_limit();
  ::raise(SIGUSR1);
  EXPECT_EQ(::alarm(0), 0U);
}

TEST(RequestFiles, AreSeenAtTheFirstLookAndTakenOnce) {
  const io::testing::ScratchDirectory directory;
  RequestFiles none(directory.path());
  EXPECT_FALSE(none.stop_requested());
  EXPECT_FALSE(none.save_requested());
  EXPECT_FALSE(none.forget());

  std::ofstream(directory / "save") << "";
  std::ofstream(directory / "stop") << "";
  RequestFiles files(directory.path());
  EXPECT_TRUE(files.save_requested());
  EXPECT_FALSE(files.save_requested());
  EXPECT_TRUE(files.stop_requested());
  EXPECT_TRUE(files.stop_requested());
  EXPECT_EQ(io::testing::list_directory(directory.path()), std::vector<std::string>{"stop"});
  EXPECT_TRUE(files.forget());
  EXPECT_TRUE(io::testing::list_directory(directory.path()).empty());
}

TEST(RequestFiles, ARequestThatCannotBeRemovedCountsOnce) {
  const io::testing::ScratchDirectory directory;
  // A directory with something in it stays.
  std::filesystem::create_directories(directory / "save" / "inside");
  RequestFiles files(directory.path());
  EXPECT_TRUE(files.save_requested());
  std::this_thread::sleep_for(std::chrono::milliseconds(600));
  EXPECT_FALSE(files.save_requested());
}

}  // namespace
}  // namespace vax::train
