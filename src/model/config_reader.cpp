#include "model/config_reader.h"

#include "base/error.h"

namespace vax::model {

Json ConfigReader::at(const std::string& key) const {
  return object_[key].named(cat(path(), ": \"", key, "\""));
}

void ConfigReader::fail(const std::string& key, const std::string& expected) const {
  at(key).fail(expected);
}

bool ConfigReader::has(const std::string& key) const { return !at(key).is_null(); }

int64_t ConfigReader::integer(const std::string& key, int64_t smallest) const {
  const int64_t value = at(key).integer();
  constexpr int64_t kLargest = int64_t{1} << 31;
  if (value < smallest || value > kLargest) fail(key, cat("an integer in [", smallest, ", 2^31]"));
  return value;
}

int64_t ConfigReader::integer_or(const std::string& key, int64_t smallest, int64_t fallback) const {
  return has(key) ? integer(key, smallest) : fallback;
}

double ConfigReader::positive_or(const std::string& key, double fallback) const {
  const Json value = at(key);
  if (value.is_null()) return fallback;
  if (!value.is_number() || !(value.number() > 0)) fail(key, "a positive number");
  return value.number();
}

bool ConfigReader::boolean_or(const std::string& key, bool fallback) const {
  return at(key).boolean_or(fallback);
}

std::string ConfigReader::text_or(const std::string& key, const std::string& fallback) const {
  return at(key).text_or(fallback);
}

ConfigReader ConfigReader::nested(const std::string& key) const {
  if (!has(key)) return ConfigReader(Json::parse("{}", path()));
  if (!at(key).is_object()) fail(key, "an object");
  return ConfigReader(at(key));
}

}  // namespace vax::model
