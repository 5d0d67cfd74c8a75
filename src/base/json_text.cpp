#include "base/json_text.h"

#include <nlohmann/json.hpp>

namespace vax {
namespace {

std::string dump(const nlohmann::json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

JsonText::JsonText(double value) : text_(dump(value)) {}
JsonText::JsonText(std::string_view value) : text_(dump(std::string(value))) {}

// Before the closing bracket.
void JsonText::append(const std::string& part) {
  const char closing = text_.back();
  text_.pop_back();
  if (text_.size() > 1) text_ += ',';
  text_ += part;
  text_ += closing;
}

void JsonText::add(std::string_view key, const JsonText& value) {
  append(JsonText(key).text_ + ':' + value.text_);
}

void JsonText::add(const JsonText& item) { append(item.text_); }

std::string JsonText::indented() const {
  return Json::parse(text_, "text to write").dump(2) + "\n";
}

}  // namespace vax
