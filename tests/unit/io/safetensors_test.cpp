// The reader against files that break each rule of the format, and its reads against known bytes.
#include "io/safetensors.h"

#include <cstring>
#include <numeric>

#include "io_test_support.h"

namespace vax::io {
namespace {

using testing::expect_data_error;
using testing::safetensors_bytes;
using testing::ScratchDirectory;
using testing::write_text;

class SafetensorsTest : public ::testing::Test {
 protected:
  SafetensorsFile open_bytes(const std::string& bytes) {
    write_text(path_, bytes);
    return SafetensorsFile::open(path_);
  }
  SafetensorsFile open(const std::string& header, size_t data_bytes) {
    return open_bytes(safetensors_bytes(header, std::string(data_bytes, 'x')));
  }
  // Every message must name the file.
  void refused(const std::string& header, size_t data_bytes, std::vector<std::string> parts) {
    parts.push_back("t.safetensors");
    expect_data_error([&] { open(header, data_bytes); }, parts);
  }

  ScratchDirectory scratch_;
  std::filesystem::path path_ = scratch_ / "t.safetensors";
};

constexpr const char* kValid =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},)"
    R"("a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},)"
    R"("s":{"dtype":"I64","shape":[],"data_offsets":[28,36]},)"
    R"("z":{"dtype":"F32","shape":[0,5],"data_offsets":[28,28]}}  )";
constexpr size_t kValidData = 36;

TEST_F(SafetensorsTest, ReadsNamesShapesAndMetadata) {
  const SafetensorsFile file = open(kValid, kValidData);
  ASSERT_EQ(file.tensors().size(), 4u);
  EXPECT_EQ(file.tensors()[0].name, "a");  // in file order, not in the header's
  EXPECT_EQ(file.tensors()[2].name, "z");
  const TensorInfo* b = file.find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(b->num_elements(), 6);
  EXPECT_EQ(b->begin, 8 + static_cast<int64_t>(std::strlen(kValid)) + 4);
  EXPECT_EQ(file.find("s")->num_elements(), 1);
  EXPECT_EQ(file.find("c"), nullptr);
  EXPECT_EQ(file.metadata().at("format"), "pt");
}

TEST_F(SafetensorsTest, FileWithoutTensorsIsValid) { EXPECT_TRUE(open("{}", 0).tensors().empty()); }

TEST_F(SafetensorsTest, TruncationIsFoundAtEveryLength) {
  const std::string whole = safetensors_bytes(kValid, std::string(kValidData, 'x'));
  EXPECT_NO_THROW(open_bytes(whole));
  for (size_t length = 0; length < whole.size(); ++length)
    EXPECT_THROW(open_bytes(whole.substr(0, length)), DataError) << length;
}

TEST_F(SafetensorsTest, HeaderLength) {
  const auto with_length = [](uint64_t length) {
    std::string bytes = safetensors_bytes("{}", "");
    std::memcpy(bytes.data(), &length, sizeof(length));
    return bytes;
  };
  expect_data_error([&] { open_bytes(with_length(100'000'001)); }, {"100000001", "100000000"});
  expect_data_error([&] { open_bytes(with_length(UINT64_MAX)); }, {"18446744073709551615"});
  expect_data_error([&] { open_bytes(with_length(3)); }, {"truncated", "3 bytes", "has 2"});
  expect_data_error([&] { open_bytes(with_length(0)); }, {"begin with '{'"});
  expect_data_error([&] { open_bytes(""); }, {"at least 8 bytes", "found 0"});
}

TEST_F(SafetensorsTest, HeaderMustBeOneJsonObject) {
  refused(" {}", 0, {"begin with '{'"});
  refused("[]", 0, {"begin with '{'"});
  refused(R"({"a":)", 0, {"not valid JSON at byte"});
  refused("{} {}", 0, {"not valid JSON"});
  refused("{\"\xff\":1}", 0, {"not valid JSON"});
  std::string bomb = R"({"a":)";
  for (int i = 0; i < 100'000; ++i) bomb += R"({"a":)";
  refused(bomb, 0, {"deeper than"});
}

TEST_F(SafetensorsTest, RepeatedNames) {
  refused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
          R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
          2, {"\"a\"", "twice"});
  refused(R"({"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})", 1,
          {"\"dtype\"", "twice"});
}

