// Lines for people, on standard error. Results go to files or standard output, never through here.
// Each line is one write(), so that lines of several ranks do not mix. Thread-safe.
#pragma once

#include <string>

#include "base/error.h"

namespace vax::log {

// info() prints on rank 0 only; warnings and errors start with "[rank r/n]" when n > 1.
void set_rank(int rank, int world_size);

void info(const std::string& line);
void warning(const std::string& line);
void error(const std::string& line);

}  // namespace vax::log
