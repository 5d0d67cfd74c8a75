// Writing safetensors files. The data of each tensor comes from a callback while the file is being
// written, so a checkpoint never has to be in memory as a whole. The file appears under its name
// only when it is complete.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "io/dtype.h"

namespace vax::io {

// Takes the next bytes of a tensor.
using ByteSink = std::function<void(std::span<const std::byte>)>;

struct TensorToWrite {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  // Hands the tensor's bytes (row-major, little-endian) to the sink, in any number of pieces that
  // add up to num_bytes(). Called once, when the file has come to this tensor.
  std::function<void(const ByteSink&)> source;

  int64_t num_bytes() const;
};

// A tensor that lies in memory; `data` must live until the file is written.
TensorToWrite tensor_in_memory(std::string name, DType dtype, std::vector<int64_t> shape,
                               const void* data);

using Metadata = std::map<std::string, std::string>;
// transformers refuses a file whose metadata does not say so.
inline const Metadata kPyTorchMetadata = {{"format", "pt"}};

// The positions of `tensors` in the order in which the file holds them and their sources are
// called: larger element types first, so that every tensor is aligned to its element, else as
// given. With one dtype that is the order given. Ranks that serve a source through a collective
// follow it.
std::vector<size_t> safetensors_order(std::span<const TensorToWrite> tensors);

// Header: padded with spaces to a multiple of 8 bytes. THROWS WriteError with the path and the
// bytes needed when the disk refuses, and whatever a source throws: then nothing is left behind and
// an older file of that name stays. std::logic_error when a source delivers another number of bytes
// than its shape says, a name stands twice or a name is "__metadata__".
void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                       const Metadata& metadata = kPyTorchMetadata);

// The same without publishing: for a file inside a directory that is published as a whole. `path`
// may be left incomplete by an error; `shown` is the name in messages.
void write_safetensors_unpublished(const std::filesystem::path& path,
                                   const std::filesystem::path& shown,
                                   std::span<const TensorToWrite> tensors,
                                   const Metadata& metadata = kPyTorchMetadata);

}  // namespace vax::io