TEST_F(SafetensorsTest, EntriesOfTheWrongForm) {
  refused(R"({"a":[1]})", 0, {"\"a\"", "an object", "[1]"});
  refused(R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1, {"\"a\"", "lacks dtype"});
  refused(R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1, {"lacks shape"});
  refused(R"({"a":{"dtype":"U8","shape":[1]}})", 1, {"lacks data_offsets"});
  refused(R"({"a":{"dtype":"FLOAT","shape":[1],"data_offsets":[0,4]}})", 4, {"dtype", "FLOAT"});
  refused(R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})", 4, {"dtype", "7"});
  refused(R"({"a":{"dtype":"U8","shape":4,"data_offsets":[0,4]}})", 4, {"shape", "found 4"});
  refused(R"({"a":{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}})", 4, {"non-negative", "-4"});
  refused(R"({"a":{"dtype":"U8","shape":[4.0],"data_offsets":[0,4]}})", 4, {"integers", "4.0"});
  refused(R"({"__metadata__":{"n":1}})", 0, {"__metadata__", "\"n\"", "a string", "1"});
  refused(R"({"__metadata__":"pt"})", 0, {"__metadata__", "an object"});
}

TEST_F(SafetensorsTest, DataOffsets) {
  const auto with_offsets = [](const std::string& offsets) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + offsets + "}}";
  };
  EXPECT_NO_THROW(open(with_offsets("[0,4]"), 4));
  refused(with_offsets("[4,0]"), 4, {"begin <= end", "[4,0]"});
  refused(with_offsets("[-4,0]"), 4, {"begin <= end", "[-4,0]"});
  refused(with_offsets("[0]"), 4, {"[begin, end]"});
  refused(with_offsets("[0,4,4]"), 4, {"[begin, end]"});
  refused(with_offsets("[0,18446744073709551615]"), 4, {"18446744073709551615"});
  refused(with_offsets("[0,3]"), 3, {"[4] of U8 needs 4 bytes", "hold 3"});
  refused(with_offsets("[0,4]"), 3, {"\"a\"", "byte 4", "only 3"});
}

TEST_F(SafetensorsTest, SizesBeyond64Bits) {
  // 2^32 * 2^32 wraps to 0, and 0 bytes would seem to fit.
  refused(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
          {"\"a\"", "64-bit"});
  refused(R"({"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}})", 0,
          {"64-bit"});
}

// A shape that long would make every message about it that long.
TEST_F(SafetensorsTest, NumberOfDimensions) {
  const auto with_dims = [](int count) {
    std::string dims = "1";
    for (int i = 1; i < count; ++i) dims += ",1";
    return R"({"a":{"dtype":"U8","shape":[)" + dims + R"(],"data_offsets":[0,1]}})";
  };
  EXPECT_NO_THROW(open(with_dims(64), 1));
  refused(with_dims(65), 1, {"\"a\"", "at most 64 dimensions"});
}

// Messages go to terminals and from rank to rank.
TEST_F(SafetensorsTest, MessagesQuoteNamesAndKeepThemShort) {
  refused(R"({"\u001b[2J":[1]})", 0, {"tensor \"\\u001b[2J\": expected"});
  const std::string name(100'000, 'n');
  const auto message_of = [&](const std::string& header, size_t data_bytes) -> std::string {
    try {
      open(header, data_bytes);
    } catch (const DataError& e) {
      return e.what();
    }
    return "no error";
  };
  for (const std::string& header :
       {R"({")" + name + R"(":[1]})", R"({"__metadata__":{")" + name + R"(":1}})",
        R"({")" + name + R"(":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
        R"({")" + name + R"(":{},")" + name + R"(":{}})", R"({")" + name}) {
    const std::string message = message_of(header, 2);
    EXPECT_NE(message.find("nnn"), std::string::npos) << message.substr(0, 300);
    EXPECT_LT(message.size(), 700u);
  }
}

TEST_F(SafetensorsTest, TensorsMustTileTheData) {
  const auto two = [](const std::string& a, const std::string& b) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + a +
           R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}";
  };
  EXPECT_NO_THROW(open(two("[4,8]", "[0,4]"), 8));
  refused(two("[0,4]", "[3,7]"), 7, {"\"b\"", "overlaps", "byte 4", "found 3"});
  refused(two("[0,4]", "[0,4]"), 4, {"overlaps"});
  refused(two("[0,4]", "[5,9]"), 9, {"\"b\"", "gap", "byte 4", "found 5"});
  refused(two("[1,5]", "[5,9]"), 9, {"\"a\"", "gap", "byte 0", "found 1"});
  refused(two("[0,4]", "[4,8]"), 9, {"end at byte 8", "goes on to 9"});
}

