// run.h5 from run.jsonl. That every number and attribute equals what the run itself writes is the
// concern of tests/parity/files_parity.py.
#include "io/run_rebuild.h"

#include <fstream>

#include "base/atomic_file.h"
#include "hdf5_test_reader.h"
#include "io_test_support.h"
#include "sample_records.h"

namespace vax::io {
namespace {

using testing::list_directory;
using testing::Reader;
using testing::sample_drift;
using testing::sample_figures;
using testing::sample_step;

class RebuildTest : public ::testing::Test {
 protected:
  // start, steps 1 to `num_steps` with a drift after each second one
  RunLog write_log(int64_t num_steps) {
    RunLog log(jsonl_, sample_figures());
    log.write(testing::sample_start());
    for (int64_t step = 1; step <= num_steps; ++step) {
      log.write(sample_step(step));
      if (step % 2 == 0) log.write(sample_drift(step));
    }
    return log;
  }
  RunSummary rebuild() const { return rebuild_run_file(jsonl_, sample_figures(), h5_); }
  void append(std::string_view text) const {
    std::ofstream(jsonl_, std::ios::binary | std::ios::app) << text;
  }

  testing::ScratchDirectory scratch_;
  std::filesystem::path jsonl_ = scratch_ / "run.jsonl", h5_ = scratch_ / "run.h5";
};

TEST_F(RebuildTest, LogOfARunThatEnded) {
  RunLog log = write_log(5);
  log.write(testing::sample_checkpoint(4));
  log.write(testing::sample_memory());
  log.write(EndRecord{"done", 5, 1});
  const RunSummary summary = rebuild();
  EXPECT_EQ(summary.num_steps, 5);
  EXPECT_EQ(summary.last_step, 5);
  EXPECT_EQ(summary.num_drifts, 2);
  EXPECT_TRUE(summary.has_ended);
  EXPECT_FALSE(summary.is_cut);
  const Reader reader(h5_);
  EXPECT_EQ(reader.column("step"), (std::vector<double>{1, 2, 3, 4, 5}));
  EXPECT_EQ(reader.numbers("perturbation/step"), (std::vector<double>{1, 3, 5}));
  EXPECT_EQ(reader.numbers("drift/l2sq").at(3), 211);
  EXPECT_EQ(reader.numbers("memory/measured_bytes"), (std::vector<double>{0x1p40 + 2, 3, 4}));
  EXPECT_EQ(reader.text_attribute("config"), testing::sample_start().config_text);
  EXPECT_EQ(reader.text_attribute("program_version"), "0.1.0");
  EXPECT_EQ(list_directory(scratch_.path()), (std::vector<std::string>{"run.h5", "run.jsonl"}));
}

TEST_F(RebuildTest, LogOfARunThatWasKilledAndOneThatGoesOn) {
  RunLog log = write_log(3);
  append("{\"event\": \"step\", \"st");
  const RunSummary summary = rebuild();
  EXPECT_EQ(summary.last_step, 3);
  EXPECT_TRUE(summary.is_cut);
  EXPECT_FALSE(summary.has_ended);
  EXPECT_EQ(Reader(h5_).column("step").size(), 3u);
}

TEST_F(RebuildTest, ALongLog) {
  write_log(5000);
  EXPECT_EQ(rebuild().num_steps, 5000);
  const Reader reader(h5_);
  const std::vector<double> losses = reader.column("loss");
  ASSERT_EQ(losses.size(), 5000u);
  for (int64_t step = 1; step <= 5000; ++step)
    ASSERT_EQ(losses[static_cast<size_t>(step) - 1], sample_step(step).loss);
  EXPECT_EQ(reader.numbers("perturbation/step").size(), 2500u);
  EXPECT_EQ(reader.numbers("perturbation/grad_norm").back(), 4999 + 2);
  EXPECT_EQ(reader.numbers("drift/step").size(), 2500u);
}

TEST_F(RebuildTest, ConfigurationIsThatOfTheLastResume) {
  RunLog log = write_log(2);
  log.write(testing::sample_resume(2));
  log.write(sample_step(3));
  rebuild();
  EXPECT_EQ(Reader(h5_).text_attribute("config"), testing::sample_resume(2).config_text);
  EXPECT_EQ(Reader(h5_).column("step"), (std::vector<double>{1, 2, 3}));
}

TEST_F(RebuildTest, GoesOnWithMoreRecords) {
  write_log(2);
  RunFile file = replay_run_log(jsonl_, sample_figures(), h5_);
  EXPECT_FALSE(std::filesystem::exists(h5_));
  file.append(sample_step(3));
  file.append(sample_drift(3));
  file.flush();
  const Reader reader(h5_);
  EXPECT_EQ(reader.column("step"), (std::vector<double>{1, 2, 3}));
  EXPECT_EQ(reader.numbers("drift/step"), (std::vector<double>{2, 3}));
  EXPECT_EQ(reader.numbers("perturbation/step"), (std::vector<double>{1, 3}));
}

TEST_F(RebuildTest, AFailureLeavesTheOldFile) {
  testing::write_text(h5_, "old");
  testing::expect_data_error([&] { rebuild(); }, {"run.jsonl", "No such file"});
  testing::write_text(jsonl_, "{\"event\": \"sta");
  testing::expect_data_error([&] { rebuild(); },
                             {"run.jsonl:1", "expected start", "no whole line"});
  write_log(2000);
  append("{}\n");
  testing::expect_data_error([&] { rebuild(); }, {"run.jsonl:3002", "lacks event"});
  write_log(2000);
  const std::string outcome = testing::run_with_file_limit(60'000, [&] { rebuild(); });
  EXPECT_TRUE(outcome.starts_with("WriteError: ")) << outcome;
  EXPECT_EQ(read_file(h5_), "old");
  EXPECT_EQ(list_directory(scratch_.path()), (std::vector<std::string>{"run.h5", "run.jsonl"}));
}

}  // namespace
}  // namespace vax::io
