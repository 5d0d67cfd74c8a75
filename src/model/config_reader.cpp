#include "model/config_reader.h"

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace vax::model {

using nlohmann::json;

void ConfigReader::fail(const std::string& key, const std::string& expected) const {
  const std::string found = object_.contains(key) ? object_.at(key).dump() : "nothing";
  throw DataError(cat(path_, ": \"", key, "\": expected ", expected, ", found ", found));
}

bool ConfigReader::has(const std::string& key) const {
  return object_.contains(key) && !object_.at(key).is_null();
}

int64_t ConfigReader::integer(const std::string& key, int64_t smallest) const {
  if (!has(key) || !object_.at(key).is_number_integer()) fail(key, "an integer");
  const auto value = object_.at(key).get<int64_t>();
  constexpr int64_t kLargest = int64_t{1} << 31;
  if (value < smallest || value > kLargest) fail(key, cat("an integer in [", smallest, ", 2^31]"));
  return value;
}

int64_t ConfigReader::integer_or(const std::string& key, int64_t smallest, int64_t fallback) const {
  return has(key) ? integer(key, smallest) : fallback;
}

double ConfigReader::positive_or(const std::string& key, double fallback) const {
  if (!has(key)) return fallback;
  if (!object_.at(key).is_number() || !(object_.at(key).get<double>() > 0))
    fail(key, "a positive number");
  return object_.at(key).get<double>();
}

bool ConfigReader::boolean_or(const std::string& key, bool fallback) const {
  if (!has(key)) return fallback;
  if (!object_.at(key).is_boolean()) fail(key, "true or false");
  return object_.at(key).get<bool>();
}

std::string ConfigReader::text_or(const std::string& key, const std::string& fallback) const {
  if (!has(key)) return fallback;
  if (!object_.at(key).is_string()) fail(key, "a string");
  return object_.at(key).get<std::string>();
}

ConfigReader ConfigReader::nested(const std::string& key) const {
  static const json kEmpty = json::object();
  if (!has(key)) return {kEmpty, path_};
  if (!object_.at(key).is_object()) fail(key, "an object");
  return {object_.at(key), cat(path_, ": \"", key, "\"")};
}

}  // namespace vax::model
