// Typed access to one object of a config.json; every failure names file and key.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "base/json.h"

namespace vax::model {

class ConfigReader {
 public:
  explicit ConfigReader(Json object) : object_(std::move(object)) {}

  // THROWS DataError: what was expected of the key, and what was found. So do the readers below.
  [[noreturn]] void fail(const std::string& key, const std::string& expected) const;

  bool has(const std::string& key) const;  // and it is not null
  int64_t integer(const std::string& key, int64_t smallest) const;
  int64_t integer_or(const std::string& key, int64_t smallest, int64_t fallback) const;
  double positive_or(const std::string& key, double fallback) const;
  bool boolean_or(const std::string& key, bool fallback) const;
  std::string text_or(const std::string& key, const std::string& fallback) const;
  // The object under `key`, an empty one when absent.
  ConfigReader nested(const std::string& key) const;
  const std::string& path() const { return object_.where(); }

 private:
  Json at(const std::string& key) const;

  Json object_;
};

}  // namespace vax::model
