// Reading run.jsonl: every record as it was written, the one fault that passes, and those that do
// not, each with its line.
#include "io/run_log_reader.h"

#include <cmath>
#include <fstream>
#include <limits>

#include "base/atomic_file.h"
#include "io/run_file.h"
#include "io_test_support.h"
#include "sample_records.h"

namespace vax::io {
namespace {

using testing::expect_data_error;
using testing::sample_drift;
using testing::sample_figures;
using testing::sample_step;

class RunLogReaderTest : public ::testing::Test {
 protected:
  // The text of one line that RunLog writes for a record.
  template <typename Record>
  std::string line_of(const Record& record) const {
    RunLog(scratch_ / "line.jsonl", sample_figures()).write(record);
    return read_file(scratch_ / "line.jsonl");
  }
  std::vector<RunEvent> read(std::string_view text) {
    testing::write_text(path_, text);
    std::vector<RunEvent> events;
    extent_ =
        read_run_log(path_, sample_figures(), [&](const RunEvent& event, const RunLogLine& line) {
          EXPECT_EQ(line.number, static_cast<int64_t>(events.size()) + 1);
          EXPECT_EQ(text[static_cast<size_t>(line.begin)], '{');
          EXPECT_EQ(text[static_cast<size_t>(line.end) - 1], '\n');
          events.push_back(event);
        });
    return events;
  }
  // As the log's second line, which `parts` and its number describe.
  void refused(const std::string& line, std::vector<std::string> parts) {
    parts.push_back("run.jsonl:2: ");
    expect_data_error([&] { read(start_ + line + "\n"); }, parts);
  }
  template <typename Record>
  Record second(const Record& record) {
    return std::get<Record>(read(start_ + line_of(record)).at(1));
  }

