// Shares and their uncertainty, in percent.
#pragma once

#include <cstdint>

namespace vax::eval {

struct Interval {
  double low = 0;
  double high = 0;
};

// 100 * count / total. REQUIRES 0 <= count <= total, total > 0.
double percent(int64_t count, int64_t total);

// Wilson's score interval of a binomial share at 95 % (J. Am. Stat. Assoc. 22, 1927, p. 209):
//   (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),   z = 1.959964
// Unlike the normal approximation it stays within [0, 100] and keeps a width at 0 and 100 %.
// REQUIRES as above.
Interval wilson95(int64_t count, int64_t total);

}  // namespace vax::eval
