// main() of tests that compute on a GPU: the first device, selected before any test. Without one
// nothing runs, and CTest is told that the test was skipped.
#include <gtest/gtest.h>

#include <iostream>

#include "ops/device/runtime.h"

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;
  testing::InitGoogleTest(&argc, argv);
  if (vax::ops::device::count() == 0) {
    std::cout << "[  SKIPPED ] " << vax::ops::device::why_none() << std::endl;
    return kSkipped;
  }
  vax::ops::device::select(0);
  return RUN_ALL_TESTS();
}
