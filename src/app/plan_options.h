// Options [plan]: the run that `vaccine plan` counts for.
#pragma once

#include <cstdint>
#include <optional>

#include "base/option.h"

namespace vax {

struct PlanOptions {
  VAX_SECTION(PlanOptions, .name = "plan", .users = kPlan);
  VAX_OPTION(std::optional<int64_t>, ranks, {}, "ranks of the run", .legal = at_least(1),
             .unset = "of this one");
  VAX_OPTION(std::optional<int64_t>, ranks_per_node, {}, "of them on one node; divides ranks",
             .legal = at_least(1), .unset = "all");
  VAX_OPTION(bool, schedule, false, "print what is gathered when; --schedule for short");
};

}  // namespace vax
