// Options [plan]: the run that `vaccine plan` counts for.
#pragma once

#include <cstdint>
#include <optional>

namespace vax {

struct PlanOptions {
  std::optional<int64_t> ranks;           // those that run the planner
  std::optional<int64_t> ranks_per_node;  // all
  bool schedule = false;                  // print the gathers of a step
};

}  // namespace vax
