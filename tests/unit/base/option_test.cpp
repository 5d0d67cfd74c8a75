// Declarations of options: members, rows, the container, and texts of lists.
#include "base/option.h"

#include <gtest/gtest.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

namespace vax {
namespace {

using Strings = std::vector<std::string>;

enum class Colour { kNone, kRed, kGreen };
constexpr auto words_of(Colour) { return std::to_array<std::string_view>({"", "red", "green"}); }

struct PaintOptions {
  VAX_SECTION(PaintOptions, .name = "paint", .users = kAlign, .on_resume = OnResume::kSameNumbers);
  VAX_OPTION(Colour, colour, Colour::kNone, "of the wall", .unset = "as it is");
  // A comment, and a declaration of several lines.
  VAX_OPTION(std::optional<int64_t>, coats, {}, "one on the other", .legal = at_least(1),
             .unset = "enough", .users = kEval, .on_resume = OnResume::kRefused);

  VAX_OPTION(std::vector<double>, shares, {}, "of each tin (list)", .legal = between(0, 1));
  VAX_OPTION(std::string, text, "wet paint", "on the sign", .key = "sign");
};

TEST(Option, MembersAreThoseOfAnAggregate) {
  const PaintOptions paint{.colour = Colour::kRed, .shares = {0.5}};
  EXPECT_EQ(paint.colour, Colour::kRed);
  EXPECT_EQ(paint.coats, std::nullopt);
  EXPECT_EQ(paint.shares, std::vector<double>{0.5});
  EXPECT_EQ(paint.text, "wet paint");
}

TEST(Option, RowsSayWhatTheDeclarationSays) {
  const OptionSection section = option_section<PaintOptions>();
  EXPECT_EQ(section.name, "paint");
  ASSERT_EQ(section.rows.size(), 4U);
  EXPECT_EQ(section.rows[0].name(), "paint.colour");
  EXPECT_EQ(section.rows[0].meaning, "of the wall");
  EXPECT_EQ(section.rows[0].unset, "as it is");
  EXPECT_EQ(section.rows[0].used_by, kAlign);
  EXPECT_EQ(section.rows[0].on_resume, OnResume::kSameNumbers);
  EXPECT_EQ(section.rows[0].rule.choices, (Strings{"red", "green"}));
  EXPECT_TRUE(section.rows[0].may_be_unset);
  EXPECT_EQ(section.rows[1].key, "coats");
  EXPECT_EQ(section.rows[1].used_by, kEval);
  EXPECT_EQ(section.rows[1].on_resume, OnResume::kRefused);
  EXPECT_EQ(section.rows[1].expected(), "an integer of at least 1");
  EXPECT_TRUE(section.rows[2].is_list);
  EXPECT_EQ(section.rows[3].key, "sign");
  EXPECT_FALSE(section.rows[3].may_be_unset);
}

TEST(Option, RowsReadAndWriteTheirMember) {
  const OptionSection section = option_section<PaintOptions>();
  Options options;
  EXPECT_TRUE(section.rows[0].assign(options, "green"));
  EXPECT_TRUE(section.rows[1].assign(options, "2"));
  EXPECT_FALSE(section.rows[1].assign(options, "0"));
  EXPECT_TRUE(section.rows[2].assign(options, "0.25 1"));
  const PaintOptions& paint = options.get<PaintOptions>();
  EXPECT_EQ(paint.colour, Colour::kGreen);
  EXPECT_EQ(paint.coats, 2);
  EXPECT_EQ(paint.shares, (std::vector<double>{0.25, 1}));
  EXPECT_EQ(section.rows[0].text(options), "green");
  EXPECT_EQ(section.rows[1].words(options), Strings{"2"});
  EXPECT_EQ(section.rows[2].text(options), "0.25,1");
  EXPECT_TRUE(section.rows[0].assign(options, ""));
  EXPECT_EQ(paint.colour, Colour::kNone);
  EXPECT_TRUE(section.rows[1].assign(options, ""));
  EXPECT_TRUE(section.rows[1].words(options).empty());
}

TEST(Options, HoldAnySectionWithItsDefaults) {
  const Options untouched;
  EXPECT_EQ(untouched.get<PaintOptions>().text, "wet paint");
  Options options;
  options.get<PaintOptions>().coats = 3;
  const Options copy = options;
  options.get<PaintOptions>().coats = 4;
  EXPECT_EQ(copy.get<PaintOptions>().coats, 3);
  EXPECT_EQ(std::as_const(options).get<PaintOptions>().coats, 4);
}

TEST(ListText, UnquotedItemsLieBetweenCommasAndBlanks) {
  EXPECT_EQ(split_list(""), Strings{});
  EXPECT_EQ(split_list(" ,\t, "), Strings{});
  EXPECT_EQ(split_list("a, b\tc d"), (Strings{"a", "b", "c", "d"}));
  EXPECT_EQ(split_list("it\"s \\x"), (Strings{"it\"s", "\\x"}));
}

TEST(ListText, QuotedItemsMayHoldThem) {
  EXPECT_EQ(split_list("\"a b\",\"c,d\" e"), (Strings{"a b", "c,d", "e"}));
  EXPECT_EQ(split_list("\"\\\"\\\\\""), Strings{"\"\\"});
  EXPECT_EQ(split_list("\"\""), Strings{""});
}

TEST(ListText, QuotesThatDoNotEndAreErrors) {
  for (const char* text : {"\"", "\"a b", "\"a\\\"", "\"a\\", "\"a\"b", "a,\"b\"\"c\""})
    EXPECT_EQ(split_list(text), std::nullopt) << text;
}

TEST(ListText, ReadsBackAsTheItems) {
  const Strings items = {"plain", "a b", "c,d", "\"", "\\", "\"x\\\" y", "k=v", "tab\there"};
  EXPECT_EQ(split_list(join_list(items)), items);
  EXPECT_EQ(join_list(Strings{"a", "b/c"}), "a,b/c");  // no quotes where none are needed
}

}  // namespace
}  // namespace vax
