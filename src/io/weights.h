// The weights of a Hugging Face model directory, one file or several, found by tensor name. Holds
// headers only; each caller reads the elements it needs, straight from the file. Nothing in the
// index may lead out of the directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "io/safetensors.h"

namespace vax::io {

class WeightDirectory {
 public:
  // model.safetensors, else model.safetensors.index.json with its shards (the order in which
  // transformers looks). Tensors of a shard that the index does not name are ignored: the index
  // says which shard a tensor comes from. THROWS DataError: no weights (with the conversion to run
  // where the directory holds pickle files), a missing shard, a mapped tensor that its shard lacks,
  // a shard name that is not a plain file name, and every fault of a safetensors file.
  static WeightDirectory open(const std::filesystem::path& directory);

  const std::filesystem::path& path() const { return path_; }
  std::vector<std::string> names() const;  // sorted
  int64_t num_bytes() const;               // of all tensors, as stored

  // nullptr when there is none. Valid as long as this object is neither moved nor destroyed.
  const TensorInfo* find(const std::string& name) const;
  // THROWS DataError naming the directory and the tensor.
  const TensorInfo& at(const std::string& name) const;

  // As SafetensorsFile::read_elements and read_bytes. Thread-safe.
  void read_elements(const TensorInfo& info, int64_t first, int64_t count, void* destination,
                     TargetType target) const;
  void read_bytes(const TensorInfo& info, std::span<std::byte> destination) const;

 private:
  explicit WeightDirectory(std::filesystem::path path) : path_(std::move(path)) {}
  void add_all(SafetensorsFile file);
  void add_indexed(const std::filesystem::path& index_path);
  const SafetensorsFile& file_of(const TensorInfo& info) const;

  struct Location {
    size_t file = 0;    // position in files_
    size_t tensor = 0;  // position in files_[file].tensors()
  };

  std::filesystem::path path_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, Location> index_;
};

}  // namespace vax::io
