// Every file in configs/ parses and resolves under the subcommand that its head names, and carries
// the hyper-parameters it claims: those of the paper (arXiv 2402.01109) and of the miniature.
#include <gtest/gtest.h>

#include <regex>
#include <set>

#include "app/resolve.h"
#include "app/resolved_config.h"
#include "app_test_support.h"
#include "data/data_options.h"
#include "train/model_options.h"
#include "train/output_options.h"
#include "train/train_options.h"
#include "vaccine/vaccine_options.h"

namespace vax::app {
namespace {

namespace fs = std::filesystem;

const fs::path kConfigs = VAX_SOURCE_DIR "/configs";

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// The subcommand of the usage line "vaccine SUBCOMMAND --config configs/NAME" in the file's head.
std::string subcommand_of(const fs::path& path) {
  const std::string text = text_of(path);
  const std::regex usage("vaccine (\\w+) --config configs/" + path.filename().string());
  std::smatch match;
  return std::regex_search(text, match, usage) ? match[1].str() : "";
}

Options load(const std::string& name) {
  const fs::path path = kConfigs / name;
  CommandLine line = parse({subcommand_of(path), "--config", path.string()});
  resolve(line);
  return line.options;
}

std::set<std::string> config_names() {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(kConfigs)) {
    names.insert(entry.path().filename().string());
  }
  return names;
}

TEST(Configs, AllParseAndResolve) {
  EXPECT_GE(config_names().size(), 14U);
  for (const std::string& name : config_names()) {
    ASSERT_TRUE(name.ends_with(".cfg")) << name;
    ASSERT_NE(subcommand_of(kConfigs / name), "") << name << ": no usage line in its head";
    EXPECT_NO_THROW(load(name)) << name;
  }
}

TEST(Configs, HoldNothingThatTheirSubcommandIgnores) {
  for (const std::string& name : config_names()) {
    const std::string subcommand = subcommand_of(kConfigs / name);
    const CommandLine line = parse({subcommand, "--config", (kConfigs / name).string()});
    const std::string text = text_of(kConfigs / name);
    const std::regex assignment("\n[a-z_0-9]+ =");
    const auto num_lines = std::distance(std::sregex_iterator(text.begin(), text.end(), assignment),
                                         std::sregex_iterator());
    EXPECT_EQ(line.origins.size(), static_cast<size_t>(num_lines)) << name;
  }
}

TEST(Configs, PathsAreRelative) {
  for (const std::string& name : config_names()) {
    EXPECT_FALSE(std::regex_search(text_of(kConfigs / name), std::regex("= */"))) << name;
  }
}

void expect_paper_optimizer(const TrainOptions& train) {
  EXPECT_EQ(train.global_batch, 5);
  EXPECT_EQ(train.weight_decay, 0.1);
  EXPECT_EQ(train.beta1, 0.9);
  EXPECT_EQ(train.beta2, 0.999);
  EXPECT_EQ(train.eps, 1e-8);
  EXPECT_EQ(train.schedule, Schedule::kCosine);
  EXPECT_EQ(train.warmup_ratio, 0.1);
  EXPECT_EQ(train.clip, 1.0);
}

void expect_paper_adapter(const Options& options, double alpha) {
  EXPECT_EQ(options.get<ModelOptions>().dtype, ModelDtype::kBf16);
  EXPECT_EQ(options.get<AdapterOptions>().type, AdapterType::kLora);
  EXPECT_EQ(options.get<AdapterOptions>().r, 8);
  EXPECT_EQ(options.get<AdapterOptions>().alpha, alpha);
  EXPECT_EQ(options.get<AdapterOptions>().dropout, 0.1);
  EXPECT_TRUE(options.get<AdapterOptions>().targets.empty());  // all seven projections
  EXPECT_EQ(options.get<DataOptions>().max_length, 200);
  EXPECT_EQ(options.get<DataOptions>().template_name, "alpaca");
}

TEST(Configs, AlignmentHasThePapersValues) {
  for (const std::string name : {"7b-vaccine", "13b-vaccine", "70b-vaccine", "7b-sft"}) {
    SCOPED_TRACE(name);
    const Options options = load("llama2-" + name + ".cfg");
    EXPECT_EQ(options.subcommand, "align");
    expect_paper_adapter(options, 4);
    expect_paper_optimizer(options.get<TrainOptions>());
    EXPECT_EQ(options.get<TrainOptions>().method, name.substr(name.find('-') + 1));
    EXPECT_EQ(options.get<TrainOptions>().lr, 1e-3);
    EXPECT_EQ(options.get<TrainOptions>().epochs, 50);
    EXPECT_EQ(options.get<DataOptions>().samples, 2000);
    EXPECT_EQ(options.get<VaccineOptions>().rho, 2);
    EXPECT_EQ(options.get<TrainOptions>().recompute,
              name == "70b-vaccine" ? Recompute::kAll : Recompute::kNone);
  }
}

TEST(Configs, AttacksHaveThePapersValues) {
  struct Attack {
    std::string name;
    double alpha;
    int64_t samples;
    double epochs;
  };
  const std::vector<Attack> attacks = {{"7b-attack-sst2", 1, 1000, 20},
                                       {"7b-attack-agnews", 1, 1000, 20},
                                       {"7b-attack-gsm8k", 0.5, 5000, 50},
                                       {"7b-attack-alpaca", 1, 700, 100},
                                       {"13b-attack-sst2", 1, 1000, 20}};
  for (const Attack& attack : attacks) {
    SCOPED_TRACE(attack.name);
    const Options options = load("llama2-" + attack.name + ".cfg");
    EXPECT_EQ(options.subcommand, "finetune");
    expect_paper_adapter(options, attack.alpha);
    expect_paper_optimizer(options.get<TrainOptions>());
    EXPECT_EQ(options.get<TrainOptions>().method, "sft");
    EXPECT_EQ(options.get<TrainOptions>().lr, 1e-5);
    EXPECT_EQ(options.get<TrainOptions>().epochs, attack.epochs);
    EXPECT_EQ(options.get<DataOptions>().samples, attack.samples);
    EXPECT_EQ(options.get<DataOptions>().harmful_ratio, 0.1);
    ASSERT_EQ(options.get<AdapterOptions>().merge.size(), 1U);
    const std::string size = attack.name.substr(0, attack.name.find('-'));
    EXPECT_EQ(options.get<AdapterOptions>().merge[0],
              load("llama2-" + size + "-vaccine.cfg").get<OutputOptions>().dir + "/adapter");
    EXPECT_EQ(options.get<ModelOptions>().path,
              load("llama2-" + size + "-vaccine.cfg").get<ModelOptions>().path);
  }
}

TEST(Configs, TheBaselineDiffersFromVaccineInMethodAndOutputOnly) {
  for (const std::string prefix : {"llama2-7b-", "demo-align-"}) {
    const Options sft = load(prefix + "sft.cfg");
    Options vaccine = load(prefix + "vaccine.cfg");
    EXPECT_NE(vaccine.get<OutputOptions>().dir, sft.get<OutputOptions>().dir);
    vaccine.get<TrainOptions>().method = "sft";
    vaccine.get<OutputOptions>().dir = sft.get<OutputOptions>().dir;
    vaccine.get<VaccineOptions>() = sft.get<VaccineOptions>();
    EXPECT_EQ(to_ini(vaccine), to_ini(sft)) << prefix;
  }
}

TEST(Configs, MiniatureHasItsValues) {
  const Options pretrain = load("demo-pretrain.cfg");
  EXPECT_EQ(pretrain.get<AdapterOptions>().type, AdapterType::kNone);
  EXPECT_EQ(pretrain.get<DataOptions>().format, data::RecordFormat::kText);
  EXPECT_EQ(pretrain.get<TrainOptions>().method, "sft");
  EXPECT_EQ(pretrain.get<TrainOptions>().global_batch, 48);
  EXPECT_EQ(pretrain.get<TrainOptions>().lr, 2e-3);
  EXPECT_EQ(pretrain.get<TrainOptions>().beta2, 0.98);
  EXPECT_EQ(pretrain.get<TrainOptions>().weight_decay, 0.05);
  EXPECT_EQ(pretrain.get<TrainOptions>().warmup_ratio, 0.05);
  EXPECT_GE(pretrain.get<TrainOptions>().max_steps, 700);
  EXPECT_LE(pretrain.get<TrainOptions>().max_steps, 800);

  const Options align = load("demo-align-vaccine.cfg");
  EXPECT_EQ(align.get<TrainOptions>().method, "vaccine");
  EXPECT_EQ(align.get<VaccineOptions>().rho, 1);
  EXPECT_EQ(align.get<AdapterOptions>().alpha, 16);
  EXPECT_EQ(align.get<TrainOptions>().lr, 2e-3);
  EXPECT_EQ(align.get<TrainOptions>().global_batch, 8);
  EXPECT_EQ(align.get<TrainOptions>().max_steps, 1000);

  const Options attack = load("demo-finetune.cfg");
  EXPECT_EQ(attack.get<AdapterOptions>().alpha, 8);
  EXPECT_EQ(attack.get<TrainOptions>().lr, 5e-4);
  EXPECT_EQ(attack.get<TrainOptions>().max_steps, 200);
  EXPECT_EQ(attack.get<DataOptions>().samples, 1000);
  EXPECT_EQ(attack.get<DataOptions>().harmful_ratio, 0.1);
}

TEST(Configs, MiniatureStagesFitTogether) {
  const std::string base = load("demo-pretrain.cfg").get<OutputOptions>().dir + "/model";
  const Options align = load("demo-align-vaccine.cfg");
  const Options attack = load("demo-finetune.cfg");
  const Options eval = load("demo-eval.cfg");
  for (const Options& options : {align, attack, eval}) {
    EXPECT_EQ(options.get<ModelOptions>().path, base);
    EXPECT_EQ(options.get<DataOptions>().template_name, "plain");
  }
  const std::string adapter = align.get<OutputOptions>().dir + "/adapter";
  EXPECT_EQ(attack.get<AdapterOptions>().merge, std::vector<std::string>{adapter});
  EXPECT_EQ(eval.get<AdapterOptions>().merge,
            (std::vector<std::string>{adapter, attack.get<OutputOptions>().dir + "/adapter"}));
}

}  // namespace
}  // namespace vax::app
