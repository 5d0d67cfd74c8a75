// Every file in configs/ parses and resolves under the subcommand that its head names, and carries
// the hyper-parameters it claims: those of the paper (arXiv 2402.01109) and of the miniature.
#include <gtest/gtest.h>

#include <regex>
#include <set>

#include "app/resolve.h"
#include "app/resolved_config.h"
#include "app_test_support.h"

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
  EXPECT_EQ(options.model.dtype, ModelDtype::kBf16);
  EXPECT_EQ(options.adapter.type, AdapterType::kLora);
  EXPECT_EQ(options.adapter.r, 8);
  EXPECT_EQ(options.adapter.alpha, alpha);
  EXPECT_EQ(options.adapter.dropout, 0.1);
  EXPECT_TRUE(options.adapter.targets.empty());  // all seven projections
  EXPECT_EQ(options.data.max_length, 200);
  EXPECT_EQ(options.data.template_name, "alpaca");
}

TEST(Configs, AlignmentHasThePapersValues) {
  for (const std::string name : {"7b-vaccine", "13b-vaccine", "70b-vaccine", "7b-sft"}) {
    SCOPED_TRACE(name);
    const Options options = load("llama2-" + name + ".cfg");
    EXPECT_EQ(options.subcommand, "align");
    expect_paper_adapter(options, 4);
    expect_paper_optimizer(options.train);
    EXPECT_EQ(options.train.method, name.substr(name.find('-') + 1));
    EXPECT_EQ(options.train.lr, 1e-3);
    EXPECT_EQ(options.train.epochs, 50);
    EXPECT_EQ(options.data.samples, 2000);
    EXPECT_EQ(options.vaccine.rho, 2);
    EXPECT_EQ(options.train.recompute, name == "70b-vaccine" ? Recompute::kAll : Recompute::kNone);
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
    expect_paper_optimizer(options.train);
    EXPECT_EQ(options.train.method, "sft");
    EXPECT_EQ(options.train.lr, 1e-5);
    EXPECT_EQ(options.train.epochs, attack.epochs);
    EXPECT_EQ(options.data.samples, attack.samples);
    EXPECT_EQ(options.data.harmful_ratio, 0.1);
    ASSERT_EQ(options.adapter.merge.size(), 1U);
    const std::string size = attack.name.substr(0, attack.name.find('-'));
    EXPECT_EQ(options.adapter.merge[0],
              load("llama2-" + size + "-vaccine.cfg").output.dir + "/adapter");
    EXPECT_EQ(options.model.path, load("llama2-" + size + "-vaccine.cfg").model.path);
  }
}

TEST(Configs, TheBaselineDiffersFromVaccineInMethodAndOutputOnly) {
  for (const std::string prefix : {"llama2-7b-", "demo-align-"}) {
    const Options sft = load(prefix + "sft.cfg");
    Options vaccine = load(prefix + "vaccine.cfg");
    EXPECT_NE(vaccine.output.dir, sft.output.dir);
    vaccine.train.method = "sft";
    vaccine.output.dir = sft.output.dir;
    vaccine.vaccine = sft.vaccine;
    EXPECT_EQ(to_ini(vaccine), to_ini(sft)) << prefix;
  }
}

TEST(Configs, MiniatureHasItsValues) {
  const Options pretrain = load("demo-pretrain.cfg");
  EXPECT_EQ(pretrain.adapter.type, AdapterType::kNone);
  EXPECT_EQ(pretrain.data.format, data::RecordFormat::kText);
  EXPECT_EQ(pretrain.train.method, "sft");
  EXPECT_EQ(pretrain.train.global_batch, 48);
  EXPECT_EQ(pretrain.train.lr, 2e-3);
  EXPECT_EQ(pretrain.train.beta2, 0.98);
  EXPECT_EQ(pretrain.train.weight_decay, 0.05);
  EXPECT_EQ(pretrain.train.warmup_ratio, 0.05);
  EXPECT_GE(pretrain.train.max_steps, 700);
  EXPECT_LE(pretrain.train.max_steps, 800);

  const Options align = load("demo-align-vaccine.cfg");
  EXPECT_EQ(align.train.method, "vaccine");
  EXPECT_EQ(align.vaccine.rho, 1);
  EXPECT_EQ(align.adapter.alpha, 16);
  EXPECT_EQ(align.train.lr, 2e-3);
  EXPECT_EQ(align.train.global_batch, 8);
  EXPECT_EQ(align.train.max_steps, 1000);

  const Options attack = load("demo-finetune.cfg");
  EXPECT_EQ(attack.adapter.alpha, 8);
  EXPECT_EQ(attack.train.lr, 5e-4);
  EXPECT_EQ(attack.train.max_steps, 200);
  EXPECT_EQ(attack.data.samples, 1000);
  EXPECT_EQ(attack.data.harmful_ratio, 0.1);
}

TEST(Configs, MiniatureStagesFitTogether) {
  const std::string base = load("demo-pretrain.cfg").output.dir + "/model";
  const Options align = load("demo-align-vaccine.cfg");
  const Options attack = load("demo-finetune.cfg");
  const Options eval = load("demo-eval.cfg");
  for (const Options& options : {align, attack, eval}) {
    EXPECT_EQ(options.model.path, base);
    EXPECT_EQ(options.data.template_name, "plain");
  }
  const std::string adapter = align.output.dir + "/adapter";
  EXPECT_EQ(attack.adapter.merge, std::vector<std::string>{adapter});
  EXPECT_EQ(eval.adapter.merge,
            (std::vector<std::string>{adapter, attack.output.dir + "/adapter"}));
}

}  // namespace
}  // namespace vax::app
