#include "data/wire_format.h"

#include <bit>
#include <cmath>

#include "base/error.h"

namespace vax::data {

bool WireReader::next(WireField& field) {
  if (at_ == bytes_.size()) return false;
  const size_t start = at_;
  const uint64_t tag = read_varint();
  constexpr uint64_t kLargestNumber = (uint64_t{1} << 29) - 1;
  const uint64_t number = tag >> 3;
  if (number == 0 || number > kLargestNumber) fail(base_ + start, "not a field tag");
  field = WireField();
  field.number = static_cast<uint32_t>(number);
  field.offset = base_ + start;
  switch (tag & 7) {
    case 0:
      field.type = WireType::kVarint;
      field.value = read_varint();
      break;
    case 1:
      field.type = WireType::kFixed64;
      field.value = read_fixed(8);
      break;
    case 2:
      field.type = WireType::kBytes;
      field.bytes = take(read_varint());
      break;
    case 5:
      field.type = WireType::kFixed32;
      field.value = read_fixed(4);
      break;
    default:
      fail(base_ + start, cat("field ", number, " has wire type ", tag & 7,
                              ", expected 0 (varint), 1, 5 (fixed) or 2 (bytes)"));
  }
  return true;
}

WireReader WireReader::message(const WireField& field) const {
  const std::string_view inner = bytes(field);
  return {inner, file_name_, base_ + static_cast<size_t>(inner.data() - bytes_.data())};
}

bool WireReader::boolean(const WireField& field) const { return unsigned_integer(field) != 0; }

uint64_t WireReader::unsigned_integer(const WireField& field) const {
  expect(field, WireType::kVarint);
  return field.value;
}

float WireReader::number(const WireField& field) const {
  expect(field, WireType::kFixed32);
  const float value = std::bit_cast<float>(static_cast<uint32_t>(field.value));
  if (!std::isfinite(value)) fail(field.offset, cat("field ", field.number, " is not finite"));
  return value;
}

std::string_view WireReader::bytes(const WireField& field) const {
  expect(field, WireType::kBytes);
  return field.bytes;
}

uint64_t WireReader::read_varint() {
  const size_t start = at_;
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (at_ == bytes_.size()) fail(base_ + start, "the file or message ends inside a varint");
    const auto byte = static_cast<unsigned char>(bytes_[at_++]);
    if (shift == 63 && byte > 1) break;
    value |= uint64_t{byte & 0x7Fu} << shift;
    if ((byte & 0x80u) == 0) return value;
  }
  fail(base_ + start, "a varint has more than 64 bits");
}

uint64_t WireReader::read_fixed(size_t num_bytes) {
  const std::string_view raw = take(num_bytes);
  uint64_t value = 0;
  for (size_t i = num_bytes; i-- > 0;) value = (value << 8) | static_cast<unsigned char>(raw[i]);
  return value;
}

std::string_view WireReader::take(uint64_t num_bytes) {
  const size_t left = bytes_.size() - at_;
  if (num_bytes > left) fail(base_ + at_, cat("expected ", num_bytes, " more bytes, found ", left));
  const std::string_view taken = bytes_.substr(at_, static_cast<size_t>(num_bytes));
  at_ += taken.size();
  return taken;
}

void WireReader::expect(const WireField& field, WireType type) const {
  if (field.type != type)
    fail(field.offset, cat("field ", field.number, " has wire type ", static_cast<int>(field.type),
                           ", expected ", static_cast<int>(type)));
}

void WireReader::fail(size_t offset, std::string_view reason) const {
  throw DataError(cat(file_name_, ": byte ", offset, ": ", reason));
}

}  // namespace vax::data
