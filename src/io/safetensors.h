// Reading safetensors files. The header is validated in full when the file is opened, so whoever
// holds a TensorInfo may trust its byte range; after that only the bytes asked for are read.
//
// Format: 8 bytes little-endian header length n <= 100,000,000; n bytes of JSON that begin with '{'
// and may end in spaces; the data. The header maps each tensor to dtype, shape and data_offsets
// [begin, end) relative to the data, and optionally "__metadata__" to an object of strings. The
// tensors tile the data exactly. https://huggingface.co/docs/safetensors
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "io/dtype.h"
#include "io/posix_file.h"

namespace vax::io {

inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // empty for a scalar
  std::string file;            // path, for messages
  int64_t begin = 0;           // bytes from the start of the file
  int64_t end = 0;

  int64_t num_bytes() const { return end - begin; }
  int64_t num_elements() const { return num_bytes() / dtype_size(dtype); }
};

// "[4096, 11008]"
std::string shape_text(std::span<const int64_t> shape);

class SafetensorsFile {
 public:
  // THROWS DataError with the file, the tensor, what the format expects and what was found.
  static SafetensorsFile open(const std::filesystem::path& path);

  const std::string& path() const { return file_.name(); }
  // In file order (ascending byte range).
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // nullptr when there is none of that name. Valid as long as this object is neither moved nor
  // destroyed.
  const TensorInfo* find(const std::string& name) const;

  // Elements [first, first + count) of `info`, row-major, converted to `target`, to `destination`
  // (count * target_size(target) bytes). Conversion goes through a buffer of at most 1 MiB.
  // REQUIRES `info` to come from this file. THROWS DataError when the dtype is not a floating type
  // or the file has become shorter; std::logic_error when the range leaves the tensor. Thread-safe.
  void read_elements(const TensorInfo& info, int64_t first, int64_t count, void* destination,
                     TargetType target) const;

  // The whole tensor as stored: info.num_bytes() bytes. Thread-safe.
  void read_bytes(const TensorInfo& info, std::span<std::byte> destination) const;

 private:
  explicit SafetensorsFile(PosixFile file) : file_(std::move(file)) {}

  PosixFile file_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t> index_;  // name -> position in tensors_
  std::map<std::string, std::string> metadata_;
};

}  // namespace vax::io
