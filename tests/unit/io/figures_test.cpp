// Figures that a method declares: where they stand in run.jsonl and run.h5, and declarations that
// are refused.
#include "io/figures.h"

#include <gtest/gtest.h>

#include "base/atomic_file.h"
#include "hdf5_test_reader.h"
#include "io/run_file.h"
#include "io/run_log_reader.h"
#include "io_test_support.h"

namespace vax::io {
namespace {

const Figure kFisher = {.name = "fisher", .units = "nat", .long_name = "x", .after = "loss"};
const Figure kLast = {.name = "last", .units = "1", .long_name = "y"};
const Figure kByLayer = {.name = "layer_x",
                         .units = "1",
                         .long_name = "z",
                         .kind = Figure::Kind::kPerLayer,
                         .path = "group/x"};

class FiguresTest : public ::testing::Test {
 protected:
  StepRecord step() const {
    StepRecord record = empty_step(figures_);
    record.step = 1;
    record.figures = {0.5, 3};
    record.layer_figures = {{}, {7, 8}};
    return record;
  }

  Figures figures_ = {
      kByLayer,
      kFisher,
      kLast,
      {.name = "layer_y", .units = "1", .kind = Figure::Kind::kPerLayer, .path = "other/y"}};
  testing::ScratchDirectory scratch_;
};

TEST_F(FiguresTest, StandBehindTheirFieldAndComeBack) {
  const std::filesystem::path path = scratch_ / "run.jsonl";
  RunLog log(path, figures_);
  log.write(StartRecord{.config_json = "{}"});
  log.write(step());
  const std::string text = read_file(path);
  EXPECT_NE(text.find(R"("loss":0.0,"fisher":0.5,"clean_loss")"), std::string::npos) << text;
  EXPECT_TRUE(
      text.ends_with("\"memory_bytes\":0,\"last\":3.0,\"layer_x\":null,\"layer_y\":[7.0,8.0]}\n"))
      << text;
  read_run_log(path, figures_, [&](const RunEvent& event, const RunLogLine&) {
    if (const auto* found = std::get_if<StepRecord>(&event)) {
      EXPECT_EQ(found->figures, step().figures);
      EXPECT_EQ(found->layer_figures, step().layer_figures);
    }
  });
}

TEST_F(FiguresTest, HaveAColumnOrAGroupOfTheirOwn) {
  RunFile file(scratch_ / "run.h5", figures_, {"", ""});
  file.append(step());
  file.flush();
  const testing::Reader reader(scratch_ / "run.h5");
  EXPECT_EQ(reader.column("fisher"), std::vector<double>{0.5});
  EXPECT_EQ(reader.column("last"), std::vector<double>{3});
  EXPECT_EQ(reader.numbers("other/y"), (std::vector<double>{7, 8}));
  EXPECT_EQ(reader.numbers("other/step"), std::vector<double>{1});
  EXPECT_FALSE(reader.has("group"));  // never measured
}

TEST_F(FiguresTest, ARecordHasThemAll) {
  RunLog log(scratch_ / "run.jsonl", figures_);
  StepRecord record = step();
  record.figures.pop_back();
  EXPECT_THROW(log.write(record), std::logic_error);
  record = step();
  record.layer_figures.pop_back();
  EXPECT_THROW(log.write(record), std::logic_error);
}

TEST_F(FiguresTest, ALogOfOtherFiguresIsRefused) {
  RunLog log(scratch_ / "run.jsonl", {});
  log.write(StartRecord{.config_json = "{}"});
  log.write(StepRecord{.step = 1});
  testing::expect_data_error(
      [&] {
        read_run_log(scratch_ / "run.jsonl", figures_, [](const RunEvent&, const RunLogLine&) {});
      },
      {"run.jsonl:2", "step: lacks fisher"});
}

TEST(CheckFigures, NamesGroupsAndPlaces) {
  const auto changed = [](Figure figure, auto change) {
    change(figure);
    return figure;
  };
  const auto refused = [](const Figures& figures) {
    EXPECT_THROW(check_figures(figures), std::logic_error);
  };
  check_figures({});
  check_figures({kFisher, kLast, kByLayer});
  refused({kFisher, kFisher});
  for (const char* taken : {"loss", "event"})
    refused({changed(kFisher, [&](Figure& figure) { figure.name = taken; })});
  refused({changed(kFisher, [](Figure& figure) { figure.after = "fisher"; })});
  refused({kByLayer, changed(kByLayer, [](Figure& figure) { figure.name = "b"; })});
  for (const char* path : {"", "x", "drift/x"})
    refused({changed(kByLayer, [&](Figure& figure) { figure.path = path; })});
}

}  // namespace
}  // namespace vax::io
