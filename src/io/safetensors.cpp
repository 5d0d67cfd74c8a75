#include "io/safetensors.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <tuple>

#include "base/error.h"
#include "base/json.h"

namespace vax::io {
namespace {

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kConversionBytes = 1 << 20;
constexpr int kHeaderDepth = 8;  // the format itself needs 3
constexpr size_t kMaxDims = 64;  // as in PyTorch

struct Header {
  Json content;
  int64_t data_begin = 0;  // bytes from the start of the file
  int64_t data_bytes = 0;  // from there to its end
};

Header read_header(const PosixFile& file) {
  const int64_t file_size = file.size();
  if (file_size < kLengthBytes)
    throw DataError(cat(file.name(), ": not a safetensors file: expected at least ", kLengthBytes,
                        " bytes, found ", file_size));
  uint64_t length = 0;
  file.read_at(0, std::as_writable_bytes(std::span(&length, 1)));
  if (length > static_cast<uint64_t>(kMaxSafetensorsHeaderBytes))
    throw DataError(cat(file.name(), ": header length ", length, " exceeds the format's limit of ",
                        kMaxSafetensorsHeaderBytes, " bytes"));
  const auto header_bytes = static_cast<int64_t>(length);
  if (header_bytes > file_size - kLengthBytes)
    throw DataError(cat(file.name(), ": truncated: the header needs ", header_bytes,
                        " bytes, the file has ", file_size - kLengthBytes, " after its length"));
  std::string text(static_cast<size_t>(length), '\0');
  file.read_at(kLengthBytes, std::as_writable_bytes(std::span(text)));
  if (!text.starts_with('{'))
    throw DataError(cat(file.name(), ": not a safetensors file: the header must begin with '{'"));
  const int64_t data_begin = kLengthBytes + header_bytes;
  return {Json::parse(text, file.name() + ": header", {.max_depth = kHeaderDepth}), data_begin,
          file_size - data_begin};
}

DType read_dtype(const Json& value) {
  const auto dtype = value.is_text() ? dtype_from_name(value.text()) : std::nullopt;
  if (!dtype) value.fail("a known dtype (F32, BF16, F16, F64, I64, ...)");
  return *dtype;
}

std::vector<int64_t> read_shape(const Json& value) {
  if (value.size() > kMaxDims) value.fail("at most 64 dimensions");
  std::vector<int64_t> dims;
  for (const Json& item : value.items()) {
    if (!item.is_natural()) value.fail("a shape of non-negative integers");
    dims.push_back(item.integer());
  }
  return dims;
}

// Relative to the data section.
std::pair<int64_t, int64_t> read_offsets(const Json& value) {
  if (!value.is_array() || value.size() != 2) value.fail("data_offsets [begin, end]");
  const std::vector<Json> items = value.items();
  const bool naturals = items[0].is_natural() && items[1].is_natural();
  if (!naturals || items[0].integer() > items[1].integer())
    value.fail("data_offsets with 0 <= begin <= end");
  return {items[0].integer(), items[1].integer()};
}

int64_t checked_num_bytes(const std::vector<int64_t>& shape, DType dtype,
                          const std::string& where) {
  int64_t product = dtype_size(dtype);
  bool overflow = false;
  for (const int64_t dim : shape) overflow |= __builtin_mul_overflow(product, dim, &product);
  if (overflow)
    throw DataError(cat(where, ": shape ", shape_text(shape), " of ", dtype_name(dtype),
                        " has more bytes than a 64-bit number holds"));
  return product;
}

TensorInfo parse_tensor(const std::string& name, const Json& entry, const Header& header,
                        const std::string& file) {
  const std::string& where = entry.where();
  TensorInfo info{
      name, read_dtype(entry.required("dtype")), read_shape(entry.required("shape")), file, 0, 0};
  const auto [begin, end] = read_offsets(entry.required("data_offsets"));
  const int64_t expected = checked_num_bytes(info.shape, info.dtype, where);
  if (end - begin != expected)
    throw DataError(cat(where, ": shape ", shape_text(info.shape), " of ", dtype_name(info.dtype),
                        " needs ", expected, " bytes, data_offsets [", begin, ", ", end, "] hold ",
                        end - begin));
  if (end > header.data_bytes)
    throw DataError(cat(where, ": ends at byte ", end, " of the data, but the file has only ",
                        header.data_bytes, " (truncated?)"));
  info.begin = header.data_begin + begin;
  info.end = header.data_begin + end;
  return info;
}

// Sorted by begin, each tensor must begin where the one before ends, the last at the end of file.
void check_tiling(const std::vector<TensorInfo>& tensors, const Header& header,
                  const std::string& file) {
  int64_t expected = 0;  // relative to the data
  for (const TensorInfo& info : tensors) {
    const int64_t begin = info.begin - header.data_begin;
    const char* fault = begin < expected ? "overlaps" : "leaves a gap after";
    if (begin != expected)
      throw DataError(cat(file, ": tensor ", json_quoted(info.name), " ", fault,
                          " the tensor before it: expected to begin at byte ", expected,
                          " of the data, found ", begin));
    expected = info.end - header.data_begin;
  }
  if (expected != header.data_bytes)
    throw DataError(cat(file, ": the tensors end at byte ", expected,
                        " of the data, the file goes on to ", header.data_bytes));
}

std::map<std::string, std::string> parse_metadata(const Json& entry) {
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : entry.members())
    metadata[key] = value.named(cat(entry.where(), " ", json_quoted(key))).text();
  return metadata;
}

}  // namespace

