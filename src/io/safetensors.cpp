#include "io/safetensors.h"

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <optional>
#include <tuple>

#include "base/error.h"
#include "io/json_file.h"

namespace vax::io {
namespace {

using nlohmann::json;

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kConversionBytes = 1 << 20;
constexpr int kHeaderDepth = 8;  // the format itself needs 3
constexpr size_t kMaxDims = 64;  // as in PyTorch

struct Header {
  json content;
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
  return {parse_json(text, file.name() + ": header", kHeaderDepth), data_begin,
          file_size - data_begin};
}

// A JSON number that is an integer in [0, 2^63).
std::optional<int64_t> non_negative(const json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const auto number = value.get<uint64_t>();
  if (number > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
  return static_cast<int64_t>(number);
}

// Reads one entry of the header; `where` is the file and the tensor.
class EntryReader {
 public:
  EntryReader(const json& entry, std::string where) : entry_(entry), where_(std::move(where)) {
    if (!entry_.is_object()) fail("an object", entry_);
  }

  DType dtype() const {
    const json& value = member("dtype");
    const auto dtype =
        value.is_string() ? dtype_from_name(value.get_ref<const std::string&>()) : std::nullopt;
    if (!dtype) fail("a known dtype (F32, BF16, F16, F64, I64, ...)", value);
    return *dtype;
  }

  std::vector<int64_t> shape() const {
    const json& value = member("shape");
    if (!value.is_array()) fail("a shape of non-negative integers", value);
    if (value.size() > kMaxDims) fail("at most 64 dimensions", value);
    std::vector<int64_t> dims;
    for (const json& item : value) {
      const auto dim = non_negative(item);
      if (!dim) fail("a shape of non-negative integers", value);
      dims.push_back(*dim);
    }
    return dims;
  }

  // Relative to the data section.
  std::pair<int64_t, int64_t> data_offsets() const {
    const json& value = member("data_offsets");
    if (!value.is_array() || value.size() != 2) fail("data_offsets [begin, end]", value);
    const auto begin = non_negative(value[0]);
    const auto end = non_negative(value[1]);
    if (!begin || !end || *begin > *end) fail("data_offsets with 0 <= begin <= end", value);
    return {*begin, *end};
  }

 private:
  const json& member(const char* key) const {
    const auto found = entry_.find(key);
    if (found == entry_.end()) throw DataError(cat(where_, ": lacks ", key));
    return *found;
  }

  [[noreturn]] void fail(const char* expected, const json& found) const {
    throw DataError(cat(where_, ": expected ", expected, ", found ", shown(found)));
  }

  const json& entry_;
  std::string where_;
};

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

TensorInfo parse_tensor(const std::string& name, const json& entry, const Header& header,
                        const std::string& file) {
  const std::string where = cat(file, ": tensor ", shown(name));
  const EntryReader reader(entry, where);
  TensorInfo info{name, reader.dtype(), reader.shape(), file, 0, 0};
  const auto [begin, end] = reader.data_offsets();
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
      throw DataError(cat(file, ": tensor ", shown(info.name), " ", fault,
                          " the tensor before it: expected to begin at byte ", expected,
                          " of the data, found ", begin));
    expected = info.end - header.data_begin;
  }
  if (expected != header.data_bytes)
    throw DataError(cat(file, ": the tensors end at byte ", expected,
                        " of the data, the file goes on to ", header.data_bytes));
}

std::map<std::string, std::string> parse_metadata(const json& entry, const std::string& where) {
  if (!entry.is_object())
    throw DataError(cat(where, ": __metadata__: expected an object, found ", shown(entry)));
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string())
      throw DataError(
          cat(where, ": __metadata__ ", shown(key), ": expected a string, found ", shown(value)));
    metadata[key] = value.get<std::string>();
  }
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
  for (const auto& [name, entry] : header.content.items()) {
    if (name == "__metadata__")
      result.metadata_ = parse_metadata(entry, result.path());
    else
      result.tensors_.push_back(parse_tensor(name, entry, header, result.path()));
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
    throw DataError(cat(info.file, ": tensor ", shown(info.name),
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
