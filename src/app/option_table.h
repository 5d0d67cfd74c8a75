// Every option of a program: the rows of the sections that it is composed of. Command line,
// configuration files, help and the resolved configuration walk them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/option.h"

namespace vax::app {

class OptionTable {
 public:
  // In the order of help and of the resolved configuration. THROWS std::logic_error when two
  // sections have one name or two rows of one do.
  explicit OptionTable(const std::vector<OptionSection>& sections);

  // For an option whose legal values, or default by subcommand, depend on what the program is
  // composed of. THROW std::logic_error for an option that there is not.
  void set_choices(std::string_view name, std::vector<std::string> choices);
  void set_default(std::string_view name, SubcommandSet users, const std::string& text);

  const std::vector<OptionRow>& rows() const { return rows_; }
  // By "section.key"; nullptr when there is none.
  const OptionRow* find(std::string_view name) const;
  const OptionRow& at(std::string_view name) const;  // THROWS std::logic_error when there is none

  // In table order: of the options that `users` use, and of the sections.
  std::vector<std::string> names(SubcommandSet users) const;
  std::vector<std::string> section_names() const;

  // Gives what set_default() said to options that are not given.
  void fill_defaults(Options& options, SubcommandSet user) const;

 private:
  struct Default {
    std::string name;
    SubcommandSet users;
    std::string text;
  };

  OptionRow& row(std::string_view name);

  std::vector<OptionRow> rows_;
  std::vector<Default> defaults_;
};

// An option that there was once: configurations that earlier versions have written are still read.
bool was_option_once(std::string_view name);

}  // namespace vax::app
