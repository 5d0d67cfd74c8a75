#include "io/huggingface_writer.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <regex>
#include <string_view>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/json.h"
#include "base/json_text.h"
#include "io/posix_file.h"

namespace vax::io {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 9> kCopiedFiles = {"tokenizer.model",
                                                          "tokenizer.json",
                                                          "tokenizer_config.json",
                                                          "special_tokens_map.json",
                                                          "added_tokens.json",
                                                          "vocab.json",
                                                          "merges.txt",
                                                          "chat_template.jinja",
                                                          "generation_config.json"};

using Shards = std::vector<std::vector<TensorToWrite>>;

Shards split_into_shards(std::span<const TensorToWrite> tensors, int64_t max_shard_bytes) {
  Shards shards(1);
  int64_t filled = 0;
  for (const TensorToWrite& tensor : tensors) {
    const int64_t num_bytes = tensor.num_bytes();
    if (filled > 0 && filled + num_bytes > max_shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(tensor);
    filled += num_bytes;
  }
  return shards;
}

// "model-00002-of-00003.safetensors", 1-based as transformers names them.
std::string shard_name(size_t shard, size_t num_shards) {
  if (num_shards == 1) return "model.safetensors";
  std::array<char, 64> name{};
  std::snprintf(name.data(), name.size(), "model-%05zu-of-%05zu.safetensors", shard + 1,
                num_shards);
  return name.data();
}

// Whether this writer gives files such a name, or copies them.
bool is_own_name(const std::string& name, const HuggingFaceContents& contents) {
  static const std::regex kWritten(
      R"(config\.json|model(-\d{5,}-of-\d{5,})?\.safetensors|model\.safetensors\.index\.json)");
  return std::regex_match(name, kWritten) || contents.extra_files.contains(name) ||
         std::ranges::find(kCopiedFiles, name) != kCopiedFiles.end();
}

std::string index_text(const Shards& shards) {
  int64_t total = 0;
  std::map<std::string, std::string> weight_map;
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const TensorToWrite& tensor : shards[i]) {
      weight_map[tensor.name] = shard_name(i, shards.size());
      total += tensor.num_bytes();
    }
  }
  return JsonText({{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}}).indented();
}

// Writes into the directory that is being prepared; messages name the final path.
class DirectoryWriter {
 public:
  DirectoryWriter(const fs::path& temporary, const fs::path& final_path)
      : temporary_(temporary), final_(final_path) {}

  void text(const std::string& name, std::string_view content) const {
    PosixFile file = PosixFile::create(temporary_ / name, final_ / name);
    file.write(content);
    file.close();
  }

  void copy(const fs::path& source) const { text(source.filename().string(), read_file(source)); }

  void safetensors(const std::string& name, std::span<const TensorToWrite> tensors) const {
    write_safetensors_unpublished(temporary_ / name, final_ / name, tensors);
  }

 private:
  const fs::path& temporary_;
  const fs::path& final_;
};

void write_contents(const DirectoryWriter& out, const HuggingFaceContents& contents,
                    const Shards& shards) {
  out.text("config.json", contents.config_json);
  if (!contents.tokenizer_dir.empty()) {
    for (const std::string_view name : kCopiedFiles) {
      const fs::path source = contents.tokenizer_dir / name;
      if (fs::exists(source)) out.copy(source);
    }
  }
  for (const auto& [name, content] : contents.extra_files) out.text(name, content);
  for (size_t i = 0; i < shards.size(); ++i)
    out.safetensors(shard_name(i, shards.size()), shards[i]);
  if (shards.size() > 1) out.text("model.safetensors.index.json", index_text(shards));
}

}  // namespace

void write_huggingface_directory(const fs::path& path, const HuggingFaceContents& contents) {
  const std::string where = (path / "config.json").string();
  const Json config = Json::parse(contents.config_json, where);
  if (!config.is_object()) config.fail("a JSON object");
  VAX_CHECK(contents.max_shard_bytes > 0, "max_shard_bytes ", contents.max_shard_bytes);
  const Shards shards = split_into_shards(contents.tensors, contents.max_shard_bytes);
  const auto is_own = [&](const std::string& name) { return is_own_name(name, contents); };
  publish_directory(path, is_own, [&](const fs::path& temporary) {
    write_contents(DirectoryWriter(temporary, path), contents, shards);
  });
}

}  // namespace vax::io
