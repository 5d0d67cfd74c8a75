// The option table: it covers the structs of the *_options.h exactly, and every row refuses what it
// should. A row without a case here fails the test, so a new option brings its limits along.
#include "app/option_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <regex>
#include <set>

#include "app/help.h"
#include "app/resolve.h"
#include "app_test_support.h"
#include "data/data_options.h"
#include "train/model_options.h"
#include "train/output_options.h"
#include "train/train_options.h"

namespace vax::app {
namespace {

using Strings = std::vector<std::string>;

// "section.member" for the members of every struct XOptions, declared as options or not.
std::set<std::string> members_in_headers() {
  const std::regex opening("struct (\\w+)Options \\{");
  const std::regex option("  VAX_OPTION\\([\\w:<>]+, (\\w+),.*");
  const std::regex member("  [\\w:<>]+ (\\w+)( = [^;]+)?;.*");
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(VAX_SOURCE_DIR "/src")) {
    if (!entry.path().string().ends_with("_options.h")) continue;
    std::ifstream header(entry.path());
    std::string section;
    std::smatch match;
    for (std::string line; std::getline(header, line);) {
      if (std::regex_match(line, match, opening)) {
        section = match[1];
        section[0] = static_cast<char>(std::tolower(section[0]));
      } else if (line == "};") {
        section.clear();
      } else if (!section.empty() &&
                 (std::regex_match(line, match, option) || std::regex_match(line, match, member))) {
        names.insert(section + "." + match[1].str());
      }
    }
  }
  return names;
}

TEST(OptionTable, HasOneRowForEachMemberOfTheStructs) {
  std::set<std::string> rows;
  for (const OptionRow& row : program_table().rows()) {
    // `template` is a keyword, so its member has another name.
    const std::string member = row.name() == "data.template" ? "data.template_name" : row.name();
    EXPECT_TRUE(rows.insert(member).second) << "two rows for " << row.name();
  }
  EXPECT_EQ(rows, members_in_headers());
}

TEST(OptionTable, EachRowSetsAMemberOfItsOwn) {
  // Two rows bound to one member would show up as one row changing another row's text.
  for (const OptionRow& row : program_table().rows()) {
    Options options;
    const Strings candidates = {"3", "2", "0.25", "true", "false", "text"};
    const std::string before = row.text(options);
    for (const std::string& candidate : row.rule.choices.empty() ? candidates : row.rule.choices) {
      if (candidate != before && row.assign(options, candidate)) break;
    }
    EXPECT_NE(row.text(options), before) << row.name();
    for (const OptionRow& other : program_table().rows()) {
      if (&other == &row) continue;
      EXPECT_EQ(other.text(options), other.text(Options{})) << row.name() << " " << other.name();
    }
  }
}

TEST(OptionTable, RowsOfASectionAreConsecutive) {
  std::set<std::string> closed;
  std::string current;
  for (const OptionRow& row : program_table().rows()) {
    if (row.section != current) {
      EXPECT_TRUE(closed.insert(row.section).second) << row.section;
    }
    current = row.section;
  }
}

TEST(OptionTable, DefaultsAreLegal) {
  for (const OptionRow& row : program_table().rows()) {
    Options options;
    EXPECT_TRUE(row.assign(options, row.text(options))) << row.name();
    EXPECT_NE(row.used_by, 0U) << row.name();
  }
}

TEST(OptionTable, FindsRowsByName) {
  ASSERT_NE(program_table().find("train.lr"), nullptr);
  EXPECT_EQ(program_table().find("train.lr")->key, "lr");
  EXPECT_EQ(program_table().find("lr"), nullptr);
  EXPECT_EQ(program_table().find("train"), nullptr);
}

TEST(OptionTable, ChoicesAreAcceptedAndListedInTheMessage) {
  for (const OptionRow& row : program_table().rows()) {
    if (row.rule.choices.empty()) continue;
    Options options;
    for (const std::string& choice : row.rule.choices) {
      EXPECT_TRUE(row.assign(options, choice)) << row.name() << " " << choice;
      EXPECT_EQ(row.text(options), choice);
      EXPECT_NE(row.expected().find(choice), std::string::npos) << row.expected();
    }
    // Whole words in their own case only.
    const std::string capital = "X" + row.rule.choices[0];
    EXPECT_EQ(row.assign(options, capital), !row.rule.other.empty()) << row.name();
  }
}

TEST(OptionTable, BooleansAreTrueOrFalseOnly) {
  for (const OptionRow& row : program_table().rows()) {
    if (row.kind != ValueKind::kBoolean) continue;
    Options options;
    for (const char* text : {"true", "false"}) EXPECT_TRUE(row.assign(options, text)) << text;
    for (const char* text : {"1", "0", "yes", "on", "True", "FALSE"}) {
      EXPECT_FALSE(row.assign(options, text)) << row.name() << " " << text;
    }
    EXPECT_EQ(row.assign(options, ""), row.may_be_unset) << row.name();
  }
}

struct Limits {
  Strings legal;
  Strings illegal;
};

const Limits kCount = {{"1", "2", "1000000"}, {"0", "-1"}};
const Limits kCountOrNone = {{"", "1", "7"}, {"0", "-1"}};
const Limits kFromZero = {{"0", "1", "50"}, {"-1"}};
const Limits kNumberFromZero = {{"0", "0.5", "1e3"}, {"-0.5", "-1e-9"}};
const Limits kPositive = {{"1e-8", "0.5", "100"}, {"0", "-1"}};
const Limits kHalfOpenShare = {{"0", "0.999"}, {"1", "-0.1", "1.5"}};
const Limits kShare = {{"0", "0.1", "1"}, {"-0.1", "1.01"}};
const Limits kSeed = {{"0", "18446744073709551615"}, {"-1", "18446744073709551616", "1.5"}};

// The limits at both ends of every number.
const std::map<std::string, Limits> kLimits = {
    {"adapter.r", kCount},
    {"adapter.alpha", kPositive},
    {"adapter.dropout", kHalfOpenShare},
    {"data.max_length", {{"2", "200"}, {"1", "0", "-1"}}},
    {"data.samples", kCountOrNone},
    {"data.skip", kFromZero},
    {"data.harmful_ratio", kShare},
    {"train.global_batch", kCount},
    {"train.micro_batch", kCountOrNone},
    {"train.epochs", {{"", "0.5", "50"}, {"0", "-1"}}},
    {"train.max_steps", {{"", "0", "100"}, {"-1"}}},
    {"train.lr", kNumberFromZero},
    {"train.weight_decay", kNumberFromZero},
    {"train.beta1", kHalfOpenShare},
    {"train.beta2", kHalfOpenShare},
    {"train.eps", kPositive},
    {"train.warmup_ratio", kShare},
    {"train.clip", kNumberFromZero},
    {"train.seed", kSeed},
    {"vaccine.rho", kNumberFromZero},
    {"vaccine.interval", kCount},
    {"vaccine.probe_check_interval", kFromZero},
    {"vaccine.layers", {{"", "0", "0,1,31"}, {"-1", "1,1", "0,x"}}},
    {"shard.group_size", kCountOrNone},
    {"shard.residency_gib", kNumberFromZero},
    {"shard.prefetch", kFromZero},
    {"drift.samples", kCount},
    {"drift.batch", kCount},
    {"drift.interval", kFromZero},
    {"eval.max_new_tokens", kCount},
    {"eval.samples", kCountOrNone},
    {"eval.batch", kCount},
    {"plan.ranks", kCountOrNone},
    {"plan.ranks_per_node", kCountOrNone},
    {"checkpoint.interval", kFromZero},
    {"checkpoint.keep", {{"2", "100"}, {"1", "0", "-1"}}},
    {"checkpoint.stop_limit_s", kPositive},
    {"output.log_interval", kCount},
    {"runtime.threads", kCountOrNone},
    {"runtime.timeout_s", kNumberFromZero},
    {"init.vocab_size", kFromZero},
    {"init.hidden_size", kCount},
    {"init.intermediate_size", kCount},
    {"init.num_hidden_layers", kCount},
    {"init.num_attention_heads", kCount},
    {"init.num_key_value_heads", kCountOrNone},
    {"init.head_dim", {{"", "2", "128"}, {"0", "1", "3", "-2"}}},
    {"init.max_position_embeddings", kCount},
    {"init.rms_norm_eps", kPositive},
    {"init.rope_theta", kPositive},
    {"init.initializer_range", kNumberFromZero},
    {"init.seed", kSeed},
};

bool is_number(const OptionRow& row) {
  return row.kind != ValueKind::kText && row.kind != ValueKind::kBoolean;
}

TEST(OptionTable, EveryNumberObeysItsLimits) {
  for (const OptionRow& row : program_table().rows()) {
    if (!is_number(row)) continue;
    const auto limits = kLimits.find(row.name());
    ASSERT_NE(limits, kLimits.end()) << "no limits for " << row.name() << " in this test";
    Options options;
    for (const std::string& text : limits->second.legal) {
      EXPECT_TRUE(row.assign(options, text)) << row.name() << " " << text;
    }
    const std::string before = row.text(options);
    for (const std::string& text : limits->second.illegal) {
      EXPECT_FALSE(row.assign(options, text)) << row.name() << " " << text;
    }
    EXPECT_EQ(row.text(options), before) << "a refused value changed " << row.name();
  }
}

TEST(OptionTable, NumbersAreWholeTexts) {
  for (const OptionRow& row : program_table().rows()) {
    if (!is_number(row)) continue;
    Options options;
    for (const char* text : {"x", "1x", "1 2x", "0x10", "nan", "inf", "1e999", "--1", "+1"}) {
      EXPECT_FALSE(row.assign(options, text)) << row.name() << " " << text;
    }
    if (row.kind != ValueKind::kNumber) {
      for (const char* text : {"1.0", "1e3", "99999999999999999999"}) {
        EXPECT_FALSE(row.assign(options, text)) << row.name() << " " << text;
      }
    }
  }
}

TEST(OptionTable, OnlyListsAndWhatHasNoDefaultMayBeEmpty) {
  for (const OptionRow& row : program_table().rows()) {
    Options options;
    EXPECT_EQ(row.assign(options, ""), row.is_list || row.text(Options{}).empty()) << row.name();
    EXPECT_TRUE(!row.is_list || row.text(options).empty()) << row.name();
  }
}

TEST(OptionTable, MessagesSayTheRange) {
  const auto expected = [](const char* name) { return program_table().find(name)->expected(); };
  EXPECT_EQ(expected("data.harmful_ratio"), "a finite number in [0, 1]");
  EXPECT_EQ(expected("adapter.dropout"), "a finite number in [0, 1)");
  EXPECT_EQ(expected("train.eps"), "a finite number above 0");
  EXPECT_EQ(expected("adapter.r"), "an integer of at least 1");
  EXPECT_EQ(expected("init.head_dim"), "an even integer of at least 2");
  EXPECT_EQ(expected("train.seed"), "an integer from 0 to 2^64 - 1");
  EXPECT_EQ(expected("data.template"), "one of alpaca, llama2-chat, vicuna, plain or FILE");
  EXPECT_EQ(expected("vaccine.layers"),
            "a list (commas or spaces between) whose items are each an integer of at least 0, none "
            "twice");
}

TEST(OptionTable, SectionsAndRowsHaveNamesOfTheirOwn) {
  const OptionSection output = option_section<OutputOptions>();
  EXPECT_THROW(OptionTable({output, output}), std::logic_error);
  OptionSection doubled = output;
  doubled.rows.push_back(doubled.rows[0]);
  EXPECT_THROW(OptionTable({doubled}), std::logic_error);
}

// As a program of one's own has it: a method that src/ does not know, with options.
struct ToyOptions {
  VAX_SECTION(ToyOptions, .name = "toy", .users = kTraining);
  VAX_OPTION(double, strength, 0.5, "how much", .legal = at_least(0));
};

TEST(OptionTable, TakesWhatTheCatalogueBrings) {
  Catalogue catalogue = built_in_catalogue();
  catalogue.methods.add({.name = "toy", .options = option_section<ToyOptions>()});
  const OptionTable table = make_option_table(catalogue);
  CommandLine line =
      parse(table, words("align --train.method toy --toy.strength 2 --model.path m --data.path d "
                         "--output.dir o"));
  resolve(line);
  EXPECT_EQ(line.options.get<TrainOptions>().method, "toy");
  EXPECT_EQ(line.options.get<ToyOptions>().strength, 2);
  EXPECT_NE(to_ini(table, line.options).find("[toy]\nstrength = 2\n"), std::string::npos);
  EXPECT_NE(subcommand_help(table, "align").find("how much"), std::string::npos);
  EXPECT_EQ(table.at("train.method").expected(), "one of sft, vaccine, toy");
  EXPECT_EQ(parse_error("align --train.method toy"),
            "train.method: expected one of sft, vaccine, found 'toy' (the command line)");
}

TEST(OptionTable, ATemplateMayBeAFile) {
  Options options;
  EXPECT_TRUE(program_table().find("data.template")->assign(options, "my/template.txt"));
  EXPECT_EQ(options.get<DataOptions>().template_name, "my/template.txt");
}

TEST(OptionTable, TargetsAreNamesOfProjectionsEachOnce) {
  const OptionRow& row = *program_table().find("adapter.targets");
  Options options;
  EXPECT_TRUE(row.assign(options, "q_proj, v_proj"));
  EXPECT_EQ(options.get<AdapterOptions>().targets, (Strings{"q_proj", "v_proj"}));
  EXPECT_FALSE(row.assign(options, "q_proj,query"));
  EXPECT_FALSE(row.assign(options, "q_proj,q_proj"));
  EXPECT_EQ(options.get<AdapterOptions>().targets, (Strings{"q_proj", "v_proj"}));
}

TEST(OptionTable, SectionsGoToTheSubcommandsThatUseThem) {
  const auto used = [](const char* name) { return program_table().find(name)->used_by; };
  EXPECT_EQ(used("train.lr"), kTraining);
  EXPECT_EQ(used("vaccine.rho"), kTraining | kPlan);
  EXPECT_EQ(used("shard.frozen"), kTraining | kEval | kDrift | kGenerate | kExport | kPlan);
  EXPECT_EQ(used("plan.schedule"), kPlan);
  EXPECT_EQ(used("data.harmful_ratio"), kFinetune);
  EXPECT_EQ(used("init.hidden_size"), kInit);
  EXPECT_EQ(used("eval.task"), kEval);
  EXPECT_EQ(used("drift.interval"), kTraining);
  EXPECT_EQ(used("drift.samples"), kTraining | kDrift);
  EXPECT_EQ(used("model.path"),
            kTraining | kEval | kDrift | kGenerate | kTokenize | kExport | kPlan);
  EXPECT_EQ(used("output.dir"),
            kTraining | kEval | kDrift | kGenerate | kInit | kExport | kRebuild);
  EXPECT_EQ(used("checkpoint.interval"), kTraining);
}

}  // namespace
}  // namespace vax::app
