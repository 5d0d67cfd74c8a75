// Every option of the program, one row each: name, member of vax::Options, legal values, meaning
// and the subcommands that use it. Parsing, help, the resolved configuration and the tests all walk
// these rows, so adding an option is adding one row (and its member in its section's struct, where
// its default stands).
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "app/option_value.h"
#include "app/options.h"
#include "app/subcommands.h"

namespace vax::app {

struct OptionRow {
  std::string section;  // "train"
  std::string key;      // "lr"
  std::string meaning;
  std::string unset;  // help's default column when the member is empty ("all"); "-" = none
  SubcommandSet used_by = 0;
  ValueKind kind = ValueKind::kText;
  bool is_list = false;
  bool may_be_unset = false;  // an empty text is legal and means "not given"
  Rule rule;

  // False when the text is not a legal value; the member is then untouched.
  std::function<bool(Options&, std::string_view)> assign;
  std::function<std::string(const Options&)> text;  // "" = unset; assign() of it gives it back
  std::function<std::string(const Options&)> json;

  std::string name() const { return section + "." + key; }
  std::string expected() const { return expected_text(kind, is_list, rule); }
};

// In the order of help and of the resolved configuration; the rows of a section are consecutive.
const std::vector<OptionRow>& option_rows();

// By "section.key"; nullptr when there is none.
const OptionRow* find_option(std::string_view name);

// Names of the options that `users` use, in table order.
std::vector<std::string> option_names(SubcommandSet users);

// The names of data.template that are built in; any other value is a file.
const std::vector<std::string>& template_names();

}  // namespace vax::app
