// Edit distances counted by hand, and which suggestions a mistyped name gets.
#include "app/did_you_mean.h"

#include <gtest/gtest.h>

namespace vax::app {
namespace {

using Names = std::vector<std::string>;

TEST(EditDistance, CountsByHand) {
  EXPECT_EQ(edit_distance("", ""), 0U);
  EXPECT_EQ(edit_distance("", "abc"), 3U);
  EXPECT_EQ(edit_distance("abc", ""), 3U);
  EXPECT_EQ(edit_distance("abc", "abc"), 0U);
  EXPECT_EQ(edit_distance("abc", "abd"), 1U);
  EXPECT_EQ(edit_distance("abc", "bc"), 1U);
  EXPECT_EQ(edit_distance("abc", "acb"), 1U);  // a swap of neighbours
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3U);
  EXPECT_EQ(edit_distance("sitting", "kitten"), 3U);
  EXPECT_EQ(edit_distance("ca", "abc"), 3U);  // no insertion between swapped letters
}

const Names kNames = {"train.lr", "train.clip", "vaccine.rho", "drift.samples", "eval.samples"};

TEST(DidYouMean, FindsTypingErrors) {
  EXPECT_EQ(closest_names("trian.lr", kNames), Names{"train.lr"});
  EXPECT_EQ(closest_names("vacine.rho", kNames), Names{"vaccine.rho"});
  EXPECT_EQ(closest_names("drift.sample", kNames), Names{"drift.samples"});
}

TEST(DidYouMean, FindsKeysInOtherSections) {
  EXPECT_EQ(closest_names("rho", kNames), Names{"vaccine.rho"});
  EXPECT_EQ(closest_names("train.rho", kNames), Names{"vaccine.rho"});
  EXPECT_EQ(closest_names("samples", kNames), (Names{"drift.samples", "eval.samples"}));
}

TEST(DidYouMean, IsSilentWhenNothingIsNear) {
  EXPECT_TRUE(closest_names("output.tensorboard", kNames).empty());
  EXPECT_TRUE(closest_names("", kNames).empty());
  EXPECT_TRUE(closest_names("train.lr", {}).empty());
  EXPECT_EQ(did_you_mean("output.tensorboard", kNames), "");
}

TEST(DidYouMean, NamesAtMostThree) {
  EXPECT_EQ(closest_names("x.a", Names{"b.a", "c.a", "d.a", "e.a"}).size(), 3U);
}

TEST(DidYouMean, Reads) {
  EXPECT_EQ(did_you_mean("rho", kNames, "--"), "; did you mean --vaccine.rho?");
  EXPECT_EQ(did_you_mean("samples", kNames), "; did you mean drift.samples or eval.samples?");
}

}  // namespace
}  // namespace vax::app
