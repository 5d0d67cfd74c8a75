// The command line: forms of values, precedence against files, errors and what they say.
#include <gtest/gtest.h>

#include "app/plan_options.h"
#include "app/subcommands.h"
#include "app_test_support.h"
#include "data/data_options.h"
#include "eval/eval_options.h"
#include "train/model_options.h"
#include "train/shard_options.h"
#include "train/train_options.h"
#include "vaccine/vaccine_options.h"

namespace vax::app {
namespace {

using Strings = std::vector<std::string>;
using Integers = std::vector<int64_t>;

TEST(CommandLine, TakesBothFormsOfAnOption) {
  const CommandLine line = parse_text("align --train.lr 2e-3 --train.global_batch=7");
  EXPECT_EQ(line.request, CommandLine::Request::kRun);
  EXPECT_EQ(line.options.subcommand, "align");
  EXPECT_EQ(line.options.get<TrainOptions>().lr, 2e-3);
  EXPECT_EQ(line.options.get<TrainOptions>().global_batch, 7);
}

TEST(CommandLine, ReadsArgvWithoutTheProgramName) {
  const char* const argv[] = {"vaccine", "eval", "--eval.batch", "3"};
  EXPECT_EQ(parse(program_table(), 4, argv).options.get<EvalOptions>().batch, 3);
  EXPECT_NE(message_of([&] { parse(program_table(), 1, argv); }).find("expected a subcommand"),
            std::string::npos);
}

TEST(CommandLine, LeavesDefaultsWhereNothingIsGiven) {
  const CommandLine line = parse_text("align");
  EXPECT_TRUE(line.origins.empty());
  EXPECT_EQ(line.options.get<VaccineOptions>().rho, VaccineOptions{}.rho);
  EXPECT_EQ(line.where("vaccine.rho"), "default");
  EXPECT_FALSE(line.given("vaccine.rho"));
}

TEST(CommandLine, BooleansStandAloneOrWithAValue) {
  EXPECT_TRUE(parse_text("align --data.parse_special").options.get<DataOptions>().parse_special);
  EXPECT_TRUE(
      parse_text("align --data.parse_special true").options.get<DataOptions>().parse_special);
  EXPECT_FALSE(parse_text("align --data.shuffle=false").options.get<DataOptions>().shuffle);
  const CommandLine followed = parse_text("align --data.parse_special --train.lr 3");
  EXPECT_TRUE(followed.options.get<DataOptions>().parse_special);
  EXPECT_EQ(followed.options.get<TrainOptions>().lr, 3);
}

TEST(CommandLine, ListsTakeCommasSpacesAndSeveralWords) {
  const Strings expected = {"a", "b/c", "d"};
  EXPECT_EQ(parse_text("eval --adapter.merge a,b/c,d").options.get<AdapterOptions>().merge,
            expected);
  EXPECT_EQ(
      parse_text("eval --adapter.merge a b/c d --eval.batch 2").options.get<AdapterOptions>().merge,
      expected);
  EXPECT_EQ(parse({"eval", "--adapter.merge", "a b/c, d"}).options.get<AdapterOptions>().merge,
            expected);
  EXPECT_EQ(parse_text("align --vaccine.layers 0,3,11").options.get<VaccineOptions>().layers,
            (Integers{0, 3, 11}));
}

TEST(CommandLine, TheLastOfARepeatedOptionHolds) {
  const CommandLine line =
      parse_text("eval --eval.batch 2 --adapter.merge a,b --eval.batch 9 --adapter.merge c");
  EXPECT_EQ(line.options.get<EvalOptions>().batch, 9);
  EXPECT_EQ(line.options.get<AdapterOptions>().merge, Strings{"c"});
}

TEST(CommandLine, AnEmptyTextUnsetsWhatHasNoDefault) {
  TemporaryDirectory dir;
  const std::string file = dir.write("a.cfg", "[train]\nmax_steps = 5\n[adapter]\nmerge = a,b\n");
  const CommandLine line =
      parse({"align", "--config", file, "--train.max_steps", "", "--adapter.merge", ""});
  EXPECT_EQ(line.options.get<TrainOptions>().max_steps, std::nullopt);
  EXPECT_TRUE(line.options.get<AdapterOptions>().merge.empty());
  EXPECT_FALSE(line.given("train.max_steps"));
  EXPECT_EQ(message_of([] {
              parse({"align", "--train.lr", ""});
            }),
            "train.lr: expected a finite number of at least 0, found '' (the command line)");
}

TEST(CommandLine, LaterFilesOverrideEarlierOnesAndTheCommandLineOverridesAll) {
  TemporaryDirectory dir;
  const std::string first =
      dir.write("1.cfg", "[train]\nlr = 1\nclip = 1\nseed = 1\nbeta1 = 0.1\n");
  const std::string second = dir.write("2.cfg", "[train]\nlr = 2\nclip = 2\nseed = 2\n");
  // --config behind the option it competes with: place in the line has no say.
  const CommandLine line = parse(
      {"align", "--train.lr", "3", "--config", first, "--train.clip=3", "--config=" + second});
  EXPECT_EQ(line.options.get<TrainOptions>().lr, 3);
  EXPECT_EQ(line.options.get<TrainOptions>().clip, 3);
  EXPECT_EQ(line.options.get<TrainOptions>().seed, 2U);
  EXPECT_EQ(line.options.get<TrainOptions>().beta1, 0.1);
  EXPECT_EQ(line.where("train.lr"), "the command line");
  EXPECT_EQ(line.where("train.seed"), second + ":4");
  EXPECT_EQ(line.where("train.beta1"), first + ":5");
  EXPECT_LT(line.origins.at("train.beta1").precedence, line.origins.at("train.seed").precedence);
  EXPECT_LT(line.origins.at("train.seed").precedence, line.origins.at("train.lr").precedence);

  const CommandLine swapped = parse({"align", "--config", second, "--config", first});
  EXPECT_EQ(swapped.options.get<TrainOptions>().seed, 1U);
}

TEST(CommandLine, AValueEqualToTheDefaultStillCountsAsGiven) {
  const CommandLine line = parse_text("align --adapter.r 8");
  EXPECT_TRUE(line.given("adapter.r"));
  EXPECT_FALSE(line.given("adapter.alpha"));
}

TEST(CommandLine, NegativeNumbersAreValuesNotOptions) {
  EXPECT_EQ(parse_error("align --vaccine.rho -0.5"),
            "vaccine.rho: expected a finite number of at least 0, found '-0.5' (the command line)");
}

TEST(CommandLine, HelpAndVersionAreRequests) {
  EXPECT_EQ(parse_text("--version").request, CommandLine::Request::kVersion);
  EXPECT_EQ(parse_text("--help").request, CommandLine::Request::kHelp);
  EXPECT_EQ(parse_text("--help").options.subcommand, "");
  // Help wins over everything else on the line, mistakes included.
  for (const char* text : {"align --help", "align -h", "align --train.lr 3 --help --no.such"}) {
    const CommandLine line = parse_text(text);
    EXPECT_EQ(line.request, CommandLine::Request::kHelp) << text;
    EXPECT_EQ(line.options.subcommand, "align") << text;
  }
}

TEST(CommandLine, NeedsASubcommandFirst) {
  EXPECT_EQ(message_of([] { parse(Strings{}); }),
            "expected a subcommand, found nothing; `vaccine --help` lists them");
  EXPECT_EQ(parse_error("aling"),
            "expected a subcommand (init, align, finetune, plan, eval, drift, generate, export, "
            "rebuild, tokenize), found 'aling'; did you mean align?");
  EXPECT_EQ(parse_error("--train.lr 3"),
            "expected a subcommand before the options, found '--train.lr'; `vaccine --help` lists "
            "them");
  EXPECT_NE(parse_error("sweep").find("found 'sweep'"), std::string::npos);
}

TEST(CommandLine, UnknownOptionsComeWithASuggestion) {
  EXPECT_EQ(parse_error("align --train.leraning_rate 1"),
            "unknown option --train.leraning_rate on the command line");
  EXPECT_EQ(parse_error("align --trian.lr 1"),
            "unknown option --trian.lr on the command line; did you mean --train.lr?");
  EXPECT_EQ(parse_error("align --train.rho=1"),
            "unknown option --train.rho on the command line; did you mean --vaccine.rho?");
  EXPECT_EQ(parse_error("align --confg x"),
            "unknown option --confg on the command line; did you mean --config?");
  // Suggestions are options that this subcommand uses.
  EXPECT_EQ(parse_error("eval --trian.lr 1"), "unknown option --trian.lr on the command line");
}

TEST(CommandLine, AbbreviationsAreUnknown) {
  EXPECT_EQ(parse_error("align --train.warmup 0.1"),
            "unknown option --train.warmup on the command line");
}

TEST(CommandLine, OptionsToComeAreUnknownYet) {
  EXPECT_NE(parse_error("align --output.tensorboard").find("unknown option --output.tensorboard"),
            std::string::npos);
  EXPECT_EQ(
      parse_error("align --vaccine.probe_dtype fp16"),
      "vaccine.probe_dtype: expected one of same, bf16, fp8, found 'fp16' (the command line)");
}

TEST(CommandLine, PlacementsAreThree) {
  for (const std::string word : {"replicate", "node", "full"}) {
    const Placement placement = choice_of<Placement>(word).value();
    EXPECT_EQ(parse_text("align --shard.frozen " + word).options.get<ShardOptions>().frozen,
              placement);
    EXPECT_EQ(parse_text("plan --shard.trainable " + word).options.get<ShardOptions>().trainable,
              placement);
  }
  EXPECT_EQ(parse_error("align --shard.frozen host"),
            "shard.frozen: expected one of replicate, node, full, found 'host' (the command line)");
}

TEST(CommandLine, ScheduleIsShortWithPlan) {
  EXPECT_FALSE(parse_text("plan").options.get<PlanOptions>().schedule);
  for (const char* text :
       {"plan --schedule", "plan --schedule --plan.ranks 4", "plan --plan.ranks 4 --schedule true",
        "plan --schedule=true", "plan --plan.schedule"}) {
    const CommandLine line = parse_text(text);
    EXPECT_TRUE(line.options.get<PlanOptions>().schedule) << text;
    EXPECT_TRUE(line.given("plan.schedule")) << text;
  }
  EXPECT_FALSE(parse_text("plan --schedule=false").options.get<PlanOptions>().schedule);
}

TEST(CommandLine, ScheduleIsNoOptionOfOtherSubcommands) {
  for (const Subcommand& subcommand : kSubcommands) {
    if (subcommand.bit == kPlan) continue;
    const std::string message = parse_error(std::string(subcommand.name) + " --schedule");
    EXPECT_TRUE(message.starts_with("unknown option --schedule on the command line")) << message;
    // The rate's schedule is another thing, and an option of training only.
    EXPECT_NE(parse_error(std::string(subcommand.name) + " --plan.schedule")
                  .find("option --plan.schedule is not used by `vaccine " +
                        std::string(subcommand.name) + "`"),
              std::string::npos);
  }
}

TEST(CommandLine, PlanTakesTheOptionsThatChangeMemoryOrTraffic) {
  const Options options =
      parse_text(
          "plan --adapter.type none --train.global_batch 64 --vaccine.probe_dtype bf16 "
          "--shard.group_size 8 --data.max_length 512 --plan.ranks 16 "
          "--plan.ranks_per_node 8")
          .options;
  EXPECT_EQ(options.get<PlanOptions>().ranks, 16);
  EXPECT_EQ(options.get<PlanOptions>().ranks_per_node, 8);
  EXPECT_EQ(options.get<ShardOptions>().group_size, 8);
  EXPECT_NE(parse_error("plan --train.lr 1").find("not used by `vaccine plan`"), std::string::npos);
  EXPECT_NE(parse_error("plan --output.dir o").find("not used by `vaccine plan`"),
            std::string::npos);
}

TEST(CommandLine, OptionsOfOtherSubcommandsAreErrors) {
  EXPECT_EQ(parse_error("eval --train.lr 1"),
            "option --train.lr is not used by `vaccine eval`; `vaccine eval --help` lists those "
            "that are");
  EXPECT_NE(parse_error("align --data.harmful_ratio 0.1").find("not used by `vaccine align`"),
            std::string::npos);
  EXPECT_NO_THROW(parse_text("finetune --data.harmful_ratio 0.1"));
}

TEST(CommandLine, WordsTooManyOrTooFew) {
  EXPECT_EQ(parse_error("align --train.lr"),
            "train.lr: expected a finite number of at least 0, found no value (the command line)");
  EXPECT_EQ(parse_error("align --train.lr 1 2"),
            "unexpected argument '2' after --train.lr 1; the option takes one value");
  EXPECT_EQ(parse_error("align 5 --train.lr 1"),
            "unexpected argument '5' on the command line; options are --section.key VALUE");
  EXPECT_EQ(parse_error("align --config"),
            "--config: expected one file (repeat --config for more), found 0 values");
  EXPECT_EQ(parse_error("align --config a b"),
            "--config: expected one file (repeat --config for more), found 2 values");
  EXPECT_NE(parse_error("align --train.lr=").find("'--train.lr'"), std::string::npos);
}

TEST(CommandLine, TextsThatAConfigurationFileCannotHoldAreRefused) {
  for (const std::string text : {"a#b", " a", "a ", "a\nb", "a\tb"}) {
    const std::string message = message_of([&] { parse({"align", "--data.path", text}); });
    EXPECT_EQ(message,
              "data.path: expected a text without '#', control characters and spaces at "
              "its ends, found '" +
                  text + "' (the command line)");
  }
  EXPECT_EQ(parse({"align", "--data.path", "a b=c;'\""}).options.get<DataOptions>().path,
            "a b=c;'\"");
}

}  // namespace
}  // namespace vax::app
