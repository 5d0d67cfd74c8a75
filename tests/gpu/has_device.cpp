// Ends with 0 where a GPU can be used, else says why not and ends with 77.
#include <iostream>

#include "ops/device/runtime.h"

int main() {
  if (vax::ops::device::count() > 0) return 0;
  std::cout << vax::ops::device::why_none() << std::endl;
  return 77;
}
