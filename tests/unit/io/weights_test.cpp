// Model directories: which files are taken, what an index may not do, and the writer's directories
// read back.
#include "io/weights.h"

#include <array>

#include "base/atomic_file.h"
#include "base/json.h"
#include "io/huggingface_writer.h"
#include "io_test_support.h"

namespace vax::io {
namespace {

using testing::expect_data_error;
using testing::list_directory;
using testing::ScratchDirectory;
using testing::write_text;

const std::array<float, 4> kA = {1, 2, 3, 4};
const std::array<float, 4> kB = {5, 6, 7, 8};

TensorToWrite tensor(const std::string& name, const std::array<float, 4>& data) {
  return tensor_in_memory(name, DType::kF32, {4}, data.data());
}

class WeightDirectoryTest : public ::testing::Test {
 protected:
  WeightDirectoryTest() {
    write_safetensors(dir_ / "one.safetensors", {{tensor("a", kA), tensor("extra", kB)}});
    write_safetensors(dir_ / "two.safetensors", {{tensor("b", kB)}});
  }
  void write_index(const std::string& weight_map) {
    write_text(dir_ / "model.safetensors.index.json", R"({"weight_map": )" + weight_map + "}");
  }
  WeightDirectory open() { return WeightDirectory::open(dir_.path()); }
  void refused(const std::string& weight_map, const std::vector<std::string>& parts) {
    write_index(weight_map);
    expect_data_error([&] { open(); }, parts);
  }

  ScratchDirectory dir_;
};

TEST_F(WeightDirectoryTest, ReadsShardsThroughTheIndex) {
  write_index(R"({"a": "one.safetensors", "b": "two.safetensors"})");
  const WeightDirectory weights = open();
  // "extra" lies in a shard but not in the index.
  EXPECT_EQ(weights.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(weights.num_bytes(), 32);
  EXPECT_EQ(weights.find("extra"), nullptr);
  std::array<float, 2> out{};
  weights.read_elements(weights.at("b"), 1, 2, out.data(), TargetType::kFloat32);
  EXPECT_EQ(out, (std::array<float, 2>{6, 7}));
  expect_data_error([&] { weights.at("c"); }, {dir_.path().string(), "'c'", "missing"});
}

TEST_F(WeightDirectoryTest, SingleFileGoesBeforeTheIndex) {
  write_index(R"({"b": "two.safetensors"})");
  write_safetensors(dir_ / "model.safetensors", {{tensor("single", kA)}});
  EXPECT_EQ(open().names(), (std::vector<std::string>{"single"}));
}

TEST_F(WeightDirectoryTest, IndexCannotLeaveTheDirectory) {
  for (const char* name :
       {"../one.safetensors", "/etc/one.safetensors", "sub/one.safetensors", "..", "",
        "sub\\\\one.safetensors", "one.safetensors\\u0000.bin", "one.bin"})
    refused(cat(R"({"a": ")", name, "\"}"), {"index.json", "weight_map", "same directory"});
}

TEST_F(WeightDirectoryTest, FaultyIndexes) {
  refused(R"({"a": "three.safetensors"})", {"index.json", "three.safetensors", "\"a\"", "missing"});
  refused(R"({"a": "two.safetensors"})", {"\"a\"", "two.safetensors", "does not hold it"});
  refused(R"({"a": 1})", {"\"a\"", "a file name", "1"});
  refused(R"({"a": "one.safetensors", "a": "two.safetensors"})", {"\"a\"", "twice"});
  refused(cat(R"({"a": ")", std::string(300, 'n'), R"(.safetensors"})"), {"nnn", "missing"});
  refused("[]", {"weight_map"});
  write_text(dir_ / "model.safetensors.index.json", "{}");
  expect_data_error([&] { open(); }, {"weight_map"});
}

TEST_F(WeightDirectoryTest, DamagedShardIsNamed) {
  write_index(R"({"a": "one.safetensors", "b": "two.safetensors"})");
  std::filesystem::resize_file(dir_ / "two.safetensors", 100);
  expect_data_error([&] { open(); }, {"two.safetensors", "truncated"});
}

TEST_F(WeightDirectoryTest, PickleFilesAreRefusedWithTheConversion) {
  write_text(dir_ / "pytorch_model.bin", "\x80\x02");
  expect_data_error([&] { open(); },
                    {"pytorch_model.bin", "pickle", "save_pretrained", dir_.path().string()});
}

TEST_F(WeightDirectoryTest, DirectoriesWithoutWeights) {
  expect_data_error([&] { open(); }, {"model.safetensors.index.json", "found neither"});
  expect_data_error([] { WeightDirectory::open("no/such/dir"); }, {"no/such/dir", "nothing"});
  expect_data_error([&] { WeightDirectory::open(dir_ / "one.safetensors"); }, {"a file"});
}

class HuggingFaceWriterTest : public ::testing::Test {
 protected:
  HuggingFaceWriterTest() {
    contents_.config_json = R"({"model_type": "llama"})";
    contents_.tensors = tensors_;
  }
  void write() { write_huggingface_directory(scratch_ / "model", contents_); }

