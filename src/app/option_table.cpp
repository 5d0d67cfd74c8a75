#include "app/option_table.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace vax::app {

OptionTable::OptionTable(const std::vector<OptionSection>& sections) {
  for (const OptionSection& section : sections) {
    VAX_CHECK(std::ranges::count(sections, section.name, &OptionSection::name) == 1, "section [",
              section.name, "] twice");
    for (const OptionRow& row : section.rows) {
      VAX_CHECK(find(row.name()) == nullptr, "option ", row.name(), " twice");
      rows_.push_back(row);
    }
  }
}

void OptionTable::set_choices(std::string_view name, std::vector<std::string> choices) {
  row(name).rule.choices = std::move(choices);
}

void OptionTable::set_default(std::string_view name, SubcommandSet users, const std::string& text) {
  defaults_.push_back({.name = at(name).name(), .users = users, .text = text});
}

const OptionRow* OptionTable::find(std::string_view name) const {
  const auto found = std::ranges::find(rows_, name, &OptionRow::name);
  return found == rows_.end() ? nullptr : &*found;
}

const OptionRow& OptionTable::at(std::string_view name) const {
  const OptionRow* const found = find(name);
  VAX_CHECK(found != nullptr, "option ", name);
  return *found;
}

OptionRow& OptionTable::row(std::string_view name) {
  return rows_[static_cast<size_t>(&at(name) - rows_.data())];
}

std::vector<std::string> OptionTable::names(SubcommandSet users) const {
  std::vector<std::string> names;
  for (const OptionRow& row : rows_)
    if ((row.used_by & users) != 0) names.push_back(row.name());
  return names;
}

std::vector<std::string> OptionTable::section_names() const {
  std::vector<std::string> names;
  for (const OptionRow& row : rows_)
    if (names.empty() || names.back() != row.section) names.push_back(row.section);
  return names;
}

void OptionTable::fill_defaults(Options& options, SubcommandSet user) const {
  for (const Default& initial : defaults_) {
    const OptionRow& row = at(initial.name);
    if ((initial.users & user) != 0 && row.text(options).empty())
      VAX_CHECK(row.assign(options, initial.text), initial.name, " = ", initial.text);
  }
}

bool was_option_once(std::string_view name) {
  constexpr std::array<std::string_view, 1> kOnce = {"adapter.dtype"};
  return std::ranges::find(kOnce, name) != kOnce.end();
}

}  // namespace vax::app
