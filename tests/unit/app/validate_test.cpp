// Paths and rank counts against real directories.
#include "app/validate.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <map>

#include "app_test_support.h"
#include "data/data_options.h"
#include "eval/eval_options.h"
#include "model/init_options.h"
#include "train/model_options.h"
#include "train/output_options.h"
#include "train/shard_options.h"
#include "vaccine/drift_options.h"

namespace vax::app {
namespace {

class CheckPaths : public ::testing::Test {
 protected:
  CheckPaths() {
    dir_.write("model/config.json", "{}");
    dir_.write("model/tokenizer.model", "");
    dir_.write("adapter/adapter_config.json", "{}");
    dir_.write("rows.jsonl", "");
    options_.subcommand = "align";
    options_.get<ModelOptions>().path = dir_ / "model";
    options_.get<DataOptions>().path = dir_ / "rows.jsonl";
    options_.get<OutputOptions>().dir = dir_ / "new/output";
  }

  std::string error() {
    return message_of([&] { check_paths(options_); });
  }

  TemporaryDirectory dir_;
  Options options_;
};

TEST_F(CheckPaths, AcceptsWhatIsThereAndMakesNothing) {
  options_.get<AdapterOptions>().merge = {dir_ / "adapter", dir_ / "adapter"};
  options_.get<AdapterOptions>().init = dir_ / "adapter";
  EXPECT_NO_THROW(check_paths(options_));
  EXPECT_FALSE(std::filesystem::exists(dir_ / "new"));
}

TEST_F(CheckPaths, NamesAMissingModel) {
  options_.get<ModelOptions>().path = dir_ / "none";
  EXPECT_EQ(error(), "model.path = " + (dir_ / "none") +
                         ": expected a readable directory, found nothing there");
  options_.get<ModelOptions>().path = dir_ / "rows.jsonl";
  EXPECT_EQ(error(), "model.path = " + (dir_ / "rows.jsonl") +
                         ": expected a readable directory, found not a directory");
}

TEST_F(CheckPaths, LooksIntoTheModelDirectory) {
  std::filesystem::remove(dir_ / "model/tokenizer.model");
  EXPECT_EQ(error(), "model.path = " + (dir_ / "model") +
                         ": expected a directory with tokenizer.model, found one without");
  std::filesystem::remove(dir_ / "model/config.json");
  EXPECT_NE(error().find("a directory with config.json"), std::string::npos);
}

TEST_F(CheckPaths, TokenizeNeedsNoWeights) {
  std::filesystem::remove(dir_ / "model/config.json");
  options_.subcommand = "tokenize";
  EXPECT_NO_THROW(check_paths(options_));
}

TEST_F(CheckPaths, PlanNeedsConfigJsonOnly) {
  std::filesystem::remove(dir_ / "model/tokenizer.model");
  options_ = Options{};
  options_.subcommand = "plan";
  options_.get<ModelOptions>().path = dir_ / "model";
  EXPECT_NO_THROW(check_paths(options_));
  std::filesystem::remove(dir_ / "model/config.json");
  EXPECT_EQ(error(), "model.path = " + (dir_ / "model") +
                         ": expected a directory with config.json, found one without");
}

TEST_F(CheckPaths, NamesAdaptersThatAreNone) {
  options_.get<AdapterOptions>().merge = {dir_ / "adapter", dir_ / "model"};
  EXPECT_EQ(error(), "adapter.merge = " + (dir_ / "model") +
                         ": expected a directory with adapter_config.json, found one without");
  options_.get<AdapterOptions>().merge.clear();
  options_.get<AdapterOptions>().init = dir_ / "none";
  EXPECT_NE(error().find("adapter.init = "), std::string::npos);
}

TEST_F(CheckPaths, NamesEveryMissingFile) {
  const std::string missing = dir_ / "missing.jsonl";
  const std::map<std::string, std::string*> files = {
      {"data.path", &options_.get<DataOptions>().path},
      {"data.harmful_path", &options_.get<DataOptions>().harmful_path},
      {"drift.path", &options_.get<DriftOptions>().path},
      {"eval.harmful_path", &options_.get<EvalOptions>().harmful_path},
      {"eval.task_path", &options_.get<EvalOptions>().task_path},
      {"eval.alignment_path", &options_.get<EvalOptions>().alignment_path},
      {"eval.benign_path", &options_.get<EvalOptions>().benign_path},
      {"eval.judge_path", &options_.get<EvalOptions>().judge_path},
  };
  for (const auto& [name, member] : files) {
    const std::string before = *member;
    *member = missing;
    EXPECT_EQ(error(), name + " = " + missing + ": expected a readable file, found nothing there");
    *member = dir_.path();
    EXPECT_EQ(error(),
              name + " = " + dir_.path() + ": expected a readable file, found a directory");
    *member = before;
  }
}

TEST_F(CheckPaths, ATemplateIsANameOrAFile) {
  for (const char* name : {"alpaca", "llama2-chat", "vicuna", "plain"}) {
    options_.get<DataOptions>().template_name = name;
    EXPECT_NO_THROW(check_paths(options_)) << name;
  }
  options_.get<DataOptions>().template_name = dir_ / "rows.jsonl";
  EXPECT_NO_THROW(check_paths(options_));
  options_.get<DataOptions>().template_name = "alpaka";
  EXPECT_EQ(error(),
            "data.template = alpaka: expected alpaca, llama2-chat, vicuna, plain or a "
            "readable file, found nothing there");
}

TEST_F(CheckPaths, TheOutputMayExistOrBeMade) {
  options_.get<OutputOptions>().dir = dir_.path();
  EXPECT_NO_THROW(check_paths(options_));
  options_.get<OutputOptions>().dir = "relative/output";
  EXPECT_NO_THROW(check_paths(options_));
  options_.get<OutputOptions>().dir = dir_ / "rows.jsonl/output";
  EXPECT_EQ(error(), "output.dir = " + options_.get<OutputOptions>().dir +
                         ": expected a directory that can be made or written, found " +
                         (dir_ / "rows.jsonl") + ", which is not a directory");
}

TEST_F(CheckPaths, InitAndExportReplaceModelsOnly) {
  options_.subcommand = "export";
  EXPECT_NO_THROW(check_paths(options_));
  options_.get<OutputOptions>().dir = dir_.path();
  EXPECT_EQ(error(),
            "output.dir = " + options_.get<OutputOptions>().dir +
                ": expected a new or empty directory, or a model's (with config.json), found "
                "other files, which would be lost");
  options_.get<OutputOptions>().dir = dir_ / "model";
  EXPECT_NE(error().find("found model.path itself"), std::string::npos) << error();
  dir_.write("older/config.json", "{}");
  options_.get<OutputOptions>().dir = dir_ / "older";
  EXPECT_NO_THROW(check_paths(options_));
}

TEST_F(CheckPaths, InputsAreNotReplaced) {
  const std::string output = dir_ / "run";
  options_.get<OutputOptions>().dir = output;
  dir_.write("run/model/config.json", "{}");
  dir_.write("run/model/tokenizer.model", "");
  dir_.write("run/adapter/adapter_config.json", "{}");
  options_.get<ModelOptions>().path = output + "/model";
  EXPECT_NO_THROW(check_paths(options_)) << "an adapter is written beside it";
  options_.get<AdapterOptions>().type = AdapterType::kNone;
  EXPECT_EQ(error(), "model.path = " + output +
                         "/model: expected an input that stays, found one in " + output +
                         "/model, which this run replaces: choose another output.dir");
  std::filesystem::create_directory_symlink(output + "/model", dir_ / "link");
  options_.get<ModelOptions>().path = dir_ / "link";
  EXPECT_NE(error().find("model.path = " + (dir_ / "link") + ": expected an input that stays"),
            std::string::npos);
  // A directory of links, as a cache of models is one.
  dir_.write("cache/tokenizer.model", "");
  std::filesystem::create_symlink(output + "/model/config.json", dir_ / "cache/config.json");
  options_.get<ModelOptions>().path = dir_ / "cache";
  EXPECT_NE(error().find("model.path = " + (dir_ / "cache")), std::string::npos);
  options_.get<ModelOptions>().path = dir_ / "model";
  options_.get<AdapterOptions>().type = AdapterType::kLora;
  options_.get<AdapterOptions>().merge = {output + "/adapter"};
  EXPECT_NE(error().find("adapter.merge = "), std::string::npos);
  options_.get<AdapterOptions>().merge.clear();
  options_.get<AdapterOptions>().init = dir_ / "run/../run/adapter/";
  EXPECT_NE(error().find("adapter.init = "), std::string::npos);
  options_.get<AdapterOptions>().init.clear();
  options_.get<DataOptions>().path = dir_.write("run/run.jsonl", "");
  EXPECT_NE(error().find("data.path = "), std::string::npos);
  options_.get<OutputOptions>().overwrite = true;
  EXPECT_NE(error().find("data.path = "), std::string::npos) << "of a finished run, not of inputs";
  options_.subcommand = "generate";
  EXPECT_NO_THROW(check_paths(options_));
  options_.get<DataOptions>().path = dir_.write("run/answers.json", "");
  EXPECT_NE(error().find("data.path = "), std::string::npos);
  options_.subcommand = "export";
  options_.get<DataOptions>().path.clear();
  options_.get<OutputOptions>().dir = output + "/model";
  options_.get<AdapterOptions>().merge = {dir_.write("run/model/sub/adapter_config.json", "{}")};
  options_.get<AdapterOptions>().merge[0].resize(
      options_.get<AdapterOptions>().merge[0].rfind('/'));
  EXPECT_NE(error().find("adapter.merge = "), std::string::npos) << "inside of what is replaced";
}

// Root may read and write everything: as root, the checks run as another user.
class WithoutPrivileges {
 public:
  WithoutPrivileges() {
    if (was_root_ && ::seteuid(kNobody) != 0) throw std::runtime_error("seteuid");
  }
  WithoutPrivileges(const WithoutPrivileges&) = delete;
  WithoutPrivileges& operator=(const WithoutPrivileges&) = delete;
  ~WithoutPrivileges() {
    if (was_root_) {
      EXPECT_EQ(::seteuid(0), 0);
    }
  }

