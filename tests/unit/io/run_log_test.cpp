// run.jsonl: field names, numbers, whole lines after every call and after a failed one.
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/atomic_file.h"
#include "base/error.h"
#include "io/run_file.h"
#include "io_test_support.h"
#include "sample_records.h"

namespace vax::io {
namespace {

using nlohmann::ordered_json;
using testing::sample_drift;
using testing::sample_figures;
using testing::sample_step;
using testing::ScratchDirectory;

class RunLogTest : public ::testing::Test {
 protected:
  std::vector<ordered_json> lines() const {
    std::istringstream in(read_file(path_));
    std::vector<ordered_json> parsed;
    for (std::string line; std::getline(in, line);) parsed.push_back(ordered_json::parse(line));
    return parsed;
  }

  ScratchDirectory scratch_;
  std::filesystem::path path_ = scratch_ / "run.jsonl";
  RunLog log_{path_, sample_figures()};
};

TEST_F(RunLogTest, StepHasTheDocumentedFieldsInOrder) {
  log_.write(sample_step(1));
  const ordered_json step = lines().at(0);  // readable while the log is open
  std::vector<std::string> keys;
  for (const auto& [key, value] : step.items()) keys.push_back(key);
  EXPECT_EQ(keys,
            (std::vector<std::string>{"event", "step", "epoch", "loss", "clean_loss", "lr",
                                      "grad_norm", "hidden_grad_norm", "rho", "sequences", "tokens",
                                      "label_tokens", "step_s", "pass1_s", "comm_s", "comm_bytes",
                                      "probe_cosine", "memory_bytes", "layer_grad_norm"}));
  EXPECT_EQ(step["event"], "step");
  EXPECT_EQ(step["memory_bytes"], (int64_t{1} << 40) + 1);
  EXPECT_EQ(step["comm_bytes"], (int64_t{1} << 33) + 1);
  EXPECT_EQ(step["probe_cosine"], 1 - 1.0 / 64);
  EXPECT_TRUE(step["hidden_grad_norm"].is_number());
  EXPECT_EQ(step["layer_grad_norm"], ordered_json({1.0, 2.0, 3.0}));
}

TEST_F(RunLogTest, StepsWithoutAProbeCheckHaveNullProbeCosine) {
  log_.write(sample_step(3));
  EXPECT_TRUE(lines().at(0)["probe_cosine"].is_null());
}

TEST_F(RunLogTest, MemoryHasItsPartsInOrder) {
  log_.write(testing::sample_memory());
  const ordered_json expected = {
      {"event", "memory"},
      {"parts",
       {{"weights",
         {{"planned_bytes", (int64_t{1} << 40) + 1}, {"measured_bytes", (int64_t{1} << 40) + 2}}},
        {"slots", {{"planned_bytes", 0}, {"measured_bytes", 3}}},
        {"activations", {{"planned_bytes", 5}, {"measured_bytes", 4}}}}},
      {"process_bytes", (int64_t{1} << 41) + 6}};
  EXPECT_EQ(lines().at(0).dump(), expected.dump());
}

TEST_F(RunLogTest, OnePassStepsHaveNullHiddenGradNorm) {
  log_.write(sample_step(2));
  EXPECT_TRUE(lines().at(0)["layer_grad_norm"].is_null());
  EXPECT_TRUE(lines().at(0)["hidden_grad_norm"].is_null());
}

TEST_F(RunLogTest, DoublesRoundTripAndNonFiniteBecomesNull) {
  StepRecord record = sample_step(1);
  record.loss = 0.1 + 0.2;
  record.lr = 5e-324;
  record.grad_norm = std::numeric_limits<double>::quiet_NaN();
  record.clean_loss = std::numeric_limits<double>::infinity();
  log_.write(record);
  const ordered_json step = lines().at(0);
  EXPECT_EQ(step["loss"].get<double>(), 0.1 + 0.2);
  EXPECT_EQ(step["lr"].get<double>(), 5e-324);
  EXPECT_TRUE(step["grad_norm"].is_null());
  EXPECT_TRUE(step["clean_loss"].is_null());
}

TEST_F(RunLogTest, StartHoldsTheConfigurationAsAnObject) {
  StartRecord record = testing::sample_start();
  record.data[0].path = "data/\xff.json";  // a path need not be UTF-8
  log_.write(record);
  const ordered_json start = lines().at(0);
  EXPECT_EQ(start["event"], "start");
  EXPECT_EQ(start["config"]["train"]["method"], "vaccine");
  EXPECT_EQ(start["data"][0]["rows"], 12);
  EXPECT_EQ(start["model"]["parameters"], 13'000'000'000);
  EXPECT_EQ(start["config_text"], "[train]\nlr = 0.001\n");
  record.config_json = "[1]";
  EXPECT_THROW(log_.write(record), std::logic_error);
}

TEST_F(RunLogTest, DriftSumsOverBatches) {
  log_.write(sample_drift(4));
  const ordered_json drift = lines().at(0);
  EXPECT_EQ(drift["event"], "drift");
  EXPECT_EQ(drift["samples"], 10);
  ASSERT_EQ(drift["layers"].size(), 3u);
  EXPECT_EQ(drift["layers"][2]["layer"], 2);
  EXPECT_EQ(drift["layers"][2]["l2sq"], 420.0 + 421.0);
  EXPECT_EQ(drift["layers"][2]["cosine"], 420.2);
  EXPECT_EQ(drift["layers"][2]["tokens"], 74 + 84);
  EXPECT_EQ(drift["batches"].dump(),
            R"({"tokens":[74,84],"l2sq":[[400.0,401.0],[410.0,411.0],[420.0,421.0]]})");
}

TEST_F(RunLogTest, CheckpointAndResume) {
  log_.write(testing::sample_checkpoint(4));
  log_.write(testing::sample_resume(4));
  EXPECT_EQ(lines().at(0).dump(), R"({"event":"checkpoint","step":4,"path":"checkpoints/step-4",)"
                                  R"("bytes":34359738372,"stall_s":0.25})");
  const ordered_json resume = lines().at(1);
  EXPECT_EQ(resume["event"], "resume");
  EXPECT_EQ(resume["step"], 4);
  EXPECT_EQ(resume["path"], "checkpoints/step-4");
  EXPECT_EQ(resume["world_size"], 2);
  EXPECT_EQ(resume["rejected"].dump(),
            R"([{"path":"checkpoints/step-9","reason":"rank-00001.h5: hash differs"},)"
            R"({"path":"b","reason":"\"c\""}])");
}

TEST_F(RunLogTest, EndAndOrder) {
  log_.write(sample_step(1));
  log_.write(EndRecord{"done", 1, 2.5});
  ASSERT_EQ(lines().size(), 2u);
  EXPECT_EQ(lines()[1].dump(), R"({"event":"end","status":"done","steps":1,"seconds":2.5})");
}

TEST_F(RunLogTest, FullDiskLeavesWholeLinesAndTheLogUsable) {
  // Room for two steps and an end line, far less than a step's.
  RunLog other(scratch_ / "other.jsonl", sample_figures());
  other.write(sample_step(1));
  other.write(sample_step(2));
  const auto limit = std::filesystem::file_size(scratch_ / "other.jsonl") + 100;
  const std::string outcome = testing::run_with_file_limit(limit, [&] {
    int64_t failures = 0;
    for (int64_t step = 1; step <= 10; ++step) {
      try {
        log_.write(sample_step(step));
      } catch (const WriteError&) {
        ++failures;
      }
    }
    log_.write(EndRecord{"done", failures, 0});  // short enough to fit
  });
  EXPECT_EQ(outcome, "no error");
  const std::vector<ordered_json> parsed = lines();  // every line parses
  ASSERT_GE(parsed.size(), 2u);
  EXPECT_EQ(parsed.back()["event"], "end");
  EXPECT_EQ(parsed.back()["steps"], 10 - (static_cast<int64_t>(parsed.size()) - 1));
}

// A log as a run leaves it that was killed: a checkpoint is recorded when a later step is done.
class ReopenTest : public ::testing::Test {
 protected:
  ReopenTest() {
    RunLog log(path_, sample_figures());
    log.write(testing::sample_start());
    for (int64_t step = 1; step <= 3; ++step) log.write(sample_step(step));
    log.write(sample_drift(3));
    log.write(testing::sample_checkpoint(2));
    log.write(sample_step(4));
  }

