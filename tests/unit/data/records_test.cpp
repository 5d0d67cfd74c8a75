// Reading rows: both layouts, gzip, and what every kind of bad input is told.
#include "data/records.h"

#include <gtest/gtest.h>

#include "base/choice.h"
#include "base/error.h"
#include "base/sha256.h"
#include "data/text_file.h"
#include "data/utf8.h"
#include "data_test_support.h"

namespace vax::data {
namespace {

using test::expect_error;

const std::string kRows[] = {
    R"({"instruction": "one", "output": "1"})",
    R"({"instruction": "two", "input": "in", "output": "2", "extra": {"a": [1, {"a": null}]}})",
    R"({"instruction": "three", "output": "", "harmful_if": ["x", "y"], "safe_if": ["n"], "text": 5})"};

class Records : public ::testing::Test {
 protected:
  RecordFile read(const std::string& name, std::string_view content,
                  const ReadOptions& options = {}) const {
    return read_records(directory_.write(name, content), options);
  }
  void expect_bad(const std::string& name, std::string_view content,
                  std::initializer_list<std::string_view> parts,
                  const ReadOptions& options = {}) const {
    expect_error<DataError>([&] { read(name, content, options); }, parts);
  }
  test::TemporaryDirectory directory_;
};

void expect_the_three_rows(const RecordFile& file) {
  ASSERT_EQ(file.records.size(), 3u);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(file.records[i].row, static_cast<int64_t>(i));
  EXPECT_EQ(file.records[0].instruction, "one");
  EXPECT_EQ(file.records[0].input, "");
  EXPECT_EQ(file.records[1].input, "in");
  EXPECT_EQ(file.records[1].output, "2");
  EXPECT_EQ(file.records[2].output, "");
  EXPECT_EQ(file.records[2].harmful_if, std::vector<std::string>({"x", "y"}));
  EXPECT_EQ(file.records[2].safe_if, std::vector<std::string>({"n"}));
}

TEST_F(Records, AllFourKindsOfFileGiveTheSameRows) {
  const std::string array = "[" + kRows[0] + ",\n" + kRows[1] + ",\n" + kRows[2] + "]\n";
  const std::string lines = kRows[0] + "\n" + kRows[1] + "\r\n" + kRows[2];
  expect_the_three_rows(read("rows.json", array));
  expect_the_three_rows(read("rows.jsonl", lines));
  expect_the_three_rows(read("rows.jsonl", lines + "\n"));
  expect_the_three_rows(read("rows.json.gz", test::gzip(array)));
  expect_the_three_rows(read("rows.jsonl.gz", test::gzip(lines)));
  // gzip members may be concatenated, as `cat a.gz b.gz` does.
  expect_the_three_rows(
      read("rows.jsonl.gz", test::gzip(kRows[0] + "\n") + test::gzip(kRows[1] + "\n" + kRows[2])));
}

TEST_F(Records, HashIsThatOfTheFileOnDisk) {
  const std::string packed = test::gzip(kRows[0]);
  const RecordFile file = read("rows.jsonl.gz", packed);
  EXPECT_EQ(file.sha256, sha256_of_text(packed));
  EXPECT_EQ(file.path, (directory_.path() / "rows.jsonl.gz").string());
}

TEST_F(Records, TextRows) {
  const ReadOptions options{.format = RecordFormat::kText};
  const RecordFile file =
      read("t.jsonl", R"({"text": "caf\u00e9 \ud83d\ude42", "instruction": 3})", options);
  EXPECT_EQ(file.records.at(0).text, "café 🙂");
  expect_bad("t.jsonl", R"({"text": ""})", {"t.jsonl:1", "\"text\" is empty"}, options);
  expect_bad("t.jsonl", kRows[0], {"\"text\" is missing, found instruction, output"}, options);
}

TEST_F(Records, LinesEndAtNewlineOnly) {
  // U+2028, U+0085 and a vertical tab end lines in some readers.
  const RecordFile file =
      read("r.jsonl", "{\"instruction\": \"a\u2028b\u0085c\", \"output\": \"d\"}\n");
  EXPECT_EQ(file.records.at(0).instruction, "a\u2028b\u0085c");
}

TEST_F(Records, AByteOrderMarkIsNoText) {
  const std::string mark = "\xEF\xBB\xBF";
  const std::string row = R"({"instruction": "a", "output": "b"})";
  for (const auto& [name, text] :
       {std::pair("rows.jsonl", mark + row + "\r\n" + row),
        std::pair("rows.json", mark + "[" + row + ",\r\n" + row + "]")}) {
    const RecordFile file = read_records(directory_.write(name, text), {});
    ASSERT_EQ(file.records.size(), 2u) << name;
    EXPECT_EQ(file.records[0].instruction, "a") << name;
    EXPECT_EQ(file.records[1].output, "b") << name;
  }
  EXPECT_EQ(read_text_file(directory_.write("template.txt", mark + "x" + mark), 100).text,
            "x" + mark)
      << "at the beginning only";
}

TEST(TextLines, EndInBothWays) {
  using Lines = std::vector<std::string_view>;
  EXPECT_EQ(lines_of("a\nb\r\n\n\r\nc"), (Lines{"a", "b", "", "", "c"}));
  EXPECT_EQ(lines_of("a\n"), Lines{"a"});
  EXPECT_EQ(lines_of("a\rb"), Lines{"a\rb"});
  EXPECT_EQ(lines_of(""), Lines{});
}

TEST_F(Records, OutputIsRequiredOnlyForTraining) {
  const std::string row = R"({"instruction": "a"})";
  expect_bad("r.jsonl", kRows[0] + "\n" + row, {"r.jsonl:2: row 1", "\"output\" is missing"});
  EXPECT_EQ(read("r.jsonl", row, {.require_output = false}).records.size(), 1u);
}

TEST_F(Records, EmptyLinesAreErrors) {
  expect_bad("r.jsonl", kRows[0] + "\n\n" + kRows[1], {"r.jsonl:2", "the line is empty"});
  expect_bad("r.jsonl", kRows[0] + "\n \t\n", {"r.jsonl:2", "the line is empty"});
  expect_bad("r.jsonl", kRows[0] + "\n\n", {"r.jsonl:2", "the line is empty"});
}

TEST_F(Records, FilesWithoutRowsAreErrors) {
  expect_bad("r.jsonl", "", {"r.jsonl", "expected rows, found none"});
  expect_bad("r.json", "[]", {"expected rows, found none"});
  expect_bad("r.json", "", {"r.json:1", "malformed JSON"});
}

TEST_F(Records, MalformedJsonNamesTheLine) {
  expect_bad("r.jsonl", kRows[0] + "\n{\"instruction\": \"a\"", {"r.jsonl:2: malformed JSON"});
  expect_bad("r.jsonl", kRows[0] + kRows[1], {"r.jsonl:1: malformed JSON"});
  expect_bad("r.json", "[\n" + kRows[0] + ",\n{\"instruction\": oops}]", {"r.json:3: malformed"});
  expect_bad("r.json", "[" + kRows[0] + "\n" + kRows[1] + "]", {"r.json:2: malformed"});
  expect_bad("r.json", "[" + kRows[0] + "]\n\nx", {"r.json:3: malformed"});
  // A raw line end inside a string is reported where the string breaks off.
  expect_bad("r.json", "[{\"instruction\": \"a\nb\"}]", {"r.json:1: malformed"});
  expect_bad("r.jsonl", R"({"instruction": "\ud800", "output": ""})", {"r.jsonl:1: malformed"});
}

TEST_F(Records, LongTokensDoNotFloodTheMessage) {
  try {
    read("r.jsonl", "{\"instruction\": \"" + std::string(100000, 'a'));
    FAIL() << "expected an error";
  } catch (const DataError& error) {
    EXPECT_LT(std::string_view(error.what()).size(), 1000u);
  }
}

TEST_F(Records, LongKeysDoNotFloodTheMessage) {
  const std::string key(100'000, 'k');
  for (const std::string& row :
       {R"([{")" + key + R"(": 1}])", R"([{")" + key + R"(": 1, ")" + key + R"(": 1}])"}) {
    try {
      read("a.json", row);
      ADD_FAILURE() << "no error";
    } catch (const DataError& e) {
      EXPECT_LT(std::string_view(e.what()).size(), 500u);
      EXPECT_NE(std::string_view(e.what()).find("kkk"), std::string_view::npos);
    }
  }
}

TEST_F(Records, IllTypedFieldsNameRowFieldAndTypes) {
  expect_bad("r.jsonl", R"({"instruction": 5, "output": ""})",
             {"r.jsonl:1: row 0", "\"instruction\": expected a string, found a number"});
  expect_bad("r.jsonl", R"({"instruction": "a", "input": null, "output": ""})",
             {"\"input\": expected a string, found null"});
  expect_bad("r.jsonl", R"({"instruction": "a", "output": ["b"]})",
             {"\"output\": expected a string, found an array"});
  expect_bad("r.jsonl", R"({"instruction": {"a": "b"}, "output": ""})", {"found an object"});
  expect_bad("r.jsonl", R"({"instruction": "a", "output": true})", {"found a boolean"});
  expect_bad("r.jsonl", R"({"instruction": "a", "output": "", "harmful_if": "x"})",
             {"\"harmful_if\": expected an array of strings, found a string"});
  expect_bad("r.jsonl", R"({"instruction": "a", "output": "", "safe_if": ["x", 1]})",
             {"\"safe_if\": expected strings, found a number"});
  expect_bad("r.jsonl", R"({"instruction": "a", "output": "", "safe_if": [["x"]]})",
             {"\"safe_if\": expected strings, found an array"});
  expect_bad("r.jsonl", R"({"instruction": "", "output": ""})", {"\"instruction\" is empty"});
  expect_bad("r.jsonl", "{}", {"\"instruction\" is missing, found none"});
}

TEST_F(Records, ElementsOfAnArrayNameRowAndLine) {
  const std::string start = "[\n" + kRows[0] + ",\n\n";
  expect_bad("r.json", start + "{\"instruction\": 7\n, \"output\": \"\"}]",
             {"r.json:4: row 1", "found a number"});
  expect_bad("r.json", start + "12\n]", {"r.json:4: row 1: expected an object, found a number"});
  expect_bad("r.json", start + "[]]", {"r.json:4: row 1: expected an object, found an array"});
  expect_bad("r.json", kRows[0], {"r.json:1: expected a JSON array", "found an object", ".jsonl"});
  expect_bad("r.json", "\n\"a\"", {"r.json:2: expected a JSON array", "found a string"});
  expect_bad("r.jsonl", "[" + kRows[0] + "]",
             {"r.jsonl:1: row 0: expected an object, found an array"});
  expect_bad("r.jsonl", "\"a\"", {"expected an object, found a string"});
}

TEST_F(Records, DuplicateKeysAreRefusedAtAnyDepth) {
  expect_bad("r.jsonl", kRows[0] + "\n" + R"({"instruction": "a", "output": "b", "output": "c"})",
             {"r.jsonl:2", "\"output\" stands twice"});
  expect_bad("r.jsonl", R"({"instruction": "a", "output": "", "meta": {"k": 1, "k": 1}})",
             {"\"k\" stands twice"});
  // An escaped spelling is the same key.
  expect_bad("r.jsonl", R"({"instruction": "a", "output": "", "\u006futput": ""})", {"twice"});
}

TEST_F(Records, DeepNestingIsRefusedWithoutUsingTheStack) {
  const std::string deep(1000000, '[');
  expect_bad("r.json", deep, {"r.json:1", "expected an object, found an array"});
  expect_bad("r.jsonl", "{\"x\": " + deep, {"r.jsonl:1", "nested more than 64 deep"});
  std::string objects = "{\"x\": ";
  for (int i = 0; i < 100000; ++i) objects += "{\"x\": ";
  expect_bad("r.jsonl", objects, {"nested more than 64 deep"});
}

TEST_F(Records, InvalidUtf8NamesTheLine) {
  expect_bad("r.jsonl", kRows[0] + "\n{\"instruction\": \"\xC3(\"}",
             {"r.jsonl:2", "UTF-8", "0xc3"});
  expect_bad("r.json", "[\n\n\xED\xA0\x80]", {"r.json:3", "UTF-8", "0xed"});
}

TEST_F(Records, NamesAndPaths) {
  expect_bad("rows.csv", "a,b", {"rows.csv", ".json", ".jsonl"});
  expect_bad("rows.gz", "a,b", {"rows.gz", ".json"});
  expect_error<DataError>([&] { read_records(directory_.path() / "no.jsonl", {}); },
                          {"no.jsonl", "No such file"});
  std::filesystem::create_directory(directory_.path() / "d.json");
  expect_error<DataError>([&] { read_records(directory_.path() / "d.json", {}); },
                          {"d.json", "found a directory"});
  EXPECT_EQ(choice_of<RecordFormat>("csv"), std::nullopt);
  EXPECT_EQ(choice_of<RecordFormat>("alpaca"), RecordFormat::kAlpaca);
  EXPECT_EQ(choice_of<RecordFormat>("text"), RecordFormat::kText);
}

TEST_F(Records, DamagedGzipIsRefused) {
  const std::string packed = test::gzip(kRows[0]);
  for (size_t length = 0; length < packed.size(); ++length)
    expect_bad("r.jsonl.gz", packed.substr(0, length), {"r.jsonl.gz"});
  expect_bad("r.jsonl.gz", kRows[0], {"not a valid gzip stream"});
  expect_bad("r.jsonl.gz", packed + "tail", {"not a valid gzip stream"});
  std::string flipped = packed;
  flipped[flipped.size() - 6] ^= 1;  // in the checksum
  expect_bad("r.jsonl.gz", flipped, {"not a valid gzip stream", "incorrect data check"});
}

TEST_F(Records, SizeIsLimitedAfterDecompression) {
  std::string bomb(size_t{3} << 20, ' ');
  expect_bad("r.json.gz", test::gzip(bomb), {"expands to more than 2097152 bytes"},
             {.max_bytes = uint64_t{2} << 20});
  expect_bad("r.json", bomb, {"has 3145728 bytes, expected at most 100"}, {.max_bytes = 100});
}

TEST_F(Records, GzipTextsLongerThanOneChunkComeBackWhole) {
  // Text sizes around the decompressor's buffer of 1 MiB: the last byte may arrive with no input
  // left.
  for (const size_t size :
       {(size_t{1} << 20) - 1, size_t{1} << 20, (size_t{1} << 20) + 1, size_t{5} << 20}) {
    const std::string text(size, 'x');
    const auto path = directory_.write("t.gz", test::gzip(text));
    EXPECT_EQ(read_text_file(path, size).text, text);
  }
}

TEST(Utf8, LengthsAndInvalidForms) {
  EXPECT_EQ(utf8_char_length("a"), 1u);
  EXPECT_EQ(utf8_char_length("\u00e9"), 2u);
  EXPECT_EQ(utf8_char_length("\u20ac"), 3u);
  EXPECT_EQ(utf8_char_length("\U0010ffff"), 4u);
  EXPECT_EQ(utf8_char_length(""), 0u);
  for (const std::string_view bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80",
                                     "\xED\xBF\xBF", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80",
                                     "\xF8\x88\x80\x80\x80", "\xFF", "\xE2\x82", "\xC3("})
    EXPECT_EQ(utf8_char_length(bad), 0u);
}

TEST(Utf8, EveryCodePointIsAcceptedExceptSurrogates) {
  const auto encode = [](uint32_t c) {
    std::string text;
    if (c < 0x80) return std::string(1, static_cast<char>(c));
    const int extra = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    text += static_cast<char>((0xFF00u >> (extra + 1)) | (c >> (6 * extra)));
    for (int i = extra - 1; i >= 0; --i) text += static_cast<char>(0x80 | ((c >> (6 * i)) & 0x3F));
    return text;
  };
  for (uint32_t c = 0; c <= 0x110000; ++c) {
    const std::string text = encode(c);
    const bool valid = (c < 0xD800 || c >= 0xE000) && c <= 0x10FFFF;
    ASSERT_EQ(utf8_char_length(text), valid ? text.size() : 0u) << c;
  }
}

TEST(Utf8, FindsTheFirstInvalidByte) {
  EXPECT_FALSE(find_invalid_utf8("abc\u00e9"));
  EXPECT_EQ(find_invalid_utf8("ab\xFFg\xFF"), 2u);
  EXPECT_EQ(find_invalid_utf8("\u00e9\xC3"), 2u);
}

}  // namespace
}  // namespace vax::data
