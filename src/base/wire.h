// How values travel between the ranks of a run, as bytes. All ranks run the same program on
// machines of one byte order, so a value is its fields in order and nothing names them. What
// travels stands once, in the type, for both directions:
//
//   struct Outcome {
//     int code = 0;
//     std::string message;
//     static auto wire_fields(auto& self) { return std::tie(self.code, self.message); }
//   };
//
// A field is a number, a text, another such type, or a vector of these.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include "base/error.h"

namespace vax {

template <typename T>
concept WireStruct = requires(T& value) {
  T::wire_fields(value);
};

class WireWriter {
 public:
  template <typename T>
  void put(const T& value) {
    if constexpr (WireStruct<T>) {
      std::apply([this](const auto&... fields) { (this->put(fields), ...); },
                 T::wire_fields(value));
    } else {
      static_assert(std::is_arithmetic_v<T>);
      bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
  }
  void put(const std::string& text) {
    put(uint64_t{text.size()});
    bytes_ += text;
  }
  template <typename T>
  void put(const std::vector<T>& values) {
    put(uint64_t{values.size()});
    for (const T& value : values) put(value);
  }

  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

// THROWS DataError where the bytes are not of the value that is asked for; a count that is not
// true allocates nothing.
class WireReader {
 public:
  explicit WireReader(std::string_view bytes) : bytes_(bytes) {}

  template <typename T>
  void get(T& value) {
    if constexpr (WireStruct<T>) {
      std::apply([this](auto&... fields) { (this->get(fields), ...); }, T::wire_fields(value));
    } else {
      static_assert(std::is_arithmetic_v<T>);
      std::memcpy(&value, take(sizeof value).data(), sizeof value);
    }
  }
  void get(bool& value) { value = take(sizeof value)[0] != 0; }
  void get(std::string& text) {
    uint64_t length = 0;
    get(length);
    text = take(length);
  }
  template <typename T>
  void get(std::vector<T>& values) {
    uint64_t count = 0;
    get(count);
    values.clear();
    for (uint64_t i = 0; i < count; ++i) get(values.emplace_back());
  }

  void expect_end() const {
    if (!bytes_.empty()) throw DataError(cat("message of a rank: ", bytes_.size(), " bytes left"));
  }

 private:
  std::string_view take(uint64_t num_bytes) {
    if (num_bytes > bytes_.size())
      throw DataError(
          cat("message of a rank: expected ", num_bytes, " more bytes, found ", bytes_.size()));
    const std::string_view taken = bytes_.substr(0, num_bytes);
    bytes_.remove_prefix(num_bytes);
    return taken;
  }

  std::string_view bytes_;
};

template <typename T>
std::string to_wire(const T& value) {
  WireWriter writer;
  writer.put(value);
  return writer.take();
}

template <typename T>
T from_wire(std::string_view bytes) {
  T value{};
  WireReader reader(bytes);
  reader.get(value);
  reader.expect_end();
  return value;
}

}  // namespace vax
