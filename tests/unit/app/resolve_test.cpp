// Dependent defaults and the checks over several options.
#include "app/resolve.h"

#include <gtest/gtest.h>

#include "app/plan_options.h"
#include "app_test_support.h"
#include "train/train_options.h"
#include "vaccine/drift_options.h"

namespace vax::app {
namespace {

const std::string kPaths = " --model.path m --data.path d --output.dir o";

Options resolved(const std::string& text) {
  CommandLine line = parse_text(text);
  resolve(line);
  return line.options;
}

std::string resolve_error(const std::string& text) {
  return message_of([&] { resolved(text); });
}

TEST(Resolve, MethodDependsOnTheSubcommand) {
  EXPECT_EQ(resolved("align" + kPaths).get<TrainOptions>().method, "vaccine");
  EXPECT_EQ(resolved("finetune" + kPaths).get<TrainOptions>().method, "sft");
  EXPECT_EQ(resolved("align --train.method sft" + kPaths).get<TrainOptions>().method, "sft");
  EXPECT_EQ(resolved("finetune --train.method vaccine" + kPaths).get<TrainOptions>().method,
            "vaccine");
}

TEST(Resolve, PlanNeedsAModelAndNothingElse) {
  const Options options = resolved("plan --model.path m");
  EXPECT_EQ(options.get<TrainOptions>().method, "vaccine");
  EXPECT_EQ(resolved("plan --model.path m --train.method sft").get<TrainOptions>().method, "sft");
  EXPECT_EQ(options.get<TrainOptions>().epochs, std::nullopt);
  EXPECT_EQ(options.get<PlanOptions>().ranks, std::nullopt);
  EXPECT_EQ(resolve_error("plan"),
            "`vaccine plan` needs model.path: Hugging Face directory of the model");
}

TEST(Resolve, EpochsAreFiftyUnlessStepsAreGiven) {
  EXPECT_EQ(resolved("align" + kPaths).get<TrainOptions>().epochs, 50);
  EXPECT_EQ(resolved("align --train.epochs 3" + kPaths).get<TrainOptions>().epochs, 3);
  const Options by_steps = resolved("align --train.max_steps 0" + kPaths);
  EXPECT_EQ(by_steps.get<TrainOptions>().max_steps, 0);
  EXPECT_EQ(by_steps.get<TrainOptions>().epochs, std::nullopt);
}

TEST(Resolve, OfEpochsAndStepsTheMoreImportantSourceHolds) {
  TemporaryDirectory dir;
  const std::string epochs = dir.write("epochs.cfg", "[train]\nepochs = 20\n");
  const std::string steps = dir.write("steps.cfg", "[train]\nmax_steps = 9\n");
  const Options quick = resolved("align --train.max_steps 1 --config " + epochs + kPaths);
  EXPECT_EQ(quick.get<TrainOptions>().max_steps, 1);
  EXPECT_EQ(quick.get<TrainOptions>().epochs, std::nullopt);
  const Options longer = resolved("align --train.epochs 2 --config " + steps + kPaths);
  EXPECT_EQ(longer.get<TrainOptions>().max_steps, std::nullopt);
  EXPECT_EQ(longer.get<TrainOptions>().epochs, 2);
  const Options later = resolved("align --config " + steps + " --config " + epochs + kPaths);
  EXPECT_EQ(later.get<TrainOptions>().max_steps, std::nullopt);
  EXPECT_EQ(later.get<TrainOptions>().epochs, 20);
}

TEST(Resolve, EpochsAndStepsFromOneSourceContradict) {
  EXPECT_EQ(resolve_error("align --train.epochs 2 --train.max_steps 3" + kPaths),
            "expected one of train.epochs and train.max_steps, found both: train.epochs = 2 (the "
            "command line) and train.max_steps = 3 (the command line)");
}

TEST(Resolve, DriftPathsFollowTheOthers) {
  EXPECT_EQ(resolved("align" + kPaths).get<DriftOptions>().path, "d");
  EXPECT_EQ(resolved("align --drift.path p" + kPaths).get<DriftOptions>().path, "p");
  EXPECT_EQ(resolved("drift --model.path m --data.path d").get<DriftOptions>().path, "d");
  EXPECT_EQ(resolved("drift --model.path m --data.path d").get<DriftOptions>().reference_path, "m");
  EXPECT_EQ(resolved("drift --model.path m --drift.path d --drift.reference_path r")
                .get<DriftOptions>()
                .reference_path,
            "r");
}

TEST(Resolve, IsIdempotent) {
  CommandLine line = parse_text("finetune" + kPaths);
  resolve(line);
  const TrainOptions first = line.options.get<TrainOptions>();
  resolve(line);
  EXPECT_EQ(line.options.get<TrainOptions>().method, first.method);
  EXPECT_EQ(line.options.get<TrainOptions>().epochs, first.epochs);
}

TEST(Resolve, AsksForThePathsThatTheSubcommandNeeds) {
  EXPECT_EQ(resolve_error("align --data.path d --output.dir o"),
            "`vaccine align` needs model.path: Hugging Face directory of the model");
  EXPECT_NE(resolve_error("align --model.path m --output.dir o").find("needs data.path"),
            std::string::npos);
  EXPECT_NE(resolve_error("align --model.path m --data.path d").find("needs output.dir"),
            std::string::npos);
  EXPECT_NE(resolve_error("generate --model.path m --output.dir o").find("needs data.path"),
            std::string::npos);
  EXPECT_NE(resolve_error("eval --model.path m --eval.task_path t").find("needs output.dir"),
            std::string::npos);
  EXPECT_NE(resolve_error("drift --model.path m").find("needs drift.path"), std::string::npos);
  EXPECT_NE(resolve_error("tokenize").find("needs model.path"), std::string::npos);
  EXPECT_NE(resolve_error("init --output.dir o").find("needs init.tokenizer_path"),
            std::string::npos);
  EXPECT_NO_THROW(resolved("tokenize --model.path m"));
}

TEST(Resolve, HarmfulRowsNeedAFile) {
  EXPECT_EQ(resolve_error("finetune --data.harmful_ratio 0.1" + kPaths),
            "data.harmful_ratio = 0.1 (the command line) needs data.harmful_path: the file that "
            "these rows come from");
  EXPECT_NO_THROW(resolved("finetune --data.harmful_ratio 0" + kPaths));
  EXPECT_NO_THROW(resolved("finetune --data.harmful_ratio 0.1 --data.harmful_path h" + kPaths));
}

TEST(Resolve, AnAdapterToGoOnFromNeedsLora) {
  EXPECT_EQ(resolve_error("align --adapter.type none --adapter.init a" + kPaths),
            "adapter.init = a (the command line) needs adapter.type lora, found none (the command "
            "line); to train every weight from an adapter on, give it to adapter.merge");
  EXPECT_NO_THROW(resolved("align --adapter.type none --adapter.merge a" + kPaths));
}

TEST(Resolve, EvalNeedsSomethingToScore) {
  const std::string base = "eval --model.path m --output.dir o";
  EXPECT_NE(resolve_error(base).find("at least one of eval.harmful_path"), std::string::npos);
  for (const char* key : {"harmful_path", "task_path", "alignment_path", "benign_path"}) {
    EXPECT_NO_THROW(resolved(base + " --eval." + key + " f")) << key;
  }
}

TEST(Resolve, InitChecksTheShape) {
  const std::string base = "init --output.dir o --init.tokenizer_path t --init.";
  EXPECT_EQ(resolve_error(base + "num_attention_heads 3"),
            "expected init.num_attention_heads to divide init.hidden_size, found 128 / 3; or give "
            "init.head_dim");
  EXPECT_NO_THROW(resolved(base + "num_attention_heads 3 --init.head_dim 32"));
  EXPECT_EQ(resolve_error(base + "hidden_size 12"),
            "expected an even width of a head (rotary embedding), found 12 / 4 = 3");
  EXPECT_EQ(resolve_error(base + "num_key_value_heads 3"),
            "expected init.num_key_value_heads to divide init.num_attention_heads, found 4 / 3");
  EXPECT_NO_THROW(resolved(base + "num_key_value_heads 2"));
}

}  // namespace
}  // namespace vax::app
