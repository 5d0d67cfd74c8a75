// The options of a run: any number of sections, each a struct of plain data that its owner declares
// (base/option.h). A section that nothing was written to has the defaults of its struct.
#pragma once

#include <any>
#include <map>
#include <string>
#include <typeindex>

namespace vax {

class Options {
 public:
  std::string subcommand;

  template <typename Section>
  Section& get() {
    std::any& held = sections_[typeid(Section)];
    if (!held.has_value()) held = Section{};
    return *std::any_cast<Section>(&held);
  }

  template <typename Section>
  const Section& get() const {
    static const Section kDefaults{};
    const auto found = sections_.find(typeid(Section));
    return found == sections_.end() ? kDefaults : *std::any_cast<Section>(&found->second);
  }

 private:
  std::map<std::type_index, std::any> sections_;
};

}  // namespace vax
