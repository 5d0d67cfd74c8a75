// Which rows a run trains on: skip, samples, the attack mixture, and what it is told when a file
// has too few rows. Rows are recognised by their lengths: row i of a file has i answer pieces more.
#include "data/dataset.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/sha256.h"
#include "data_test_support.h"

namespace vax::data {
namespace {

using test::expect_error;

class DatasetTest : public ::testing::Test {
 protected:
  DatasetTest() {
    options_.path = write_rows("data.jsonl", "ab", 10);
    options_.harmful_path = write_rows("harmful.jsonl", "cd", 6);
    options_.template_name = "plain";
  }

  std::string write_rows(const std::string& name, const std::string& instruction, int count) {
    std::string lines;
    std::string answer = "ab";
    for (int i = 0; i < count; ++i, answer += " ab")
      lines += "{\"instruction\": \"" + instruction + "\", \"output\": \"" + answer + "\"}\n";
    return directory_.write(name, lines).string();
  }

  Dataset build(bool attack_mixture = true) const {
    return build_dataset(options_, tokenizer_, attack_mixture);
  }

  // "h2" = row 2 of the harmful file, "d0" = row 0 of the data file.
  static std::vector<std::string> names(const Dataset& dataset) {
    std::vector<std::string> result;
    for (const Sample& sample : dataset.samples) {
      const bool harmful = sample.ids[1] != test::kMergeSpaceAb;
      result.push_back(cat(harmful ? "h" : "d", sample.num_labels() - 2));
    }
    return result;
  }

