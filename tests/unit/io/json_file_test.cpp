// Strictness of the JSON reader: what it refuses and how the message helps.
#include "io/json_file.h"

#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "io_test_support.h"

namespace vax::io {
namespace {

using testing::expect_data_error;

std::string nested_arrays(int depth) {
  const auto n = static_cast<size_t>(depth);
  return std::string(n, '[') + std::string(n, ']');
}

TEST(JsonFile, ReadsAFile) {
  const testing::ScratchDirectory scratch;
  testing::write_text(scratch / "a.json", R"({"a": [1, 2.5, null], "b": {"a": "x"}})");
  const auto json = read_json(scratch / "a.json");
  EXPECT_EQ(json["a"][0], 1);
  EXPECT_EQ(json["b"]["a"], "x");  // the same key in another object is no repetition
}

TEST(JsonFile, SyntaxErrorNamesFileAndByte) {
  const testing::ScratchDirectory scratch;
  testing::write_text(scratch / "a.json", R"({"a": 1,, "b": 2})");
  expect_data_error([&] { read_json(scratch / "a.json"); }, {"a.json", "byte 9"});
}

TEST(JsonFile, MissingFileIsNamed) {
  expect_data_error([] { read_json("no/such/file.json"); }, {"no/such/file.json", "No such file"});
}

TEST(JsonFile, APipeIsRefusedInsteadOfWaitedFor) {
  const testing::ScratchDirectory scratch;
  ASSERT_EQ(::mkfifo((scratch / "a.json").c_str(), 0600), 0);
  expect_data_error([&] { read_json(scratch / "a.json"); }, {"a.json", "regular file"});
}

TEST(JsonFile, LongTextsDoNotFloodTheMessage) {
  try {
    parse_json("{\"a\": \"" + std::string(1'000'000, 'x') + "\"\n 1}", "x");
    ADD_FAILURE() << "no error";
  } catch (const DataError& e) {
    EXPECT_LT(std::string(e.what()).size(), 500u);
  }
}

TEST(JsonFile, OrderedMembersKeepTheirOrderAndAreLimited) {
  const auto json = parse_ordered_json(R"({"z": 1, "a": 2, "m": {"y": 0, "b": 0}})", "x");
  EXPECT_EQ(json.dump(), R"({"z":1,"a":2,"m":{"y":0,"b":0}})");
  expect_data_error([] { parse_ordered_json(R"({"a": 1, "a": 2})", "x"); }, {"\"a\"", "twice"});
  std::string members;
  for (size_t i = 0; i < kMaxOrderedMembers; ++i) members += cat(i > 0 ? "," : "", "\"", i, "\":0");
  EXPECT_NO_THROW(parse_ordered_json("{" + members + "}", "x"));
  expect_data_error([&] { parse_ordered_json("[{" + members + ",\"more\":0}]", "x"); },
                    {"at most 1024 members"});
  EXPECT_NO_THROW(parse_json("{" + members + ",\"more\":0}", "x"));
}

TEST(JsonFile, RefusesRepeatedKeysAtAnyLevel) {
  expect_data_error([] { parse_json(R"({"a": 1, "b": 2, "a": 3})", "x"); },
                    {"x", "\"a\"", "twice"});
  expect_data_error([] { parse_json(R"([{"o": {"k": 1, "\u006b": 3}}])", "x"); },
                    {"\"k\"", "twice"});
}

TEST(JsonFile, LimitsNesting) {
  EXPECT_NO_THROW(parse_json(nested_arrays(kMaxJsonDepth), "x"));
  expect_data_error([] { parse_json(nested_arrays(kMaxJsonDepth + 1), "x"); }, {"deeper than 64"});
  // Never closed and long enough to exhaust a recursive parser's stack.
  expect_data_error([] { parse_json(std::string(10'000'000, '['), "x"); }, {"deeper than"});
}

TEST(JsonFile, RefusesWhatIsNoJsonText) {
  expect_data_error([] { parse_json("", "x"); }, {"not valid JSON"});
  expect_data_error([] { parse_json("{} {}", "x"); }, {"not valid JSON"});
  expect_data_error([] { parse_json("\"\xff\xfe\"", "x"); }, {"not valid JSON", "UTF-8"});
  expect_data_error([] { parse_json("[1e999]", "x"); }, {"not valid JSON"});
}

TEST(JsonFile, TypedMembers) {
  const auto object = parse_json(
      R"({"t": true, "s": "text", "f": 2.5, "i": 7, "n": null, "big": 18446744073709551615})", "x");
  EXPECT_TRUE(bool_or(object, "t", false, "x"));
  EXPECT_EQ(string_or(object, "s", "", "x"), "text");
  EXPECT_EQ(number_or(object, "f", 0, "x"), 2.5);
  EXPECT_EQ(number_or(object, "i", 0, "x"), 7.0);
  EXPECT_EQ(integer_or(object, "i", 0, "x"), 7);
  EXPECT_EQ(integer_or(object, "n", 5, "x"), 5);  // null means "not given"
  EXPECT_EQ(integer_or(object, "absent", 5, "x"), 5);
  expect_data_error([&] { integer_or(object, "f", 0, "file"); }, {"file", "f", "integer", "2.5"});
  expect_data_error([&] { integer_or(object, "big", 0, "file"); }, {"18446744073709551615"});
  expect_data_error([&] { bool_or(object, "i", false, "file"); }, {"true or false", "7"});
  expect_data_error([&] { string_or(object, "i", "", "file"); }, {"a string", "7"});
  expect_data_error([&] { number_or(object, "s", 0, "file"); }, {"a number", "text"});
}

}  // namespace
}  // namespace vax::io
