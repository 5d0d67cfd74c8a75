#include "base/json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/json_events.h"

namespace vax {
namespace {

using Tree = nlohmann::ordered_json;

// Builds the tree. The library's own builder looks every new key up among those before it, which
// takes quadratic time; here they are known to differ.
class TreeBuilder : public JsonEvents {
 public:
  TreeBuilder(const std::string& where, const JsonLimits& limits, Tree& root)
      : where_(where), limits_(limits), slot_(&root) {}

  void null() override { place(nullptr); }
  void boolean(bool value) override { place(value); }
  void integer(int64_t value) override { place(value); }
  void natural(uint64_t value) override { place(value); }
  void number(double value) override { place(value); }
  void text(std::string& value) override { place(std::move(value)); }
  void begin_object() override { open_.push_back(place(Tree::object())); }
  void begin_array() override { open_.push_back(place(Tree::array())); }
  void end_object() override { open_.pop_back(); }
  void end_array() override { open_.pop_back(); }

  void key(std::string& name) override {
    auto& members = open_.back()->get_ref<Tree::object_t&>();
    if (members.size() == limits_.max_members)
      throw DataError(
          cat(where_, ": expected at most ", limits_.max_members, " members in an object"));
    members.emplace_back(std::move(name), nullptr);
    slot_ = &members.back().second;
  }

  [[noreturn]] void refuse(const JsonFault& fault) override {
    switch (fault.kind) {
      case JsonFault::Kind::kSyntax:
        throw DataError(cat(where_, ": not valid JSON at byte ", fault.byte, ": ", fault.detail));
      case JsonFault::Kind::kRepeatedKey:
        throw DataError(
            cat(where_, ": key ", json_quoted(fault.detail), " stands twice in one JSON object"));
      case JsonFault::Kind::kDepth:
        throw DataError(cat(where_, ": JSON nested deeper than ", fault.detail, " levels"));
    }
    throw std::logic_error("no such fault");
  }

 private:
  // At the end of the array that is open, else in the slot of the key or of the root. The address
  // holds while the value is open: nothing is added beside it before it is complete.
  Tree* place(Tree value) {
    if (!open_.empty() && open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    *slot_ = std::move(value);
    return slot_;
  }

  const std::string& where_;
  const JsonLimits& limits_;
  Tree* slot_;
  std::vector<Tree*> open_;
};

std::string shown_value(const Tree& value) {
  constexpr size_t kLongest = 120;
  std::string text = value.dump(-1, ' ', true, Tree::error_handler_t::replace);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

// As it is where it can be told from the rest of a message.
std::string plain_name(const std::string& key) {
  constexpr size_t kLongest = 100;
  const bool plain = !key.empty() && key.size() <= kLongest &&
                     std::ranges::all_of(key, [](char c) { return c > ' ' && c <= '~'; });
  return plain ? key : json_quoted(key);
}

// Of 64 bits, signed.
bool is_integer(const Tree& value) {
  return value.is_number_unsigned() ? value.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX)
                                    : value.is_number_integer();
}

}  // namespace

Json Json::parse(std::string_view text, std::string where, const JsonLimits& limits) {
  const auto tree = std::make_shared<Tree>();
  TreeBuilder builder(where, limits, *tree);
  parse_json_events(text, limits.max_depth, builder);
  return {tree, tree.get(), std::move(where)};
}

Json Json::read(const std::filesystem::path& path) {
  std::error_code error;
  const auto kind = std::filesystem::status(path, error).type();
  // A pipe is refused instead of waited for. What is not there is left to read_file().
  if (kind != std::filesystem::file_type::regular && std::filesystem::exists(path, error))
    throw DataError(cat(path.string(), ": expected a regular file"));
  if (const uintmax_t found = std::filesystem::file_size(path, error);
      !error && found > kMaxJsonFileBytes)
    throw DataError(
        cat(path.string(), ": expected at most ", kMaxJsonFileBytes, " bytes, found ", found));
  return parse(read_file(path), path.string());
}

bool Json::is_null() const { return !exists() || value_->is_null(); }
bool Json::is_object() const { return exists() && value_->is_object(); }
bool Json::is_array() const { return exists() && value_->is_array(); }
bool Json::is_text() const { return exists() && value_->is_string(); }
bool Json::is_number() const { return exists() && value_->is_number(); }
bool Json::is_natural() const {
  return exists() && value_->is_number_unsigned() && is_integer(*value_);
}
bool Json::is_boolean() const { return exists() && value_->is_boolean(); }
bool Json::is(std::string_view text) const {
  return is_text() && value_->get_ref<const std::string&>() == text;
}

bool Json::boolean() const {
  expect(is_boolean(), "true or false");
  return value_->get<bool>();
}

int64_t Json::integer() const {
  expect(exists() && is_integer(*value_), "an integer");
  return value_->get<int64_t>();
}

int64_t Json::integer_in(int64_t low, int64_t high) const {
  const bool fits = exists() && is_integer(*value_) && value_->get<int64_t>() >= low &&
                    value_->get<int64_t>() <= high;
  if (!fits) fail(cat("an integer from ", low, " to ", high));
  return value_->get<int64_t>();
}

uint64_t Json::natural() const {
  expect(exists() && value_->is_number_unsigned(), "an integer of 64 bits");
  return value_->get<uint64_t>();
}

double Json::number() const {
  expect(exists() && value_->is_number(), "a number");
  return value_->get<double>();
}

std::string Json::text() const {
  expect(is_text(), "a string");
  return value_->get<std::string>();
}

const Json::Tree& Json::object() const {
  expect(is_object(), "an object");
  return *value_;
}

Json Json::operator[](std::string_view key) const {
  const auto found = object().find(std::string(key));
  return {tree_, found == value_->end() ? nullptr : &*found, where_ + ": " + std::string(key)};
}

Json Json::required(std::string_view key) const {
  Json member = (*this)[key];
  if (!member.exists()) throw DataError(cat(where_, ": lacks ", key));
  return member;
}

std::vector<std::pair<std::string, Json>> Json::members() const {
  std::vector<std::pair<std::string, Json>> members;
  for (const auto& [key, value] : object().items())
    members.emplace_back(key, Json(tree_, &value, where_ + ": " + plain_name(key)));
  return members;
}

std::vector<Json> Json::items() const {
  expect(is_array(), "an array");
  std::vector<Json> items;
  for (const Tree& item : *value_)
    items.push_back({tree_, &item, where_ + "[" + std::to_string(items.size()) + "]"});
  return items;
}

size_t Json::size() const { return is_object() || is_array() ? value_->size() : 0; }

void Json::fail(std::string_view expected) const {
  throw DataError(cat(where_, ": expected ", expected, ", found ", shown()));
}

std::string Json::shown() const { return exists() ? shown_value(*value_) : "nothing"; }

Json Json::with_text(std::string_view key, std::string_view value) const {
  const auto tree = std::make_shared<Tree>(object());
  (*tree)[std::string(key)] = std::string(value);
  return {tree, tree.get(), where_};
}

std::string Json::dump(int indent) const {
  return exists() ? value_->dump(indent, ' ', false, Tree::error_handler_t::replace) : "";
}

std::string json_quoted(std::string_view text) { return shown_value(Tree(std::string(text))); }

}  // namespace vax
