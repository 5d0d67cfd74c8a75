// The files of a run's directory as they stand while the run goes on and when it has ended. What
// is in the records is the concern of the tests of io/.
#include "train/run_outputs.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "unit/io/io_test_support.h"
#include "unit/io/sample_records.h"

namespace vax::train {
namespace {

using io::testing::list_directory;
using io::testing::sample_drift;
using io::testing::sample_step;
using Json = nlohmann::json;

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// THROWS when a line is not complete.
std::vector<Json> events_of(const std::filesystem::path& path) {
  std::vector<Json> events;
  std::istringstream lines(text_of(path));
  for (std::string line; std::getline(lines, line);) events.push_back(Json::parse(line));
  return events;
}

const io::StartRecord kStart = {
    .version = "1.2.3", .world_size = 3, .config_json = R"({"train": {"lr": 0.5}})"};

class RunOutputsTest : public ::testing::Test {
 protected:
  io::testing::ScratchDirectory scratch_;
  std::filesystem::path directory_ = scratch_ / "deep/run";
};

TEST_F(RunOutputsTest, MakesTheDirectoryAndItsFilesAtOnce) {
  const RunOutputs outputs(directory_, "[train]\nlr = 0.5\n", kStart, 1);
  EXPECT_EQ(list_directory(directory_),
            (std::vector<std::string>{"config.cfg", "run.h5", "run.jsonl"}));
  EXPECT_EQ(text_of(directory_ / "config.cfg"), "[train]\nlr = 0.5\n");
  const std::vector<Json> events = events_of(directory_ / "run.jsonl");
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0]["event"], "start");
  EXPECT_EQ(events[0]["world_size"], 3);
}

TEST_F(RunOutputsTest, EveryEventIsOnDiskWhenItsCallReturns) {
  RunOutputs outputs(directory_, "", kStart, 2);
  const auto last = [&] { return events_of(directory_ / "run.jsonl").back(); };
  outputs.drift(sample_drift(0));
  EXPECT_EQ(last()["event"], "drift");
  for (int64_t step = 1; step <= 3; ++step) {
    outputs.step(sample_step(step), 3);
    EXPECT_EQ(last()["event"], "step");
    EXPECT_EQ(last()["step"], step);
    EXPECT_EQ(last()["loss"], sample_step(step).loss);
  }
  outputs.drift(sample_drift(3));
  outputs.end("done", 3);
  EXPECT_EQ(last()["event"], "end");
  EXPECT_EQ(last()["status"], "done");
  EXPECT_EQ(last()["steps"], 3);
  EXPECT_GE(last()["seconds"].get<double>(), 0);

  std::vector<std::string> order;
  for (const Json& event : events_of(directory_ / "run.jsonl")) order.push_back(event["event"]);
  EXPECT_EQ(order,
            (std::vector<std::string>{"start", "drift", "step", "step", "step", "drift", "end"}));
  EXPECT_EQ(text_of(directory_ / "run.h5").substr(1, 3), "HDF");  // the format's signature
}

TEST_F(RunOutputsTest, ANewRunReplacesTheFilesOfTheOld) {
  {
    RunOutputs outputs(directory_, "old", kStart, 1);
    outputs.step(sample_step(1), 1);
    outputs.end("done", 1);
  }
  const RunOutputs outputs(directory_, "new", kStart, 1);
  EXPECT_EQ(events_of(directory_ / "run.jsonl").size(), 1u);
  EXPECT_EQ(text_of(directory_ / "config.cfg"), "new");
}

TEST_F(RunOutputsTest, ADirectoryThatCannotBeMadeIsADataError) {
  io::testing::write_text(scratch_ / "file", "");
  io::testing::expect_data_error([&] { RunOutputs(scratch_ / "file/run", "", kStart, 1); },
                                 {"output.dir", "file/run"});
}

TEST(PeakMemory, IsThatOfThisProcess) {
  EXPECT_GT(peak_memory_bytes(), int64_t{1} << 20);
  EXPECT_LT(peak_memory_bytes(), int64_t{1} << 40);
}

}  // namespace
}  // namespace vax::train
