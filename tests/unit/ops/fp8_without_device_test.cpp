// A program without a device says so when it is asked for 8-bit floats.
#include <stdexcept>
#include <string>

#include "ops/fp8_linear.h"
#include "ops_test.h"

namespace vax::ops::test {
namespace {

TEST(Fp8WithoutDeviceTest, IsRefusedWithTheReason) {
  const at::Tensor w = at::ones({16, 16}, at::kBFloat16);
  try {
    quantise_weight(w, Fp8Copies::kBoth);
    FAIL() << "quantised on the CPU";
  } catch (const std::logic_error& error) {
    EXPECT_NE(std::string(error.what()).find("8-bit floats need a GPU"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace vax::ops::test
