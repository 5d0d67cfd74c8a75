// Private to this folder: how long this process has been blocked in one wait, in time that it was
// awake. A process that was stopped, or a machine that slept, sees the clock jump between two
// looks: such a jump counts as one ordinary step, so that who was stopped does not take the others
// for late.
#pragma once

#include <chrono>
#include <optional>
#include <vector>

#include "dist/comm/call_log.h"

namespace vax::dist {

class WaitTimer {
 public:
  // `longest_step_s`: what may count at most between two looks.
  explicit WaitTimer(double longest_step_s) : longest_step_s_(longest_step_s) {}

  // A look at the waits that go on at `now`.
  void look(const std::vector<Wait>& waits, std::chrono::steady_clock::time_point now);

  double awake_s() const { return awake_s_; }  // since the first look
  struct Longest {
    Wait wait;
    double seconds;
  };
  std::optional<Longest> longest() const;  // of the waits at the last look
  bool goes_on(const Wait& wait) const;    // was there at the last look

 private:
  struct Seen {
    Wait wait;
    double since_s;  // awake_s_ then
  };
  const double longest_step_s_;
  double awake_s_ = 0;
  std::optional<std::chrono::steady_clock::time_point> last_;
  std::vector<Seen> seen_;
};

}  // namespace vax::dist