  testing::ScratchDirectory scratch_;
  std::filesystem::path path_ = scratch_ / "run.jsonl";
  RunLogExtent extent_;
  std::string start_ = line_of(testing::sample_start());
};

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST_F(RunLogReaderTest, StartAsItWasWritten) {
  const StartRecord expected = testing::sample_start();
  const auto start = std::get<StartRecord>(read(start_).at(0));
  EXPECT_EQ(start.version, expected.version);
  EXPECT_EQ(start.world_size, expected.world_size);
  EXPECT_EQ(start.config_json, expected.config_json);
  EXPECT_EQ(start.config_text, expected.config_text);
  ASSERT_EQ(start.data.size(), 2u);
  EXPECT_EQ(start.data[1].role, "harmful");
  EXPECT_EQ(start.data[1].path, "data/h.json");
  EXPECT_EQ(start.data[1].sha256, "def");
  EXPECT_EQ(start.data[1].rows, 3);
  EXPECT_EQ(start.model_path, expected.model_path);
  EXPECT_EQ(start.model_parameters, expected.model_parameters);
  EXPECT_EQ(start.model_trainable, expected.model_trainable);
}

TEST_F(RunLogReaderTest, StepsAsTheyWereWritten) {
  for (const int64_t step : {1, 2}) {
    StepRecord expected = sample_step(step);
    expected.loss = 0.1 + 0.2;
    expected.lr = 5e-324;
    expected.grad_norm = -0.0;
    const StepRecord found = second(expected);
    std::vector<double> numbers;
    const auto remember = [&](const char*, const char*, const char*, const auto& value) {
      if constexpr (requires { value.has_value(); })
        numbers.push_back(value.value_or(-1));
      else
        numbers.push_back(static_cast<double>(value));
    };
    visit_step_fields(expected, sample_figures(), remember);
    const std::vector<double> as_written = std::exchange(numbers, {});
    visit_step_fields(found, sample_figures(), remember);
    EXPECT_EQ(numbers, as_written);
    EXPECT_TRUE(std::signbit(found.grad_norm));
    EXPECT_EQ(found.layer_figures, expected.layer_figures);
  }
}

TEST_F(RunLogReaderTest, WhatIsNotFiniteComesBackAsNaN) {
  StepRecord record = sample_step(1);
  record.loss = std::numeric_limits<double>::infinity();
  record.layer_figures[0][1] = std::numeric_limits<double>::quiet_NaN();
  const StepRecord found = second(record);
  EXPECT_TRUE(std::isnan(found.loss));
  EXPECT_TRUE(std::isnan(found.layer_figures[0].at(1)));
  EXPECT_EQ(found.layer_figures[0].at(2), 3);
}

TEST_F(RunLogReaderTest, DriftAsItWasWritten) {
  const DriftRecord expected = sample_drift(4);
  const DriftRecord found = second(expected);
  EXPECT_EQ(found.step, expected.step);
  EXPECT_EQ(found.samples, expected.samples);
  EXPECT_EQ(found.l2sq, expected.l2sq);
  EXPECT_EQ(found.tokens, expected.tokens);
  EXPECT_EQ(found.relative, expected.relative);
  EXPECT_EQ(found.cosine, expected.cosine);
  EXPECT_EQ(found.cka, expected.cka);
}

TEST_F(RunLogReaderTest, CheckpointResumeMemoryAndEndAsTheyWereWritten) {
  const CheckpointRecord checkpoint = second(testing::sample_checkpoint(7));
  EXPECT_EQ(checkpoint.step, 7);
  EXPECT_EQ(checkpoint.path, "checkpoints/step-7");
  EXPECT_EQ(checkpoint.bytes, (int64_t{1} << 35) + 7);
  EXPECT_EQ(checkpoint.stall_s, 1.0 / 7);

  const ResumeRecord resume = second(testing::sample_resume(7));
  EXPECT_EQ(resume.step, 7);
  EXPECT_EQ(resume.path, "checkpoints/step-7");
  EXPECT_EQ(resume.world_size, 2);
  EXPECT_EQ(resume.config_text, "[train]\nlr = 0.002\n");
  ASSERT_EQ(resume.rejected.size(), 2u);
  EXPECT_EQ(resume.rejected[0].path, "checkpoints/step-9");
  EXPECT_EQ(resume.rejected[1].reason, "\"c\"");

  const MemoryRecord memory = second(testing::sample_memory());
  ASSERT_EQ(memory.parts.size(), 3u);  // in the order of the log, not of the alphabet
  EXPECT_EQ(memory.parts[0].name, "weights");
  EXPECT_EQ(memory.parts[0].measured_bytes, (int64_t{1} << 40) + 2);
  EXPECT_EQ(memory.parts[2].name, "activations");
  EXPECT_EQ(memory.parts[2].planned_bytes, 5);
  EXPECT_EQ(memory.process_bytes, (int64_t{1} << 41) + 6);

  const EndRecord end = second(EndRecord{"done", 4, 1.5});
  EXPECT_EQ(end.status, "done");
  EXPECT_EQ(end.steps, 4);
  EXPECT_EQ(end.seconds, 1.5);
}

TEST_F(RunLogReaderTest, ALastLineThatIsCutOffAnywhereIsLeftOut) {
  const std::string step = line_of(sample_step(1));
  EXPECT_EQ(read(start_ + step).size(), 2u);
  EXPECT_FALSE(extent_.is_cut);
  for (size_t length = 1; length < step.size(); ++length) {
    ASSERT_EQ(read(start_ + step.substr(0, length)).size(), 1u) << length;
    ASSERT_TRUE(extent_.is_cut);
    ASSERT_EQ(extent_.whole_bytes, static_cast<int64_t>(start_.size()));
  }
  EXPECT_TRUE(read("").empty());
  EXPECT_FALSE(extent_.is_cut);
}

TEST_F(RunLogReaderTest, LinesLongerThanAPieceThatIsReadAtATime) {
  DriftRecord record = sample_drift(1);
  record.l2sq.assign(3, std::vector<double>(50'000, 0.123456789));
  record.tokens.assign(50'000, 7);
  {
    RunLog log(scratch_ / "long.jsonl", sample_figures());
    log.write(testing::sample_start());
    log.write(record);
    for (int64_t step = 1; step <= 3000; ++step) log.write(sample_step(step));
    record.step = 2;
    log.write(record);
  }
  const std::string text = read_file(scratch_ / "long.jsonl");
  const std::vector<RunEvent> events = read(text);
  ASSERT_EQ(events.size(), 3003u);
  EXPECT_EQ(std::get<DriftRecord>(events[1]).l2sq, record.l2sq);
  EXPECT_EQ(std::get<StepRecord>(events[3001]).step, 3000);
  EXPECT_EQ(std::get<DriftRecord>(events[3002]).tokens, record.tokens);
  EXPECT_EQ(extent_.whole_bytes, static_cast<int64_t>(text.size()));
}

TEST_F(RunLogReaderTest, FieldsThatAreNotKnownAreIgnored) {
  const std::string step = replaced(line_of(sample_step(1)), "{", "{\"later\": [1], ");
  EXPECT_EQ(std::get<StepRecord>(read(start_ + step).at(1)).step, 1);
}

TEST_F(RunLogReaderTest, DamagedLinesAreNamed) {
  refused("", {"not valid JSON"});
  refused("{\"event\": \"st", {"not valid JSON"});
  refused("[]", {"event", "an object", "[]"});
  refused("{}", {"lacks event"});
  refused(R"({"event": 1})", {"event", "a string", "1"});
  refused(R"({"event": "epoch"})", {"expected start, step", "\"epoch\""});
  refused(R"({"event": "end", "event": "end"})", {"twice"});
  refused(R"({"event": "end", "status": "\ud800"})", {"not valid JSON"});
  refused(R"({"event": "end", "a": )" + std::string(20, '['), {"deeper than 16"});
  std::string many = R"({"event": "end")";
  for (int i = 0; i < 1100; ++i) many += cat(",\"", i, "\":0");
  refused(many + "}", {"at most 1024 members"});
}

TEST_F(RunLogReaderTest, EachFieldHasItsType) {
  const std::string step = line_of(sample_step(1));
  const auto step_with = [&](std::string_view from, std::string_view to) {
    std::string line = replaced(step, from, to);
    line.pop_back();
    return line;
  };
  refused(step_with("\"step\":1,", ""), {"step: lacks step"});
  refused(step_with("\"step\":1,", "\"step\":1.0,"), {"step: step", "an integer", "1.0"});
  refused(step_with("\"step\":1,", "\"step\":null,"), {"an integer", "null"});
  refused(step_with("\"step\":1,", "\"step\":9223372036854775808,"), {"an integer"});
  refused(step_with("\"loss\":1.0,", "\"loss\":\"1\","), {"loss", "a number or null"});
  refused(step_with("\"loss\":1.0,", "\"loss\":1e999,"), {"not valid JSON"});
  refused(step_with("[1.0,2.0,3.0]", "{}"), {"layer_grad_norm", "an array"});
  refused(step_with("[1.0,2.0,3.0]", "[1.0,[],3.0]"), {"layer_grad_norm", "a number or null"});

  const std::string drift = line_of(sample_drift(1));
  const auto drift_with = [&](std::string_view from, std::string_view to) {
    std::string line = replaced(drift, from, to);
    line.pop_back();
    return line;
  };
  refused(drift_with("\"batches\":{", "\"batches\":7,\"x\":{"), {"batches", "an object"});
  refused(drift_with("\"tokens\":[71,81]", "\"tokens\":[71,0.5]"), {"tokens", "an integer", "0.5"});
  refused(drift_with("[[100.0,101.0],", "[0,"), {"l2sq", "arrays"});
  refused(drift_with("\"layers\":[{", "\"layers\":[{\"a\":1},{"), {"layers: lacks relative"});
}

TEST_F(RunLogReaderTest, CountsAgreeWithinALine) {
  DriftRecord record = sample_drift(1);
  record.l2sq[1].pop_back();
  refused(replaced(line_of(record), "\n", ""), {"l2sq of a layer: expected 2 entries, found 1"});
  refused(replaced(line_of(sample_drift(1)), ",[120.0,121.0]]}}\n", "]}}"),
          {"l2sq: expected 3 entries, found 2"});
  record = sample_drift(1);
  for (auto& batches : record.l2sq) batches.clear();
  record.tokens.clear();
  refused(replaced(line_of(record), "\n", ""), {"tokens: expected some entries, found 0"});
}

TEST_F(RunLogReaderTest, CountsAgreeBetweenLines) {
  StepRecord step = sample_step(3);
  step.layer_figures[0].pop_back();
  expect_data_error(
      [&] { read(start_ + line_of(sample_step(1)) + line_of(sample_step(2)) + line_of(step)); },
      {"run.jsonl:4: layer_grad_norm: expected 3 entries, found 2"});
  DriftRecord drift = sample_drift(2);
  drift.tokens.push_back(1);
  for (auto& batches : drift.l2sq) batches.push_back(1);
  expect_data_error([&] { read(start_ + line_of(sample_drift(1)) + line_of(drift)); },
                    {"run.jsonl:3: batches: tokens: expected 2 entries, found 3"});
}

TEST_F(RunLogReaderTest, EveryStepStandsOnceAndInOrder) {
  for (const int64_t second : {5, 4})
    expect_data_error(
        [&] { read(start_ + line_of(sample_step(5)) + line_of(sample_step(second))); },
        {"run.jsonl:3: step ", "stands after step 5"});
  expect_data_error([&] { read(start_ + line_of(sample_drift(5)) + line_of(sample_drift(5))); },
                    {"run.jsonl:3: step 5 stands after step 5"});
}

TEST_F(RunLogReaderTest, OneStartAtTheBeginningAndOneMemory) {
  expect_data_error([&] { read(line_of(sample_step(1))); },
                    {"run.jsonl:1: expected start in the first line"});
  expect_data_error([&] { read(start_ + start_); }, {"run.jsonl:2: a second start"});
  const std::string memory = line_of(testing::sample_memory());
  expect_data_error([&] { read(start_ + memory + memory); }, {"run.jsonl:3: a second memory"});
}

TEST_F(RunLogReaderTest, ALineWithoutEndIsNotReadWithoutLimit) {
  testing::write_text(path_, start_);
  std::filesystem::resize_file(path_, static_cast<uintmax_t>(kMaxRunLogLineBytes) + (3 << 20));
  expect_data_error(
      [&] { read_run_log(path_, sample_figures(), [](const RunEvent&, const RunLogLine&) {}); },
      {"run.jsonl:2", "lines of at most"});
}

TEST_F(RunLogReaderTest, ReadsWhatWasThereWhenItBegan) {
  testing::write_text(path_, start_);
  int64_t num_lines = 0;
  read_run_log(path_, sample_figures(), [&](const RunEvent&, const RunLogLine&) {
    ++num_lines;
    std::ofstream(path_, std::ios::app) << line_of(sample_step(num_lines));
  });
  EXPECT_EQ(num_lines, 1);
}

}  // namespace
}  // namespace vax::io
