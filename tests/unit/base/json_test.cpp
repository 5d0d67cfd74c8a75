// The JSON reader: what it refuses, typed access, and how the messages help.
#include "base/json.h"

#include <sys/stat.h>

#include "unit/io/io_test_support.h"

namespace vax {
namespace {

using io::testing::expect_data_error;
using io::testing::ScratchDirectory;
using io::testing::write_text;

void parse(const std::string& text, const JsonLimits& limits = {}) {
  Json::parse(text, "x", limits);
}

std::string nested_arrays(int depth) {
  const auto n = static_cast<size_t>(depth);
  return std::string(n, '[') + std::string(n, ']');
}

TEST(JsonTest, ReadsAFile) {
  const ScratchDirectory scratch;
  write_text(scratch / "a.json", R"({"a": [1, 2.5, null], "b": {"a": "x"}})");
  const Json json = Json::read(scratch / "a.json");
  EXPECT_EQ(json["a"].items()[0].integer(), 1);
  EXPECT_EQ(json["b"]["a"].text(), "x");  // the same key in another object is no repetition
}

TEST(JsonTest, SyntaxErrorNamesFileAndByte) {
  const ScratchDirectory scratch;
  write_text(scratch / "a.json", R"({"a": 1,, "b": 2})");
  expect_data_error([&] { Json::read(scratch / "a.json"); }, {"a.json", "byte 9"});
}

TEST(JsonTest, MissingFileIsNamed) {
  expect_data_error([] { Json::read("no/such/file.json"); }, {"no/such/file.json", "No such file"});
}

TEST(JsonTest, APipeIsRefusedInsteadOfWaitedFor) {
  const ScratchDirectory scratch;
  ASSERT_EQ(::mkfifo((scratch / "a.json").c_str(), 0600), 0);
  expect_data_error([&] { Json::read(scratch / "a.json"); }, {"a.json", "regular file"});
}

TEST(JsonTest, LongTextsDoNotFloodTheMessage) {
  try {
    parse("{\"a\": \"" + std::string(1'000'000, 'x') + "\"\n 1}");
    ADD_FAILURE() << "no error";
  } catch (const DataError& e) {
    EXPECT_LT(std::string(e.what()).size(), 500u);
  }
}

TEST(JsonTest, MembersKeepTheirOrderAndCanBeLimited) {
  const Json json = Json::parse(R"({"z": 1, "a": 2, "m": {"y": 0, "b": 0}})", "x");
  EXPECT_EQ(json.dump(), R"({"z":1,"a":2,"m":{"y":0,"b":0}})");
  EXPECT_EQ(json.members()[2].first, "m");
  constexpr JsonLimits kLimits = {.max_members = 1024};
  std::string members;
  for (size_t i = 0; i < kLimits.max_members; ++i)
    members += cat(i > 0 ? "," : "", "\"", i, "\":0");
  EXPECT_NO_THROW(parse("{" + members + "}", kLimits));
  expect_data_error([&] { parse("[{" + members + ",\"more\":0}]", kLimits); },
                    {"at most 1024 members"});
  EXPECT_NO_THROW(parse("{" + members + ",\"more\":0}"));
}

// Half a minute where every key is compared with those before it.
TEST(JsonTest, AnObjectOfManyMembersIsReadAtOnce) {
  std::string text = "{\"0\": 0";
  for (int i = 1; i < 300'000; ++i) text += cat(", \"", i, "\": ", i);
  const Json json = Json::parse(text + "}", "x");
  EXPECT_EQ(json.size(), 300'000u);
  EXPECT_EQ(json["299999"].integer(), 299'999);
}

TEST(JsonTest, ValuesOfAllDepthsAreWhereTheyBelong) {
  const std::string text = R"({"a":[[1,{"b":[-1,2.5,"x",true,null]}],[]],"c":{},"d":"e"})";
  EXPECT_EQ(Json::parse(text, "x").dump(), text);
  EXPECT_EQ(Json::parse("7", "x").integer(), 7);
}

TEST(JsonTest, RefusesRepeatedKeysAtAnyLevel) {
  expect_data_error([] { parse(R"({"a": 1, "b": 2, "a": 3})"); }, {"x", "\"a\"", "twice"});
  expect_data_error([] { parse(R"([{"o": {"k": 1, "\u006b": 3}}])"); }, {"\"k\"", "twice"});
}

TEST(JsonTest, LimitsNesting) {
  EXPECT_NO_THROW(parse(nested_arrays(JsonLimits{}.max_depth)));
  expect_data_error([] { parse(nested_arrays(JsonLimits{}.max_depth + 1)); }, {"deeper than 64"});
  // Never closed and long enough to exhaust a recursive parser's stack.
  expect_data_error([] { parse(std::string(10'000'000, '[')); }, {"deeper than"});
}

TEST(JsonTest, RefusesWhatIsNoJsonText) {
  expect_data_error([] { parse(""); }, {"not valid JSON"});
  expect_data_error([] { parse("{} {}"); }, {"not valid JSON"});
  expect_data_error([] { parse("\"\xff\xfe\""); }, {"not valid JSON", "UTF-8"});
  expect_data_error([] { parse("[1e999]"); }, {"not valid JSON"});
}

TEST(JsonTest, TypedMembers) {
  const Json object = Json::parse(
      R"({"t": true, "s": "text", "f": 2.5, "i": 7, "n": null, "big": 18446744073709551615})",
      "file");
  EXPECT_TRUE(object["t"].boolean_or(false));
  EXPECT_EQ(object["s"].text_or(""), "text");
  EXPECT_TRUE(object["s"].is("text"));
  EXPECT_FALSE(object["i"].is("7"));
  EXPECT_EQ(object["f"].number_or(0), 2.5);
  EXPECT_EQ(object["i"].number_or(0), 7.0);
  EXPECT_EQ(object["i"].integer_or(0), 7);
  EXPECT_EQ(object["n"].integer_or(5), 5);  // null means "not given"
  EXPECT_EQ(object["absent"].integer_or(5), 5);
  EXPECT_EQ(object["big"].natural(), 18446744073709551615u);
  EXPECT_FALSE(object["big"].is_natural());
  EXPECT_EQ(object["i"].integer_in(7, 8), 7);
  expect_data_error([&] { object["f"].integer_or(0); },
                    {"file: f: expected an integer, found 2.5"});
  expect_data_error([&] { object["big"].integer(); }, {"18446744073709551615"});
  expect_data_error([&] { object["i"].integer_in(8, 9); },
                    {"file: i: expected an integer from 8 to 9, found 7"});
  expect_data_error([&] { object["i"].boolean_or(false); }, {"true or false", "7"});
  expect_data_error([&] { object["i"].text_or(""); }, {"a string", "7"});
  expect_data_error([&] { object["s"].number_or(0); }, {"a number", "text"});
  expect_data_error([&] { object["absent"].text(); }, {"absent: expected a string, found nothing"});
  expect_data_error([&] { object.required("absent"); }, {"file: lacks absent"});
  expect_data_error([&] { object["s"]["x"]; }, {"s: expected an object, found \"text\""});
  expect_data_error([&] { object["s"].items(); }, {"s: expected an array"});
  expect_data_error([&] { object.fail("7"); }, {"file: expected 7, found {\"t\":true"});
}

TEST(JsonTest, MessagesSayWhereAValueStands) {
  const Json json = Json::parse(R"({"a": [{"b": 1}, {"b": "x"}], "\u001b[2J": 3})", "file");
  expect_data_error([&] { json["a"].items()[1]["b"].integer(); }, {"file: a[1]: b: expected"});
  expect_data_error([&] { json["a"].named("the list").text(); }, {"the list: expected a string"});
  expect_data_error([&] { json.members()[1].second.text(); }, {"file: \"\\u001b[2J\": expected"});
}

TEST(JsonTest, ATextTakesTheMembersPlace) {
  const Json json = Json::parse(R"({"a": 1, "b": 2})", "x");
  EXPECT_EQ(json.with_text("a", "\xff").dump(), "{\"a\":\"\xef\xbf\xbd\",\"b\":2}");
  EXPECT_EQ(json["a"].integer(), 1);
}

}  // namespace
}  // namespace vax
