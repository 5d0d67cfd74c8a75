#include "io/weights.h"

#include "base/error.h"
#include "base/json.h"

namespace vax::io {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

// Files that only Python's pickle reads; loading one runs whatever code it holds.
bool is_pickle(const fs::path& path) {
  const std::string extension = path.extension().string();
  return extension == ".bin" || extension == ".pt" || extension == ".pth";
}

[[noreturn]] void fail_without_weights(const fs::path& directory) {
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (is_pickle(entry.path()))
      throw DataError(cat(directory.string(), ": ", entry.path().filename().string(),
                          " is a pickle file, which is not read because it can run code. Convert "
                          "it: python -c \"from transformers import AutoModelForCausalLM as M; "
                          "M.from_pretrained('",
                          directory.string(), "').save_pretrained('", directory.string(),
                          "-safetensors')\""));
  }
  throw DataError(
      cat(directory.string(), ": expected ", kSingleFile, " or ", kIndexFile, ", found neither"));
}

// A name that stays in the directory on every system.
void check_shard_name(const std::string& name, const std::string& where) {
  const bool plain = !name.empty() && name.find_first_of(std::string("/\\\0", 3)) == name.npos &&
                     name != "." && name != "..";
  if (!plain || !name.ends_with(".safetensors"))
    throw DataError(cat(where, ": weight_map: expected the name of a .safetensors file in the ",
                        "same directory, found ", json_quoted(name)));
}

Json read_weight_map(const fs::path& index_path) {
  const Json index = Json::read(index_path);
  if (!index.is_object() || !index["weight_map"].is_object())
    index.fail("an object with weight_map");
  return index["weight_map"];
}

}  // namespace

WeightDirectory WeightDirectory::open(const fs::path& directory) {
  if (!fs::is_directory(directory))
    throw DataError(cat(directory.string(), ": expected a model directory, found ",
                        fs::exists(directory) ? "a file" : "nothing"));
  WeightDirectory result(directory);
  if (fs::exists(directory / kSingleFile))
    result.add_all(SafetensorsFile::open(directory / kSingleFile));
  else if (fs::exists(directory / kIndexFile))
    result.add_indexed(directory / kIndexFile);
  else
    fail_without_weights(directory);
  return result;
}

void WeightDirectory::add_all(SafetensorsFile file) {
  for (size_t i = 0; i < file.tensors().size(); ++i)
    index_[file.tensors()[i].name] = {files_.size(), i};
  files_.push_back(std::move(file));
}

void WeightDirectory::add_indexed(const fs::path& index_path) {
  const Json weight_map = read_weight_map(index_path);
  const std::string where = index_path.string();
  std::map<std::string, size_t> shards;  // file name -> position in files_
  for (const auto& [name, value] : weight_map.members()) {
    if (!value.is_text())
      value.named(cat(where, ": weight_map ", json_quoted(name))).fail("a file name");
    const std::string shard = value.text();
    if (!shards.contains(shard)) {
      check_shard_name(shard, where);
      if (std::error_code unusable; !fs::exists(path_ / shard, unusable))
        throw DataError(cat(where, ": shard ", json_quoted(shard), " with tensor ",
                            json_quoted(name), " is missing"));
      shards[shard] = files_.size();
      files_.push_back(SafetensorsFile::open(path_ / shard));
    }
    const SafetensorsFile& file = files_[shards[shard]];
    const TensorInfo* info = file.find(name);
    if (!info)
      throw DataError(cat(where, ": tensor ", json_quoted(name), " is mapped to ", shard,
                          ", which does not hold it"));
    index_[name] = {shards[shard], static_cast<size_t>(info - file.tensors().data())};
  }
}

std::vector<std::string> WeightDirectory::names() const {
  std::vector<std::string> names;
  for (const auto& [name, location] : index_) names.push_back(name);
  return names;
}

int64_t WeightDirectory::num_bytes() const {
  int64_t sum = 0;
  for (const auto& [name, location] : index_)
    sum += files_[location.file].tensors()[location.tensor].num_bytes();
  return sum;
}

const TensorInfo* WeightDirectory::find(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) return nullptr;
  return &files_[found->second.file].tensors()[found->second.tensor];
}

const TensorInfo& WeightDirectory::at(const std::string& name) const {
  const TensorInfo* info = find(name);
  if (!info)
    throw DataError(cat(path_.string(), ": tensor '", name, "' is missing; the directory has ",
                        index_.size(), " tensors"));
  return *info;
}

const SafetensorsFile& WeightDirectory::file_of(const TensorInfo& info) const {
  const auto found = index_.find(info.name);
  VAX_CHECK(found != index_.end(), info.name, " of ", info.file, " asked of ", path_.string());
  return files_[found->second.file];
}

void WeightDirectory::read_elements(const TensorInfo& info, int64_t first, int64_t count,
                                    void* destination, TargetType target) const {
  file_of(info).read_elements(info, first, count, destination, target);
}

void WeightDirectory::read_bytes(const TensorInfo& info, std::span<std::byte> destination) const {
  file_of(info).read_bytes(info, destination);
}

}  // namespace vax::io
