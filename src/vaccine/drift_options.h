// Options [drift]: whose hidden states are compared with whose.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vax {

struct DriftOptions {
  std::string path;  // data.path
  int64_t samples = 50;
  int64_t batch = 5;
  int64_t interval = 0;  // steps; 0 = only at the end
  // What `vaccine drift` compares model.path + adapter.merge with.
  std::string reference_path;                // model.path
  std::vector<std::string> reference_merge;  // none
};

}  // namespace vax