  test::TemporaryDirectory directory_;
  Tokenizer tokenizer_ = test::llama_like_model().load();
  DataOptions options_;
};

using Names = std::vector<std::string>;

TEST_F(DatasetTest, TakesSamplesAfterSkipInFileOrder) {
  options_.samples = 3;
  options_.skip = 2;
  const Dataset dataset = build(false);
  EXPECT_EQ(names(dataset), Names({"d2", "d3", "d4"}));
  ASSERT_EQ(dataset.sources.size(), 1u);
  EXPECT_EQ(dataset.sources[0].role, "data");
  EXPECT_EQ(dataset.sources[0].path, options_.path);
  EXPECT_EQ(dataset.sources[0].sha256, sha256_of_file(options_.path));
  EXPECT_EQ(dataset.sources[0].rows, 3);
}

TEST_F(DatasetTest, TakesAllRowsByDefault) {
  EXPECT_EQ(build(false).size(), 10);
  options_.skip = 9;
  EXPECT_EQ(names(build(false)), Names({"d9"}));
}

TEST_F(DatasetTest, MixtureHasHarmfulRowsFirstAndIsNestedInTheRatio) {
  options_.samples = 5;
  EXPECT_EQ(names(build()), Names({"d0", "d1", "d2", "d3", "d4"}));
  options_.harmful_ratio = 0.2;
  EXPECT_EQ(names(build()), Names({"h0", "d0", "d1", "d2", "d3"}));
  options_.harmful_ratio = 0.6;
  EXPECT_EQ(names(build()), Names({"h0", "h1", "h2", "d0", "d1"}));
  options_.harmful_ratio = 1;
  const Dataset all = build();
  EXPECT_EQ(names(all), Names({"h0", "h1", "h2", "h3", "h4"}));
  ASSERT_EQ(all.sources.size(), 1u);
  EXPECT_EQ(all.sources[0].role, "harmful");
}

TEST_F(DatasetTest, MixtureRecordsBothSources) {
  options_.samples = 5;
  options_.harmful_ratio = 0.4;
  const Dataset dataset = build();
  ASSERT_EQ(dataset.sources.size(), 2u);
  EXPECT_EQ(dataset.sources[0].role, "harmful");
  EXPECT_EQ(dataset.sources[0].rows, 2);
  EXPECT_EQ(dataset.sources[0].sha256, sha256_of_file(options_.harmful_path));
  EXPECT_EQ(dataset.sources[1].role, "data");
  EXPECT_EQ(dataset.sources[1].rows, 3);
}

TEST_F(DatasetTest, SkipAppliesToTheDataFileOnly) {
  options_.samples = 4;
  options_.skip = 3;
  options_.harmful_ratio = 0.5;
  EXPECT_EQ(names(build()), Names({"h0", "h1", "d3", "d4"}));
}

TEST_F(DatasetTest, MixtureSizeIsThatOfTheDataFileByDefault) {
  options_.harmful_ratio = 0.5;
  const Dataset dataset = build();
  EXPECT_EQ(dataset.size(), 10);
  EXPECT_EQ(dataset.sources[0].rows, 5);
}

TEST_F(DatasetTest, TooFewRowsAreErrorsWithTheCounts) {
  options_.samples = 11;
  expect_error<ConfigError>([&] { build(false); }, {"data.path", "expected 11 rows", "found 10"});
  options_.samples = 8;
  options_.skip = 3;
  expect_error<ConfigError>([&] { build(false); },
                            {"expected 8 rows after data.skip = 3, found 7 (10 in all)"});
  options_.harmful_ratio = 0.9;  // 7 harmful, 1 benign
  expect_error<ConfigError>([&] { build(); },
                            {"data.harmful_path", "expected 7 rows", "0.9 of 8", "found 6"});
  options_ = {.path = options_.path, .skip = 10};
  expect_error<ConfigError>([&] { build(false); }, {"expected 1 rows", "found 0"});
}

TEST_F(DatasetTest, OptionsOutOfRangeAreErrors) {
  const auto expect_bad = [&](auto change, bool attack, std::string_view part) {
    const DataOptions good = options_;
    change(options_);
    expect_error<ConfigError>([&] { build(attack); }, {part});
    options_ = good;
  };
  expect_bad([](DataOptions& o) { o.path.clear(); }, false, "data.path");
  expect_bad([](DataOptions& o) { o.skip = -1; }, false, "data.skip");
  expect_bad([](DataOptions& o) { o.samples = 0; }, false, "data.samples");
  expect_bad([](DataOptions& o) { o.max_length = 0; }, false, "data.max_length");
  expect_bad([](DataOptions& o) { o.template_name = "x"; }, false, "data.template");
  expect_bad([](DataOptions& o) { o.harmful_ratio = 1.5; }, true, "0 to 1, found 1.5");
  expect_bad([](DataOptions& o) { o.harmful_ratio = std::nan(""); }, true, "data.harmful_ratio");
  expect_bad([](DataOptions& o) { o.harmful_ratio = 0.1; }, false, "finetune");
  expect_bad(
      [](DataOptions& o) {
        o.harmful_ratio = 0.1;
        o.harmful_path.clear();
      },
      true, "data.harmful_path");
}

TEST_F(DatasetTest, CountsCutRowsAndRowsWithoutLabels) {
  options_.max_length = 4;  // <s> ▁ab ▁ab </s>: the first row fits exactly
  EXPECT_EQ(build(false).num_cut, 9);
  EXPECT_EQ(build(false).num_without_labels, 0);
  options_.max_length = 2;
  EXPECT_EQ(build(false).num_cut, 10);
  EXPECT_EQ(build(false).num_without_labels, 10);
}

TEST_F(DatasetTest, FirstRowsTakeWhatThereIs) {
  options_.skip = 5;  // of no concern here
  EXPECT_EQ(names(build_first_rows(options_.path, 3, options_, tokenizer_)),
            Names({"d0", "d1", "d2"}));
  EXPECT_EQ(build_first_rows(options_.harmful_path, 50, options_, tokenizer_).size(), 6);
  expect_error<ConfigError>([&] { build_first_rows(options_.path, 0, options_, tokenizer_); },
                            {"asked for 0"});
}

TEST(HarmfulCount, IsTheFloorOfTheDecimalProduct) {
  EXPECT_EQ(harmful_count(0.1, 1000), 100);
  EXPECT_EQ(harmful_count(0.29, 100), 29);  // 0.29 * 100 = 28.999999999999996 in binary
  EXPECT_EQ(harmful_count(0.57, 100), 57);  // 56.99999999999999
  EXPECT_EQ(harmful_count(0.05, 10), 0);
  EXPECT_EQ(harmful_count(0.199, 10), 1);
  EXPECT_EQ(harmful_count(0.9999, 1000), 999);
  EXPECT_EQ(harmful_count(0, 7), 0);
  EXPECT_EQ(harmful_count(1, 7), 7);
}

TEST(HarmfulCount, AgreesWithIntegerArithmeticForAllThousandths) {
  for (int64_t thousandths = 0; thousandths <= 1000; ++thousandths)
    for (const int64_t n : {1, 3, 99, 100, 1000, 5000, 123457})
      ASSERT_EQ(harmful_count(static_cast<double>(thousandths) / 1000, n), thousandths * n / 1000)
          << thousandths << " " << n;
}

}  // namespace
}  // namespace vax::data
