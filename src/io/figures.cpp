#include "io/figures.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "io/run_records.h"

namespace vax::io {

size_t count_figures(const Figures& figures, Figure::Kind kind) {
  return static_cast<size_t>(std::ranges::count(figures, kind, &Figure::kind));
}

void check_figures(const Figures& figures) {
  std::set<std::string> fields;
  visit_step_fields(StepRecord{}, {},
                    [&](const char* name, const auto&...) { fields.insert(name); });
  std::set<std::string> names = fields;
  names.insert("event");
  std::set<std::string> groups = {"metrics", "drift", "memory"};
  for (const Figure& figure : figures) {
    VAX_CHECK(names.insert(figure.name).second, "figure ", figure.name, ": the name is taken");
    if (figure.kind == Figure::Kind::kNumber) {
      VAX_CHECK(fields.contains(figure.after), "figure ", figure.name, ": no field ", figure.after);
      continue;
    }
    const size_t slash = figure.path.find('/');
    VAX_CHECK(slash != std::string::npos && groups.insert(figure.path.substr(0, slash)).second,
              "figure ", figure.name, ": expected a group of its own and a name, found path \"",
              figure.path, "\"");
  }
}

}  // namespace vax::io
