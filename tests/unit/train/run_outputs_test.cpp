// The files of a run's directory as they stand while the run goes on and when it has ended. What
// is in the records is the concern of the tests of io/.
#include "train/run_outputs.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "unit/io/hdf5_test_reader.h"
#include "unit/io/io_test_support.h"
#include "unit/io/sample_records.h"

namespace vax::train {
namespace {

using io::testing::list_directory;
using io::testing::Reader;
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
  // "start", "step 1", ...
  std::vector<std::string> order() const {
    std::vector<std::string> found;
    for (const Json& event : events_of(directory_ / "run.jsonl")) {
      found.push_back(event["event"]);
      if (event.contains("step")) found.back() += cat(" ", event["step"].get<int64_t>());
    }
    return found;
  }
  using Order = std::vector<std::string>;
  RunDescription run(const std::string& config_text, int64_t log_interval) const {
    return {.directory = directory_,
            .config_text = config_text,
            .start = kStart,
            .figures = io::testing::sample_figures(),
            .log_interval = log_interval};
  }
  RunDescription resumed(const std::string& config_text, const io::ResumeRecord& resume) const {
    RunDescription description = run(config_text, 1);
    description.resume = resume;
    return description;
  }

  io::testing::ScratchDirectory scratch_;
  std::filesystem::path directory_ = scratch_ / "deep/run";
};

TEST_F(RunOutputsTest, MakesTheDirectoryAndItsFilesAtOnce) {
  const RunOutputs outputs(run("[train]\nlr = 0.5\n", 1));
  EXPECT_EQ(list_directory(directory_),
            (std::vector<std::string>{"config.cfg", "run.h5", "run.jsonl"}));
  EXPECT_EQ(text_of(directory_ / "config.cfg"), "[train]\nlr = 0.5\n");
  const std::vector<Json> events = events_of(directory_ / "run.jsonl");
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0]["event"], "start");
  EXPECT_EQ(events[0]["world_size"], 3);
}

TEST_F(RunOutputsTest, EveryEventIsOnDiskWhenItsCallReturns) {
  RunOutputs outputs(run("", 2));
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
  EXPECT_EQ(order(), (Order{"start", "drift 0", "step 1", "step 2", "step 3", "drift 3", "end"}));
  EXPECT_EQ(Reader(directory_ / "run.h5").column("step"), (std::vector<double>{1, 2, 3}));
  EXPECT_EQ(Reader(directory_ / "run.h5").numbers("drift/step"), (std::vector<double>{0, 3}));
}

TEST_F(RunOutputsTest, ANewRunReplacesTheFilesOfTheOld) {
  {
    RunOutputs outputs(run("old", 1));
    outputs.step(sample_step(1), 1);
    outputs.end("done", 1);
  }
  const RunOutputs outputs(run("new", 1));
  EXPECT_EQ(events_of(directory_ / "run.jsonl").size(), 1u);
  EXPECT_EQ(text_of(directory_ / "config.cfg"), "new");
}

