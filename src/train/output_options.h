// Options [output]: where results go.
#pragma once

#include <cstdint>
#include <string>

namespace vax {

struct OutputOptions {
  std::string dir;
  int64_t log_interval = 1;  // steps between progress lines
};

}  // namespace vax
