#include "model/family.h"

#include <algorithm>

#include "base/atomic_file.h"
#include "base/error.h"

namespace vax::model {

void Families::add(Family family) {
  VAX_CHECK(look_up(family.model_type) == nullptr, "a second family ", family.model_type);
  families_.push_back(std::move(family));
}

const Family* Families::look_up(std::string_view model_type) const {
  const auto found = std::ranges::find(families_, model_type, &Family::model_type);
  return found != families_.end() ? &*found : nullptr;
}

std::string Families::known() const {
  std::string list;
  for (const Family& family : families_)
    list += cat(list.empty() ? "" : " or ", '"', family.model_type, '"');
  return list;
}

const Family& Families::find(std::string_view model_type) const {
  const Family* const family = look_up(model_type);
  if (family == nullptr)
    throw ConfigError(cat("model_type: expected ", known(), ", found \"", model_type, '"'));
  return *family;
}

Spec Families::parse(const std::string& json_text, const std::string& path) const {
  const Json object = Json::parse(json_text, path);
  if (!object.is_object()) throw DataError(cat(path, ": expected a JSON object"));
  const ConfigReader config(object);
  const Family* const family = look_up(config.text_or("model_type", ""));
  if (family == nullptr) config.fail("model_type", known());
  return family->read(config);
}

Spec Families::read(const std::filesystem::path& config_path) const {
  return parse(read_file(config_path), config_path.string());
}

}  // namespace vax::model
