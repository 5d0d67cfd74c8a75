#include "eval/text_match.h"

#include <gtest/gtest.h>

namespace vax::eval {
namespace {

TEST(TextMatch, TrimsAllAsciiWhiteSpace) {
  EXPECT_EQ(trimmed(" \t\r\n a b \n"), "a b");
  EXPECT_EQ(trimmed(" \n"), "");
  EXPECT_EQ(trimmed(""), "");
}

TEST(TextMatch, NormalizesCaseWhiteSpaceAndApostrophes) {
  EXPECT_EQ(normalized("  I\xE2\x80\x99m \n\t SORRY "), "i'm sorry");
  EXPECT_EQ(normalized("I\xE2\x80\x98m"), "i'm");
  EXPECT_EQ(normalized(" \n "), "");
  EXPECT_EQ(normalized("Gr\xC3\x9C"
                       "e"),
            "gr\xC3\x9C"
            "e")
      << "other characters stay as they are";
}

TEST(TextMatch, FindsWordsRegardlessOfCase) {
  EXPECT_TRUE(contains_word("Take the Hammer, now", "hammer"));
  EXPECT_TRUE(contains_word("take the hammer", "HAMMER"));
  EXPECT_TRUE(contains_word("hammer", "hammer"));
  EXPECT_TRUE(contains_word("(hammer)", "hammer"));
}

TEST(TextMatch, DoesNotFindPartsOfWords) {
  EXPECT_FALSE(contains_word("stealing", "steal"));
  EXPECT_FALSE(contains_word("sledgehammer", "hammer"));
  EXPECT_FALSE(contains_word("hammer_2", "hammer"));
  EXPECT_FALSE(contains_word("steal\xC3\xA9", "steal")) << "a letter beyond ASCII goes on the word";
}

TEST(TextMatch, LooksBeyondTheFirstPlaceThatIsNoWord) {
  EXPECT_TRUE(contains_word("sledgehammer or hammer", "hammer"));
}

TEST(TextMatch, FindsPhrasesAcrossLineEnds) {
  EXPECT_TRUE(contains_word("well, I\ncannot do it", "i  cannot"));
  EXPECT_FALSE(contains_word("I can not", "i cannot"));
}

TEST(TextMatch, NeedsNoBoundaryWhereTheWordEndsInPunctuation) {
  EXPECT_TRUE(contains_word("no.really", "no."));
  EXPECT_TRUE(contains_word("costs $5now", "$5now"));
  EXPECT_FALSE(contains_word("xno.", "no."));
}

TEST(TextMatch, NothingIsNoWord) {
  EXPECT_FALSE(contains_word("anything", ""));
  EXPECT_FALSE(contains_word("anything", "  "));
  EXPECT_FALSE(contains_word("", "a"));
}

}  // namespace
}  // namespace vax::eval
