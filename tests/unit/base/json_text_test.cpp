// JSON that is written: the text of every kind of value.
#include "base/json_text.h"

#include <gtest/gtest.h>

#include <limits>

namespace vax {
namespace {

TEST(JsonTextTest, ValuesOfEveryKind) {
  EXPECT_EQ(JsonText().text(), "null");
  EXPECT_EQ(JsonText(true).text(), "true");
  EXPECT_EQ(JsonText(std::numeric_limits<int64_t>::min()).text(), "-9223372036854775808");
  EXPECT_EQ(JsonText(std::numeric_limits<uint64_t>::max()).text(), "18446744073709551615");
  EXPECT_EQ(JsonText("a \"b\"\n").text(), R"("a \"b\"\n")");
  EXPECT_EQ(JsonText(std::string("\xff")).text(), "\"\xef\xbf\xbd\"");
  EXPECT_EQ(JsonText(std::optional<int>()).text(), "null");
  EXPECT_EQ(JsonText(std::optional<int>(3)).text(), "3");
  EXPECT_EQ(JsonText(std::vector<std::vector<int>>{{1, 2}, {}}).text(), "[[1,2],[]]");
  EXPECT_EQ(JsonText(Json::parse(R"({ "b" : [ 1.50 ], "a": {} })", "x")).text(),
            R"({"b":[1.5],"a":{}})");
}

TEST(JsonTextTest, DoublesRoundTrip) {
  for (const double value : {0.1 + 0.2, 5e-324, -0.0, 1e300, 1.0, 123456789012345678.0})
    EXPECT_EQ(Json::parse(JsonText(value).text(), "x").number(), value);
  EXPECT_EQ(JsonText(1.0).text(), "1.0");
  EXPECT_EQ(JsonText(1e-5).text(), "1e-05");
  EXPECT_EQ(JsonText(-0.0).text(), "-0.0");
  EXPECT_EQ(JsonText(std::numeric_limits<double>::quiet_NaN()).text(), "null");
  EXPECT_EQ(JsonText(-std::numeric_limits<double>::infinity()).text(), "null");
}

TEST(JsonTextTest, MembersKeepTheirOrder) {
  JsonText object({{"z", 1}, {"a", "x"}, {"nested", {{"y", nullptr}, {"b", false}}}});
  object.add("last", JsonText::array());
  EXPECT_EQ(object.text(), R"({"z":1,"a":"x","nested":{"y":null,"b":false},"last":[]})");
  EXPECT_EQ(JsonText::object().text(), "{}");
  EXPECT_EQ(JsonText({{"one", 1}}).text(), R"({"one":1})");
}

TEST(JsonTextTest, Indented) {
  EXPECT_EQ(JsonText({{"a", std::vector<int>{1}}, {"b", JsonText::object()}}).indented(),
            "{\n  \"a\": [\n    1\n  ],\n  \"b\": {}\n}\n");
}

}  // namespace
}  // namespace vax