  void append(std::string_view text) const {
    std::ofstream(path_, std::ios::binary | std::ios::app) << text;
  }
  // "start", "step 1", ...
  std::vector<std::string> events() const {
    std::vector<std::string> found;
    std::istringstream in(read_file(path_));
    for (std::string line; std::getline(in, line);) {
      const ordered_json event = ordered_json::parse(line);
      found.push_back(event["event"]);
      if (event.contains("step")) found.back() += cat(" ", event["step"].get<int64_t>());
    }
    return found;
  }
  std::optional<RunLog> reopen(int64_t last_step) const {
    return RunLog::reopen(path_, sample_figures(), last_step);
  }
  using Events = std::vector<std::string>;

  ScratchDirectory scratch_;
  std::filesystem::path path_ = scratch_ / "run.jsonl";
};

TEST_F(ReopenTest, CutsLaterStepsAndGoesOn) {
  RunLog log = reopen(2).value();
  EXPECT_EQ(events(), (Events{"start", "step 1", "step 2", "checkpoint 2"}));
  log.write(testing::sample_resume(2));
  log.write(sample_step(3));
  EXPECT_EQ(events(), (Events{"start", "step 1", "step 2", "checkpoint 2", "resume 2", "step 3"}));
  EXPECT_EQ(testing::list_directory(scratch_.path()), (Events{"run.jsonl"}));
}

TEST_F(ReopenTest, KeepsEveryByteOfALogWithNothingToCut) {
  const std::string before = read_file(path_);
  RunLog log = reopen(4).value();
  EXPECT_EQ(read_file(path_), before);
  log.write(sample_step(5));
  EXPECT_TRUE(read_file(path_).starts_with(before));
  EXPECT_EQ(events().back(), "step 5");
}

TEST_F(ReopenTest, ALineThatIsCutOffGoes) {
  const std::string before = read_file(path_);
  for (const std::string_view part : {"{\"event\": \"st", "{}", "\0\0\0"}) {
    append(part);
    reopen(4).value();
    EXPECT_EQ(read_file(path_), before) << part;
  }
}

TEST_F(ReopenTest, WhatClosedTheRunGoes) {
  const std::string before = read_file(path_);
  {
    RunLog log = reopen(4).value();
    log.write(testing::sample_memory());
    log.write(EndRecord{"done", 4, 1});
    log.write(testing::sample_checkpoint(4));
  }
  RunLog log = reopen(4).value();
  EXPECT_EQ(events(), (Events{"start", "step 1", "step 2", "step 3", "drift 3", "checkpoint 2",
                              "step 4", "checkpoint 4"}));
  EXPECT_TRUE(read_file(path_).starts_with(before));
  log.write(sample_step(5));
  EXPECT_EQ(events().back(), "step 5");
}

TEST_F(ReopenTest, ResumeLinesOfStepsThatAreCutGoToo) {
  reopen(4).value().write(testing::sample_resume(4));
  reopen(3).value();
  EXPECT_EQ(events(), (Events{"start", "step 1", "step 2", "step 3", "drift 3", "checkpoint 2"}));
}

TEST_F(ReopenTest, NothingToGoOnWith) {
  EXPECT_FALSE(RunLog::reopen(scratch_ / "none.jsonl", sample_figures(), 2));
  for (const std::string_view text : {"", "{\"event\": \"sta"}) {
    testing::write_text(path_, text);
    EXPECT_FALSE(reopen(2)) << text;
    EXPECT_EQ(read_file(path_), text);
  }
}

TEST_F(ReopenTest, ADamagedLogStaysAsItIs) {
  append("{\"event\": \"step\"}\n");
  const std::string before = read_file(path_);
  testing::expect_data_error([&] { reopen(2); }, {"run.jsonl:8", "lacks step"});
  EXPECT_EQ(read_file(path_), before);
}

TEST_F(ReopenTest, FullDiskWhileCuttingLeavesTheLog) {
  const std::string before = read_file(path_);
  const std::string outcome = testing::run_with_file_limit(100, [&] { reopen(2); });
  EXPECT_TRUE(outcome.starts_with("WriteError: ")) << outcome;
  EXPECT_EQ(read_file(path_), before);
  EXPECT_EQ(testing::list_directory(scratch_.path()), (Events{"run.jsonl"}));
}

}  // namespace
}  // namespace vax::io
