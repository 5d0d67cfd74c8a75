// Options [output]: where results go.
#pragma once

#include <cstdint>
#include <string>

namespace vax {

struct OutputOptions {
  std::string dir;
  bool overwrite = false;     // a finished run's results may be replaced
  int64_t log_interval = 1;  // steps between progress lines
};

}  // namespace vax
