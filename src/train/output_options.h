// Options [output]: where results go.
#pragma once

#include <cstdint>
#include <string>

#include "base/option.h"

namespace vax {

struct OutputOptions {
  VAX_SECTION(OutputOptions, .name = "output", .users = kWeightUsers,
              .on_resume = OnResume::kSameNumbers);
  VAX_OPTION(std::string, dir, {}, "directory of everything that is written",
             .users = kWeightUsers | kInit | kRebuild);
  VAX_OPTION(bool, overwrite, false, "replace the finished run in output.dir", .users = kTraining);
  VAX_OPTION(int64_t, log_interval, 1, "steps between progress lines", .legal = at_least(1),
             .users = kTraining);
};

}  // namespace vax