std::string shape_text(std::span<const int64_t> shape) {
  std::string text = "[";
  for (const int64_t dim : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(dim);
  return text + "]";
}

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  SafetensorsFile result(PosixFile::open_for_reading(path));
  const Header header = read_header(result.file_);
  for (const auto& [name, entry] : header.content.members()) {
    if (name == "__metadata__")
      result.metadata_ = parse_metadata(entry.named(cat(result.path(), ": __metadata__")));
    else
      result.tensors_.push_back(
          parse_tensor(name, entry.named(cat(result.path(), ": tensor ", json_quoted(name))),
                       header, result.path()));
  }
  std::ranges::sort(result.tensors_, {}, [](const TensorInfo& info) {
    return std::tie(info.begin, info.end);  // an empty tensor before the one that begins there
  });
  check_tiling(result.tensors_, header, result.path());
  for (size_t i = 0; i < result.tensors_.size(); ++i) result.index_[result.tensors_[i].name] = i;
  return result;
}

const TensorInfo* SafetensorsFile::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

void SafetensorsFile::read_elements(const TensorInfo& info, int64_t first, int64_t count,
                                    void* destination, TargetType target) const {
  VAX_CHECK(info.file == path(), "tensor of ", info.file, " asked of ", path());
  VAX_CHECK(first >= 0 && count >= 0 && first <= info.num_elements() - count, info.name, ": ",
            count, " elements from ", first, " on, of ", info.num_elements());
  if (!is_convertible(info.dtype))
    throw DataError(cat(info.file, ": tensor ", json_quoted(info.name),
                        ": expected F32, BF16, F16 or F64, ", "found ", dtype_name(info.dtype)));
  const int64_t size = dtype_size(info.dtype);
  const int64_t offset = info.begin + first * size;
  auto* out = static_cast<std::byte*>(destination);
  const bool same = (info.dtype == DType::kF32 && target == TargetType::kFloat32) ||
                    (info.dtype == DType::kBF16 && target == TargetType::kBFloat16);
  if (same) return file_.read_at(offset, {out, static_cast<size_t>(count * size)});

  const int64_t chunk = std::min(count, kConversionBytes / size);
  std::vector<std::byte> buffer(static_cast<size_t>(chunk * size));
  for (int64_t done = 0; done < count; done += chunk) {
    const int64_t now = std::min(chunk, count - done);
    file_.read_at(offset + done * size, {buffer.data(), static_cast<size_t>(now * size)});
    convert_elements(info.dtype, buffer.data(), now, target, out + done * target_size(target));
  }
}

void SafetensorsFile::read_bytes(const TensorInfo& info, std::span<std::byte> destination) const {
  VAX_CHECK(info.file == path(), "tensor of ", info.file, " asked of ", path());
  VAX_CHECK(static_cast<int64_t>(destination.size()) == info.num_bytes(), info.name, ": ",
            info.num_bytes(), " bytes into ", destination.size());
  file_.read_at(info.begin, destination);
}

}  // namespace vax::io
