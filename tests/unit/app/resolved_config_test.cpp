// The resolved configuration reads back as the same options: over every option of every subcommand
// with random legal values, and for the values that are hard to write.
#include "app/resolved_config.h"

#include <gtest/gtest.h>

#include <bit>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "app/option_table.h"
#include "app/plan_options.h"
#include "app/resolve.h"
#include "app/subcommands.h"
#include "app_test_support.h"
#include "data/data_options.h"
#include "train/model_options.h"
#include "train/shard_options.h"
#include "train/train_options.h"
#include "vaccine/vaccine_options.h"

namespace vax::app {
namespace {

using Random = std::mt19937_64;

std::string random_number(Random& random) {
  // Any bit pattern is a double; those that are not finite or legal are drawn again.
  const double wild = std::bit_cast<double>(random());
  const double share = std::uniform_real_distribution<double>(0, 1)(random);
  return value_text(random() % 2 == 0 ? std::abs(wild) : share);
}

std::string random_item(const OptionRow& row, Random& random) {
  const auto& choices = row.rule.choices;
  switch (row.kind) {
    case ValueKind::kInteger:
      return value_text(static_cast<int64_t>(random() >> (1 + random() % 62)));
    case ValueKind::kUnsigned:
      return value_text(static_cast<uint64_t>(random()));
    case ValueKind::kNumber:
      return random_number(random);
    case ValueKind::kBoolean:
      return random() % 2 == 0 ? "true" : "false";
    case ValueKind::kText:
      break;
  }
  if (!choices.empty()) return choices[random() % choices.size()];
  const std::vector<std::string> paths = {"a",
                                          "../b.jsonl",
                                          "d\xc3\xa9j\xc3\xa0/vu",
                                          "[x]",
                                          "k=v;w",
                                          "\"quoted\"",
                                          "\\back\\slash",
                                          "/x/y-1.gz",
                                          "true",
                                          "%(interpolated)s",
                                          "a,b",
                                          "\"",
                                          "\\",
                                          "half \"quoted",
                                          "ends\\"};
  const std::string path = paths[random() % paths.size()];
  return random() % 4 != 0 ? path : path + " with spaces";
}

std::string random_value(const OptionRow& row, Random& random) {
  if (row.may_be_unset && random() % 4 == 0) return "";
  std::vector<std::string> items = {random_item(row, random)};
  if (!row.is_list) return items[0];
  if (random() % 2 == 0) items.push_back(random_item(row, random));
  return join_list(items);
}

void randomize(const OptionRow& row, Random& random, Options& options) {
  for (int attempt = 0; attempt < 1000; ++attempt) {
    if (row.assign(options, random_value(row, random))) return;
  }
  FAIL() << "no legal value found for " << row.name();
}

std::map<std::string, std::vector<std::string>> words_by_name(const Options& options) {
  std::map<std::string, std::vector<std::string>> values;
  for (const OptionRow& row : program_table().rows()) values[row.name()] = row.words(options);
  return values;
}

TEST(ResolvedConfig, ReadsBackAsTheSameOptions) {
  constexpr int kRounds = 25;
  TemporaryDirectory dir;
  Random random(1);
  for (const Subcommand& subcommand : kSubcommands) {
    for (int round = 0; round < kRounds; ++round) {
      Options options;
      options.subcommand = subcommand.name;
      for (const OptionRow& row : program_table().rows()) {
        if ((row.used_by & subcommand.bit) != 0) randomize(row, random, options);
      }
      const std::string text = to_ini(options);
      const std::string file = dir.write("config.cfg", text);
      const CommandLine back = parse({options.subcommand, "--config", file});
      ASSERT_EQ(words_by_name(back.options), words_by_name(options)) << text;
      ASSERT_EQ(to_ini(back.options), text);
    }
  }
}

TEST(ResolvedConfig, KeepsNumbersToTheLastBit) {
  TemporaryDirectory dir;
  Options options;
  options.subcommand = "finetune";
  options.get<TrainOptions>().lr = 1.0 / 3;
  options.get<TrainOptions>().eps = 5e-324;  // the smallest double
  options.get<TrainOptions>().clip = 1.7976931348623157e308;
  options.get<TrainOptions>().seed = 18446744073709551615U;
  options.get<DataOptions>().skip = 9223372036854775807;
  const CommandLine back = parse({"finetune", "--config", dir.write("c.cfg", to_ini(options))});
  EXPECT_EQ(back.options.get<TrainOptions>().lr, options.get<TrainOptions>().lr);
  EXPECT_EQ(back.options.get<TrainOptions>().eps, options.get<TrainOptions>().eps);
  EXPECT_EQ(back.options.get<TrainOptions>().clip, options.get<TrainOptions>().clip);
  EXPECT_EQ(back.options.get<TrainOptions>().seed, options.get<TrainOptions>().seed);
  EXPECT_EQ(back.options.get<DataOptions>().skip, options.get<DataOptions>().skip);
}

TEST(ResolvedConfig, RunsAgainAsItIs) {
  TemporaryDirectory dir;
  for (const char* length : {"--train.epochs 3", "--train.max_steps 4"}) {
    CommandLine first =
        parse_text(std::string("align --model.path m --data.path d --output.dir o ") + length);
    resolve(first);
    const std::string text = to_ini(first.options);
    CommandLine second = parse({"align", "--config", dir.write("c.cfg", text)});
    resolve(second);
    EXPECT_EQ(to_ini(second.options), text);
    EXPECT_EQ(config_hash(program_table(), second.options),
              config_hash(program_table(), first.options));
  }
}

TEST(ResolvedConfig, OfATrainingRunServesEval) {
  TemporaryDirectory dir;
  CommandLine run = parse_text("align --model.path m --data.path d --output.dir o");
  resolve(run);
  CommandLine eval =
      parse({"eval", "--config", dir.write("c.cfg", to_ini(run.options)), "--eval.task_path", "t"});
  resolve(eval);
  EXPECT_EQ(eval.options.get<ModelOptions>().path, "m");
  EXPECT_EQ(to_ini(eval.options).find("[train]"), std::string::npos);
}

TEST(ResolvedConfig, OfATrainingRunServesPlan) {
  TemporaryDirectory dir;
  CommandLine run = parse_text(
      "finetune --model.path m --data.path d --output.dir o --train.micro_batch 2 "
      "--shard.group_size "
      "4");
  resolve(run);
  CommandLine plan =
      parse({"plan", "--config", dir.write("c.cfg", to_ini(run.options)), "--schedule"});
  resolve(plan);
  EXPECT_EQ(plan.options.get<TrainOptions>().method, "sft");  // the run's, not plan's own default
  EXPECT_EQ(plan.options.get<TrainOptions>().micro_batch, 2);
  EXPECT_EQ(plan.options.get<ShardOptions>().group_size, 4);
  EXPECT_TRUE(plan.options.get<PlanOptions>().schedule);
}

TEST(ResolvedConfig, EmptyLinesOverrideEarlierFiles) {
  TemporaryDirectory dir;
  CommandLine run =
      parse_text("align --train.max_steps 2 --model.path m --data.path d --output.dir o");
  resolve(run);
  const std::string older = dir.write("older.cfg", "[train]\nepochs = 9\n[data]\nsamples = 4\n");
  CommandLine again =
      parse({"align", "--config", older, "--config", dir.write("c.cfg", to_ini(run.options))});
  resolve(again);
  EXPECT_EQ(to_ini(again.options), to_ini(run.options));
}

TEST(ResolvedConfig, TheHashTellsOptionsApart) {
  Options options;
  options.subcommand = "align";
  const std::string hash = config_hash(program_table(), options);
  EXPECT_EQ(config_hash(program_table(), options), hash);
  options.get<VaccineOptions>().rho += 1e-15;
  EXPECT_NE(config_hash(program_table(), options), hash);
}

TEST(ResolvedConfig, ShowsValuesAsJson) {
  Options options;
  options.subcommand = "align";
  options.get<ModelOptions>().path = "a \"b\"\\c\xff";
  options.get<AdapterOptions>().merge = {"x", "y"};
  options.get<VaccineOptions>().layers = {0, 2};
  nlohmann::json config;
  for (const OptionJson& value : to_json_values(program_table(), options)) {
    config[value.section][value.key] = nlohmann::json::parse(value.json);
  }
  EXPECT_EQ(config["model"]["path"], "a \"b\"\\c\xef\xbf\xbd");  // the stray byte replaced
  EXPECT_EQ(config["train"]["lr"], 1e-3);
  EXPECT_EQ(config["train"]["global_batch"], 5);
  EXPECT_EQ(config["train"]["max_steps"], nullptr);
  EXPECT_EQ(config["data"]["shuffle"], true);
  EXPECT_EQ(config["adapter"]["merge"], (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(config["adapter"]["targets"], nlohmann::json::array());
  EXPECT_EQ(config["vaccine"]["layers"], (std::vector<int64_t>{0, 2}));
  EXPECT_FALSE(config.contains("init"));
  EXPECT_FALSE(config["data"].contains("harmful_ratio"));
}

}  // namespace
}  // namespace vax::app
