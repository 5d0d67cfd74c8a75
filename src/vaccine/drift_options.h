// Options [drift]: whose hidden states are compared with whose.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/option.h"

namespace vax {

struct DriftOptions {
  VAX_SECTION(DriftOptions, .name = "drift", .users = kTraining | kDrift);
  VAX_OPTION(std::string, path, {}, "file whose hidden states are compared", .unset = "data.path");
  VAX_OPTION(int64_t, samples, 50, "rows measured: the first ones of the file",
             .legal = at_least(1), .on_resume = OnResume::kRefused);
  VAX_OPTION(int64_t, batch, 5, "rows of one measured batch", .legal = at_least(1),
             .on_resume = OnResume::kRefused);
  // What `vaccine drift` compares model.path + adapter.merge with.
  VAX_OPTION(std::string, reference_path, {}, "Hugging Face directory that is compared with",
             .unset = "model.path", .users = kDrift);
  VAX_OPTION(std::vector<std::string>, reference_merge, {},
             "PEFT directories merged into that one, in order (list)", .users = kDrift);
  VAX_OPTION(int64_t, interval, 0, "steps between measurements; 0: only at the end",
             .legal = at_least(0), .users = kTraining, .on_resume = OnResume::kSameNumbers);
};

}  // namespace vax