 private:
  static constexpr uid_t kNobody = 65534;
  bool was_root_ = ::geteuid() == 0;
};

TEST_F(CheckPaths, PermissionsCount) {
  namespace fs = std::filesystem;
  constexpr auto kReadOnly = fs::perms{0555};
  fs::permissions(dir_.path(), kReadOnly);
  fs::permissions(dir_ / "rows.jsonl", fs::perms::none);
  std::string unwritable;
  std::string unreadable;
  std::string hidden;
  {
    const WithoutPrivileges user;
    unwritable = error();
    options_.get<OutputOptions>().dir.clear();
    unreadable = error();
  }
  fs::permissions(dir_.path(), fs::perms::none);
  {
    const WithoutPrivileges user;
    options_.get<OutputOptions>().dir = dir_ / "new/output";
    hidden = error();
  }
  fs::permissions(dir_.path(), fs::perms::owner_all);
  EXPECT_EQ(unwritable, "output.dir = " + (dir_ / "new/output") +
                            ": expected a directory that can be made or written, found no "
                            "permission to write in " +
                            dir_.path());
  EXPECT_EQ(unreadable, "data.path = " + (dir_ / "rows.jsonl") +
                            ": expected a readable file, found no permission to read it");
  EXPECT_NE(hidden.find("found Permission denied at " + dir_.path()), std::string::npos) << hidden;
}

TEST_F(CheckPaths, DriftChecksTheReference) {
  options_.subcommand = "drift";
  options_.get<DriftOptions>().reference_path = dir_ / "model";
  options_.get<DriftOptions>().reference_merge = {dir_ / "adapter"};
  EXPECT_NO_THROW(check_paths(options_));
  options_.get<DriftOptions>().reference_merge = {dir_ / "none"};
  EXPECT_NE(error().find("drift.reference_merge = "), std::string::npos);
  options_.get<DriftOptions>().reference_path = dir_ / "none";
  EXPECT_NE(error().find("drift.reference_path = "), std::string::npos);
}

TEST_F(CheckPaths, InitTakesATokenizerOrADirectoryWithOne) {
  options_.subcommand = "init";
  options_.get<ModelOptions>().path.clear();
  options_.get<InitOptions>().tokenizer_path = dir_ / "model/tokenizer.model";
  EXPECT_NO_THROW(check_paths(options_));
  options_.get<InitOptions>().tokenizer_path = dir_ / "model";
  EXPECT_NO_THROW(check_paths(options_));
  options_.get<InitOptions>().tokenizer_path = dir_ / "adapter";
  EXPECT_NE(error().find("a directory with tokenizer.model"), std::string::npos);
  options_.get<InitOptions>().tokenizer_path = dir_ / "none";
  EXPECT_NE(error().find("init.tokenizer_path = "), std::string::npos);
}

TEST(CheckWorldSize, GroupsDivideTheRanks) {
  Options options;
  EXPECT_NO_THROW(check_world_size(options, 7));
  options.get<ShardOptions>().group_size = 2;
  EXPECT_NO_THROW(check_world_size(options, 2));
  EXPECT_NO_THROW(check_world_size(options, 4));
  EXPECT_EQ(message_of([&] { check_world_size(options, 3); }),
            "shard.group_size: expected a divisor of the number of ranks (3), found 2");
  EXPECT_THROW(check_world_size(options, 1), ConfigError);
  options.subcommand = "plan";  // which plans for ranks that are not there
  EXPECT_NO_THROW(check_world_size(options, 1));
}

}  // namespace
}  // namespace vax::app
