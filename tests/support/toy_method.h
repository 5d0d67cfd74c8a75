// A training method that src/ does not know. It looks ahead: the weights are moved along the
// gradient of harmful rows, the run's data is differentiated there, and a running average of past
// gradients is added. So it uses what methods are made of: options of its own, a second data
// stream, vectors shaped like the weights, one of them state, numbers that are state, a figure, and
// moved weights.
#pragma once

#include <cstdint>

#include "base/option.h"
#include "train/method.h"

namespace vax::testing {

struct ToyOptions {
  VAX_SECTION(ToyOptions, .name = "toy", .users = kTraining | kPlan);
  VAX_OPTION(double, distance, 0.05, "how far the weights are moved", .legal = at_least(0));
  VAX_OPTION(double, strength, 0.5, "factor of the running average", .legal = at_least(0));
  VAX_OPTION(int64_t, batch, 3, "harmful rows of a step", .legal = at_least(1));
};

train::MethodEntry toy_entry();

}  // namespace vax::testing
