// Wall-clock time since construction or the last restart(), in seconds.
#pragma once

#include <chrono>

namespace vax {

class Stopwatch {
 public:
  double elapsed_s() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  // Returns the seconds so far and starts again from zero.
  double restart() {
    const double seconds = elapsed_s();
    start_ = std::chrono::steady_clock::now();
    return seconds;
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace vax