  ScratchDirectory scratch_;
  std::vector<TensorToWrite> tensors_ = {tensor("c", kA), tensor("b", kB), tensor("a", kA)};
  HuggingFaceContents contents_;
};

TEST_F(HuggingFaceWriterTest, OneFileWhereItFits) {
  contents_.max_shard_bytes = 48;
  write();
  EXPECT_EQ(list_directory(scratch_ / "model"),
            (std::vector<std::string>{"config.json", "model.safetensors"}));
  EXPECT_EQ(Json::read(scratch_ / "model" / "config.json")["model_type"].text(), "llama");
}

TEST_F(HuggingFaceWriterTest, ShardsWithIndexReadBack) {
  contents_.max_shard_bytes = 47;  // two tensors of 16 bytes fit, three do not
  write();
  const std::filesystem::path dir = scratch_ / "model";
  EXPECT_EQ(list_directory(dir),
            (std::vector<std::string>{"config.json", "model-00001-of-00002.safetensors",
                                      "model-00002-of-00002.safetensors",
                                      "model.safetensors.index.json"}));
  const Json index = Json::read(dir / "model.safetensors.index.json");
  EXPECT_EQ(index["metadata"]["total_size"].integer(), 48);
  EXPECT_EQ(index["weight_map"]["c"].text(), "model-00001-of-00002.safetensors");
  EXPECT_EQ(index["weight_map"]["a"].text(), "model-00002-of-00002.safetensors");

  const WeightDirectory weights = WeightDirectory::open(dir);
  EXPECT_EQ(weights.names(), (std::vector<std::string>{"a", "b", "c"}));
  std::array<float, 4> out{};
  weights.read_elements(weights.at("b"), 0, 4, out.data(), TargetType::kFloat32);
  EXPECT_EQ(out, kB);
}

TEST_F(HuggingFaceWriterTest, TensorLargerThanAShardHasItsOwn) {
  contents_.max_shard_bytes = 1;
  write();
  EXPECT_EQ(WeightDirectory::open(scratch_ / "model").names().size(), 3u);
  EXPECT_EQ(list_directory(scratch_ / "model").size(), 5u);  // three shards, index, config
}

TEST_F(HuggingFaceWriterTest, CopiesTheTokenizer) {
  std::filesystem::create_directory(scratch_ / "base");
  write_text(scratch_ / "base/tokenizer.model", std::string("\0\xffmodel", 7));
  write_text(scratch_ / "base/tokenizer_config.json", "{}");
  write_text(scratch_ / "base/model.safetensors", "not copied");
  write_text(scratch_ / "base/generation_config.json", "old");
  contents_.tokenizer_dir = scratch_ / "base";
  contents_.extra_files = {{"generation_config.json", "new"}};
  write();
  const std::filesystem::path dir = scratch_ / "model";
  EXPECT_EQ(read_file(dir / "tokenizer.model"), std::string("\0\xffmodel", 7));
  EXPECT_EQ(read_file(dir / "generation_config.json"), "new");
  EXPECT_EQ(WeightDirectory::open(dir).names().size(), 3u);
}

TEST_F(HuggingFaceWriterTest, FailureKeepsTheOldDirectory) {
  write();
  tensors_[1].source = [](const ByteSink&) { throw CommError("rank 1 died"); };
  contents_.tensors = tensors_;
  EXPECT_THROW(write(), CommError);
  contents_.config_json = "[]";
  expect_data_error([&] { write(); }, {"model/config.json", "object"});
  EXPECT_EQ(WeightDirectory::open(scratch_ / "model").names().size(), 3u);
  EXPECT_EQ(list_directory(scratch_.path()), (std::vector<std::string>{"model"}));
}

TEST_F(HuggingFaceWriterTest, FullDiskLeavesNothing) {
  const std::vector<std::byte> zeros(1 << 20);
  tensors_.push_back(tensor_in_memory("big", DType::kU8, {1 << 20}, zeros.data()));
  contents_.tensors = tensors_;
  const std::string outcome = testing::run_with_file_limit(100'000, [&] { write(); });
  EXPECT_TRUE(outcome.starts_with("WriteError: ")) << outcome;
  EXPECT_NE(outcome.find("model/model.safetensors: cannot write 104"), std::string::npos)
      << outcome;
  EXPECT_TRUE(list_directory(scratch_.path()).empty());
}

}  // namespace
}  // namespace vax::io
