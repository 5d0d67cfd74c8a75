#include "app/config_difference.h"

#include <gtest/gtest.h>

#include "app/resolve.h"
#include "app/resolved_config.h"
#include "app_test_support.h"

namespace vax::app {
namespace {

std::string ini_of(const std::string& arguments) {
  CommandLine command_line =
      parse_text("align --model.path m --data.path d --output.dir o" + arguments);
  resolve(command_line);
  return to_ini(command_line.options);
}

TEST(ConfigDifference, NoneBetweenEqualRuns) {
  EXPECT_TRUE(config_differences(program_table(), ini_of(""), ini_of("")).empty());
}

TEST(ConfigDifference, WhereAndHowARunIsSpreadDoesNotMatter) {
  EXPECT_TRUE(config_differences(program_table(), ini_of(""),
                                 ini_of(" --shard.frozen replicate --runtime.threads 3"
                                        " --checkpoint.interval 7 --checkpoint.resume auto"
                                        " --drift.interval 3 --output.log_interval 2"
                                        " --train.micro_batch 1 --train.recompute all"))
                  .empty());
}

TEST(ConfigDifference, WhatDecidesRowsAndShapesIsFixed) {
  for (const char* arguments :
       {" --train.seed 7", " --train.global_batch 6", " --data.max_length 50",
        " --data.shuffle false", " --data.samples 9", " --data.skip 1", " --adapter.r 4",
        " --adapter.alpha 8", " --adapter.targets q_proj", " --data.template plain",
        " --drift.samples 3"}) {
    const auto found = config_differences(program_table(), ini_of(""), ini_of(arguments));
    ASSERT_EQ(found.size(), 1U) << arguments;
    EXPECT_TRUE(found[0].is_fixed) << arguments;
  }
}

TEST(ConfigDifference, ValuesThatMayChangeInTheMiddleAreNamed) {
  const auto found =
      config_differences(program_table(), ini_of(" --train.lr 0.5"), ini_of(" --train.lr 0.25"));
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].name, "train.lr");
  EXPECT_EQ(found[0].before, "0.5");
  EXPECT_EQ(found[0].now, "0.25");
  EXPECT_FALSE(found[0].is_fixed);
}

TEST(ConfigDifference, OtherWeightsToStartFromAreNamed) {
  for (const char* arguments : {" --model.path n", " --adapter.merge a", " --adapter.init a",
                                " --train.max_steps 5", " --drift.path p"})
    EXPECT_FALSE(config_differences(program_table(), ini_of(""), ini_of(arguments)).empty())
        << arguments;
}

TEST(ConfigDifference, OptionsThatThereWereOnceDoNotMatter) {
  std::string before = ini_of("");
  const std::string section = "[adapter]\n";
  before.insert(before.find(section) + section.size(), "dtype = fp32\n");
  EXPECT_TRUE(config_differences(program_table(), before, ini_of("")).empty());
}

TEST(ConfigDifference, AnOptionThatOneTextLacksCountsAsNotGiven) {
  EXPECT_TRUE(config_differences(program_table(), "", "[train]\nlr =\n").empty());
  const auto found = config_differences(program_table(), "[train]\n", "[train]\nlr = 1\n");
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].before, "");
  EXPECT_EQ(found[0].now, "1");
}

}  // namespace
}  // namespace vax::app
