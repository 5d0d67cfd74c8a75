// Help: one golden text, and for every subcommand the properties that scripts and eyes rely on.
#include "app/help.h"

#include <gtest/gtest.h>

#include "app/option_table.h"
#include "app/subcommands.h"
#include "app_test_support.h"

namespace vax::app {
namespace {

std::string golden(const std::string& name) {
  std::ifstream file(VAX_SOURCE_DIR "/tests/unit/app/golden/" + name);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// The line of an option, cut into its columns (two spaces or more between).
std::vector<std::string> columns_of(const std::string& help, const std::string& name) {
  for (const std::string& line : lines_of(help)) {
    if (!line.starts_with("  --" + name + " ")) continue;
    std::vector<std::string> columns;
    for (size_t begin = 2; begin < line.size();) {
      const size_t end = std::min(line.find("  ", begin), line.size());
      columns.push_back(line.substr(begin, end - begin));
      begin = std::min(line.find_first_not_of(' ', end), line.size());
    }
    return columns;
  }
  return {};
}

TEST(Help, OfTheProgramIsAsRecorded) { EXPECT_EQ(program_help(), golden("help.txt")); }

TEST(Help, OfFinetuneIsAsRecorded) {
  EXPECT_EQ(subcommand_help(program_table(), "finetune"), golden("help_finetune.txt"));
}

TEST(Help, FitsTheTerminal) {
  std::string all = program_help();
  for (const Subcommand& subcommand : kSubcommands)
    all += subcommand_help(program_table(), subcommand.name);
  for (const std::string& line : lines_of(all)) {
    EXPECT_LE(line.size(), static_cast<size_t>(kHelpColumns)) << line;
    EXPECT_FALSE(line.ends_with(' ')) << line;
  }
}

TEST(Help, ShowsEveryUsedOptionWithItsDefaultAndMeaning) {
  const Options defaults;
  for (const Subcommand& subcommand : kSubcommands) {
    const std::string help = subcommand_help(program_table(), subcommand.name);
    for (const OptionRow& row : program_table().rows()) {
      const std::vector<std::string> columns = columns_of(help, row.name());
      if ((row.used_by & subcommand.bit) == 0) {
        EXPECT_TRUE(columns.empty()) << subcommand.name << " " << row.name();
        continue;
      }
      ASSERT_EQ(columns.size(), 3U) << subcommand.name << " " << row.name();
      const std::string value = row.text(defaults);
      if (!value.empty()) {
        EXPECT_EQ(columns[1], value) << row.name();
      }
      EXPECT_FALSE(columns[2].empty());
    }
  }
}

TEST(Help, ShowsDependentDefaults) {
  EXPECT_EQ(columns_of(subcommand_help(program_table(), "align"), "train.method").at(1), "vaccine");
  EXPECT_EQ(columns_of(subcommand_help(program_table(), "finetune"), "train.method").at(1), "sft");
  EXPECT_EQ(columns_of(subcommand_help(program_table(), "plan"), "train.method").at(1), "vaccine");
  EXPECT_EQ(columns_of(subcommand_help(program_table(), "plan"), "plan.ranks").at(1),
            "of this one");
  EXPECT_EQ(columns_of(subcommand_help(program_table(), "align"), "train.epochs").at(1), "50");
  EXPECT_EQ(columns_of(subcommand_help(program_table(), "align"), "drift.path").at(1), "data.path");
}

TEST(Help, ListsChoices) {
  EXPECT_NE(subcommand_help(program_table(), "align").find("(cosine | linear | constant)"),
            std::string::npos);
}

TEST(Help, OfTheProgramNamesEverySubcommand) {
  for (const Subcommand& subcommand : kSubcommands) {
    EXPECT_NE(program_help().find(std::string(subcommand.summary)), std::string::npos);
  }
}

TEST(Help, VersionIsTheProjects) {
  EXPECT_EQ(version_text(), "vaccine " VAX_EXPECTED_VERSION "\n");
}

}  // namespace
}  // namespace vax::app
