// A safetensors file is refused with a DataError, or every tensor of it lies within the file and
// can be read.
#include <algorithm>
#include <vector>

#include "base/error.h"
#include "io/safetensors.h"
#include "memory_file.h"

namespace {

void read_all(const vax::io::SafetensorsFile& file, int64_t file_bytes) {
  using vax::fuzz::require;
  constexpr int64_t kMostElements = 4096;
  int64_t covered = 0;
  for (const vax::io::TensorInfo& info : file.tensors()) {
    require(info.begin >= 8 && info.begin <= info.end && info.end <= file_bytes);
    int64_t product = vax::io::dtype_size(info.dtype);
    for (const int64_t dim : info.shape) product *= dim;
    require(product == info.num_bytes());
    require(file.find(info.name) == &info);
    covered += info.num_bytes();
    std::vector<std::byte> bytes(static_cast<size_t>(info.num_bytes()));
    file.read_bytes(info, bytes);
    if (!vax::io::is_convertible(info.dtype)) continue;
    const int64_t count = std::min(info.num_elements(), kMostElements);
    std::vector<float> elements(static_cast<size_t>(count));
    file.read_elements(info, info.num_elements() - count, count, elements.data(),
                       vax::io::TargetType::kFloat32);
  }
  require(covered <= file_bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static vax::fuzz::MemoryFile file;
  file.assign(data, size);
  try {
    read_all(vax::io::SafetensorsFile::open(file.path()), static_cast<int64_t>(size));
  } catch (const vax::DataError&) {
  }
  return 0;
}