TEST_F(SafetensorsTest, DirectoriesAreRefused) {
  expect_data_error([&] { SafetensorsFile::open(scratch_.path()); }, {"regular file"});
}

class ReadElementsTest : public SafetensorsTest {
 protected:
  // One F64 tensor 0, 1, 2, ... long enough for several conversion chunks, behind one of 8 bytes.
  static constexpr int64_t kCount = 300'000;
  SafetensorsFile open_numbers() {
    std::vector<double> values(kCount);
    std::iota(values.begin(), values.end(), 0.0);
    const std::string data(reinterpret_cast<const char*>(values.data()), kCount * 8);
    return open_bytes(safetensors_bytes(
        cat(R"({"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)",
            R"("n":{"dtype":"F64","shape":[100,3000],"data_offsets":[8,)", 8 + kCount * 8, "]}}"),
        std::string(8, '\0') + data));
  }
};

TEST_F(ReadElementsTest, DeliversExactlyTheRangeAcrossChunks) {
  const SafetensorsFile file = open_numbers();
  const int64_t first = 1234, count = 280'000;
  std::vector<float> out(count + 1, -1.0f);
  file.read_elements(*file.find("n"), first, count, out.data(), TargetType::kFloat32);
  for (int64_t i = 0; i < count; ++i)
    ASSERT_EQ(out[static_cast<size_t>(i)], static_cast<float>(first + i));
  EXPECT_EQ(out.back(), -1.0f);  // nothing beyond
}

TEST_F(ReadElementsTest, ConvertsToBF16) {
  const SafetensorsFile file = open_numbers();
  std::vector<uint16_t> out(3);
  file.read_elements(*file.find("n"), 256, 3, out.data(), TargetType::kBFloat16);
  EXPECT_EQ(float_from_bf16(out[0]), 256.0f);
  EXPECT_EQ(float_from_bf16(out[1]), 256.0f);  // 257 lies half-way between 256 and 258: to even
  EXPECT_EQ(float_from_bf16(out[2]), 258.0f);
}

TEST_F(ReadElementsTest, EmptyRangesAreLegal) {
  const SafetensorsFile file = open_numbers();
  EXPECT_NO_THROW(file.read_elements(*file.find("n"), kCount, 0, nullptr, TargetType::kFloat32));
}

TEST_F(ReadElementsTest, RangesOutsideTheTensorAreRefused) {
  const SafetensorsFile file = open_numbers();
  float out = 0;
  const auto read = [&](int64_t first, int64_t count) {
    file.read_elements(*file.find("n"), first, count, &out, TargetType::kFloat32);
  };
  EXPECT_THROW(read(kCount, 1), std::logic_error);
  EXPECT_THROW(read(-1, 1), std::logic_error);
  EXPECT_THROW(read(0, -1), std::logic_error);
  EXPECT_THROW(read(1, INT64_MAX), std::logic_error);
}

TEST_F(ReadElementsTest, IntegerTensorsAreRefusedByName) {
  const SafetensorsFile file = open_numbers();
  float out = 0;
  expect_data_error([&] { file.read_elements(*file.find("i"), 0, 1, &out, TargetType::kFloat32); },
                    {"\"i\"", "found I64"});
  int64_t raw = -1;
  file.read_bytes(*file.find("i"), std::as_writable_bytes(std::span(&raw, 1)));
  EXPECT_EQ(raw, 0);
}

TEST_F(ReadElementsTest, FileThatShrinksAfterOpeningIsAnError) {
  const SafetensorsFile file = open_numbers();
  std::filesystem::resize_file(path_, 1000);
  std::vector<float> out(kCount);
  expect_data_error(
      [&] { file.read_elements(*file.find("n"), 0, kCount, out.data(), TargetType::kFloat32); },
      {"t.safetensors", "the file ends"});
}

}  // namespace
}  // namespace vax::io
