#include "io/safetensors_writer.h"

#include <algorithm>
#include <numeric>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/json_text.h"
#include "base/narrow.h"
#include "io/posix_file.h"
#include "io/safetensors.h"

namespace vax::io {
namespace {

// Length prefix and padded JSON. Element sizes divide 8, so data that begins at a multiple of 8
// with larger types first is aligned throughout.
std::string header_bytes(std::span<const TensorToWrite> tensors, std::span<const size_t> order,
                         const Metadata& metadata) {
  JsonText header = JsonText::object();
  if (!metadata.empty()) header.add("__metadata__", metadata);
  int64_t offset = 0;
  for (const size_t i : order) {
    const TensorToWrite& tensor = tensors[i];
    VAX_CHECK(tensor.name != "__metadata__", "a tensor cannot have this name");
    const int64_t end = offset + tensor.num_bytes();
    header.add(tensor.name, JsonText({{"dtype", dtype_name(tensor.dtype)},
                                      {"shape", tensor.shape},
                                      {"data_offsets", std::vector<int64_t>{offset, end}}}));
    offset = end;
  }
  std::string text = header.text();
  text.resize(round_up<size_t>(text.size(), 8), ' ');
  VAX_CHECK(static_cast<int64_t>(text.size()) <= kMaxSafetensorsHeaderBytes, "header of ",
            text.size(), " bytes");
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text;
}

void check_unique_names(std::span<const TensorToWrite> tensors) {
  std::vector<std::string_view> names;
  for (const TensorToWrite& tensor : tensors) names.push_back(tensor.name);
  std::ranges::sort(names);
  const auto twice = std::ranges::adjacent_find(names);
  VAX_CHECK(twice == names.end(), "tensor '", *twice, "' stands twice");
}

void write_tensor(const TensorToWrite& tensor, PosixFile& file) {
  int64_t written = 0;
  tensor.source([&](std::span<const std::byte> piece) {
    written += static_cast<int64_t>(piece.size());
    VAX_CHECK(written <= tensor.num_bytes(), tensor.name, ": source gave ", written, " bytes of ",
              tensor.num_bytes());
    file.write(piece);
  });
  VAX_CHECK(written == tensor.num_bytes(), tensor.name, ": source gave ", written, " bytes of ",
            tensor.num_bytes());
}

}  // namespace

int64_t TensorToWrite::num_bytes() const {
  return std::accumulate(shape.begin(), shape.end(), dtype_size(dtype), std::multiplies<>());
}

TensorToWrite tensor_in_memory(std::string name, DType dtype, std::vector<int64_t> shape,
                               const void* data) {
  TensorToWrite tensor{std::move(name), dtype, std::move(shape), {}};
  const auto num_bytes = static_cast<size_t>(tensor.num_bytes());
  tensor.source = [data, num_bytes](const ByteSink& sink) {
    sink({static_cast<const std::byte*>(data), num_bytes});
  };
  return tensor;
}

std::vector<size_t> safetensors_order(std::span<const TensorToWrite> tensors) {
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, std::ranges::greater(),
                           [&](size_t i) { return dtype_size(tensors[i].dtype); });
  return order;
}

void write_safetensors_unpublished(const std::filesystem::path& path,
                                   const std::filesystem::path& shown,
                                   std::span<const TensorToWrite> tensors,
                                   const Metadata& metadata) {
  check_unique_names(tensors);
  const std::vector<size_t> order = safetensors_order(tensors);
  const std::string header = header_bytes(tensors, order, metadata);
  auto total = static_cast<int64_t>(header.size());
  for (const TensorToWrite& tensor : tensors) total += tensor.num_bytes();

  PosixFile file = PosixFile::create(path, shown);
  file.reserve(total);
  file.write(header);
  for (const size_t i : order) write_tensor(tensors[i], file);
  file.close();
}

void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                       const Metadata& metadata) {
  publish_file(path, [&](const std::filesystem::path& temporary) {
    write_safetensors_unpublished(temporary, path, tensors, metadata);
  });
}

}  // namespace vax::io
