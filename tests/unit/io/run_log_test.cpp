// run.jsonl: field names, numbers, whole lines after every call and after a failed one.
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
  RunLog log_{path_};
};

TEST_F(RunLogTest, StepHasTheDocumentedFieldsInOrder) {
  log_.write(sample_step(1));
  const ordered_json step = lines().at(0);  // readable while the log is open
  std::vector<std::string> keys;
  for (const auto& [key, value] : step.items()) keys.push_back(key);
  EXPECT_EQ(keys, (std::vector<std::string>{"event", "step", "epoch", "loss", "clean_loss", "lr",
                                            "grad_norm", "hidden_grad_norm", "rho", "sequences",
                                            "tokens", "label_tokens", "step_s", "pass1_s", "comm_s",
                                            "comm_bytes", "probe_cosine", "memory_bytes"}));
  EXPECT_EQ(step["event"], "step");
  EXPECT_EQ(step["memory_bytes"], (int64_t{1} << 40) + 1);
  EXPECT_EQ(step["comm_bytes"], (int64_t{1} << 33) + 1);
  EXPECT_EQ(step["probe_cosine"], 1 - 1.0 / 64);
  EXPECT_TRUE(step["hidden_grad_norm"].is_number());
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
  StartRecord record;
  record.version = "0.1.0";
  record.world_size = 4;
  record.config_json = R"({"train": {"lr": 0.001, "method": "vaccine"}})";
  record.data = {{"align", "data/\xff.json", "abc", 12}};  // a path need not be UTF-8
  record.model_path = "models/m";
  record.model_parameters = 13'000'000'000;
  record.model_trainable = 31'293'440;
  log_.write(record);
  const ordered_json start = lines().at(0);
  EXPECT_EQ(start["event"], "start");
  EXPECT_EQ(start["config"]["train"]["method"], "vaccine");
  EXPECT_EQ(start["data"][0]["rows"], 12);
  EXPECT_EQ(start["model"]["parameters"], 13'000'000'000);
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
}

TEST_F(RunLogTest, EndAndOrder) {
  log_.write(sample_step(1));
  log_.write(EndRecord{"done", 1, 2.5});
  ASSERT_EQ(lines().size(), 2u);
  EXPECT_EQ(lines()[1].dump(), R"({"event":"end","status":"done","steps":1,"seconds":2.5})");
}

TEST_F(RunLogTest, FullDiskLeavesWholeLinesAndTheLogUsable) {
  // Room for two steps and an end line, far less than a step's.
  RunLog other(scratch_ / "other.jsonl");
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

}  // namespace
}  // namespace vax::io