// A run killed in step 4 whose last checkpoint is of step 2.
TEST_F(RunOutputsTest, GoesOnAfterTheStepOfACheckpoint) {
  {
    RunOutputs killed(run("old", 1));
    for (int64_t step = 1; step <= 3; ++step) killed.step(sample_step(step), 5);
    killed.drift(sample_drift(3));
    killed.checkpoint(io::testing::sample_checkpoint(2));
    killed.sync();
    killed.end("stopped", 3);
  }
  std::ofstream(directory_ / "run.jsonl", std::ios::app) << R"({"event": "st)";
  const io::ResumeRecord resume = io::testing::sample_resume(2);
  {
    RunOutputs outputs(resumed("new", resume));
    EXPECT_EQ(order(), (Order{"start", "step 1", "step 2", "checkpoint 2", "resume 2"}));
    EXPECT_EQ(events_of(directory_ / "run.jsonl").back()["world_size"], resume.world_size);
    EXPECT_EQ(text_of(directory_ / "config.cfg"), "new");
    const Reader reader(directory_ / "run.h5");
    EXPECT_EQ(reader.column("step"), (std::vector<double>{1, 2}));
    EXPECT_FALSE(reader.has("drift"));
    EXPECT_EQ(reader.text_attribute("config"), "new");
    EXPECT_EQ(reader.text_attribute("program_version"), "1.2.3");
    for (int64_t step = 3; step <= 4; ++step) outputs.step(sample_step(step), 4);
    outputs.drift(sample_drift(4));
    outputs.memory(io::testing::sample_memory());
    outputs.end("done", 4);
  }
  EXPECT_EQ(order(), (Order{"start", "step 1", "step 2", "checkpoint 2", "resume 2", "step 3",
                            "step 4", "drift 4", "memory", "end"}));
  const Reader reader(directory_ / "run.h5");
  EXPECT_EQ(reader.column("step"), (std::vector<double>{1, 2, 3, 4}));
  EXPECT_EQ(reader.numbers("perturbation/step"), (std::vector<double>{1, 3}));
  EXPECT_EQ(reader.numbers("drift/step"), (std::vector<double>{4}));
  EXPECT_EQ(list_directory(directory_), (Order{"config.cfg", "run.h5", "run.jsonl"}));
}

TEST_F(RunOutputsTest, ACheckpointFromElsewhereBeginsALog) {
  for (const char* old : {"nothing", "", "{\"event\": \"sta"}) {
    std::filesystem::create_directories(directory_);
    if (old != std::string_view("nothing")) io::testing::write_text(directory_ / "run.jsonl", old);
    RunOutputs outputs(resumed("", io::testing::sample_resume(7)));
    outputs.step(sample_step(8), 8);
    EXPECT_EQ(order(), (Order{"start", "resume 7", "step 8"})) << old;
    std::filesystem::remove(directory_ / "run.jsonl");
  }
}

TEST_F(RunOutputsTest, ADamagedLogEndsTheResumeAndStays) {
  std::filesystem::create_directories(directory_);
  io::testing::write_text(directory_ / "run.jsonl", "{}\n");
  io::testing::expect_data_error([&] { RunOutputs(resumed("", io::testing::sample_resume(7))); },
                                 {"run.jsonl:1", "lacks event"});
  EXPECT_EQ(text_of(directory_ / "run.jsonl"), "{}\n");
}

TEST_F(RunOutputsTest, WhatPreventsRunH5DoesNotStopTheRun) {
  const std::filesystem::path h5 = directory_ / "run.h5";
  RunOutputs outputs(run("", 1));
  std::filesystem::remove(h5);
  std::filesystem::create_directories(h5 / "in the way");
  outputs.step(sample_step(1), 1);
  outputs.end("done", 1);
  EXPECT_EQ(order(), (Order{"start", "step 1", "end"}));
  EXPECT_TRUE(std::filesystem::is_directory(h5));

  std::filesystem::remove_all(h5);
  outputs.end("done", 1);  // made anew from run.jsonl
  EXPECT_EQ(Reader(h5).column("step"), (std::vector<double>{1}));
}

TEST_F(RunOutputsTest, ItsEndBringsRunH5UpToDate) {
  {
    RunOutputs outputs(run("", 1));
    outputs.step(sample_step(1), 2);
    EXPECT_TRUE(Reader(directory_ / "run.h5").column("step").empty());
  }  // as when an error ends the run
  EXPECT_EQ(Reader(directory_ / "run.h5").column("step"), (std::vector<double>{1}));
}

TEST_F(RunOutputsTest, ADirectoryThatCannotBeMadeIsADataError) {
  io::testing::write_text(scratch_ / "file", "");
  RunDescription in_the_way = run("", 1);
  in_the_way.directory = scratch_ / "file/run";
  io::testing::expect_data_error([&] { RunOutputs{in_the_way}; }, {"output.dir", "file/run"});
}

TEST(PeakMemory, IsThatOfThisProcess) {
  EXPECT_GT(peak_memory_bytes(), int64_t{1} << 20);
  EXPECT_LT(peak_memory_bytes(), int64_t{1} << 40);
}

}  // namespace
}  // namespace vax::train
