// Private to this folder.
// A reader of the protocol-buffer wire format for files that may be damaged or hostile: every read
// is checked against the bytes that are left, nothing is copied, nothing recurses (the caller opens
// an embedded message with a reader of its own). Groups are refused. The bytes and the file name
// are borrowed and must outlive the reader and the fields it hands out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace vax::data {

enum class WireType { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

struct WireField {
  uint32_t number = 0;
  WireType type = WireType::kVarint;
  uint64_t value = 0;      // of a varint or fixed number
  std::string_view bytes;  // of a string, bytes or message field
  size_t offset = 0;       // of the field's tag, from the start of the file
};

class WireReader {
 public:
  // `base` = offset of `bytes` in the file, for messages.
  WireReader(std::string_view bytes, std::string_view file_name, size_t base = 0)
      : bytes_(bytes), file_name_(file_name), base_(base) {}

  // Reads the next field; false at the end. THROWS DataError (file, byte offset) when it is cut
  // off, a varint is longer than 64 bits, or the tag is not one of a field.
  bool next(WireField& field);

  // A reader over the message in a kBytes field of this reader.
  WireReader message(const WireField& field) const;

  // The field's contents, of the type that the schema gives it. THROWS DataError when the field has
  // another wire type; number() also when the value is not finite.
  bool boolean(const WireField& field) const;
  uint64_t unsigned_integer(const WireField& field) const;
  float number(const WireField& field) const;
  std::string_view bytes(const WireField& field) const;

 private:
  uint64_t read_varint();
  uint64_t read_fixed(size_t num_bytes);
  std::string_view take(uint64_t num_bytes);
  void expect(const WireField& field, WireType type) const;
  [[noreturn]] void fail(size_t offset, std::string_view reason) const;

  std::string_view bytes_;
  std::string_view file_name_;
  size_t base_;
  size_t at_ = 0;
};

}  // namespace vax::data
