// Properties of the vector loops themselves, on every instruction set that this processor has.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"
#include "ops/attention.h"
#include "ops/dropout.h"
#include "ops/kernels/cpu_target.h"
#include "ops/rows.h"
#include "ops/thin_product.h"
#include "ops_test.h"

namespace vax::ops::test {
namespace {

TEST(KernelsTest, AreChosenByName) {
  ASSERT_EQ(find_cpu_target("generic"), CpuTarget::kGeneric) << "supported everywhere";
  EXPECT_EQ(find_cpu_target("sse9"), std::nullopt);
  EXPECT_STREQ(name_of(choose_cpu_target("generic")), "generic");
  EXPECT_THROW(choose_cpu_target("sse9"), ConfigError);
  EXPECT_EQ(choose_cpu_target(""), supported_targets().back()) << "the widest";
}

// exp through the softmax: with 0 as the largest score, a row becomes exp(row).
TEST(KernelsTest, ExpIsAccurateOverItsRange) {
  constexpr int64_t kCount = 100000;
  for (const CpuTarget target : supported_targets()) {
    std::vector<float> x(kCount), y;
    for (int64_t i = 0; i < kCount; ++i) {
      x[static_cast<size_t>(i)] = -110.0f * static_cast<float>(i) / kCount;
    }
    y = x;
    float inv_sum = 0, lse = 0;
    attention_kernels.on(target).causal_softmax({.rows = 1,
                                                 .cols = kCount,
                                                 .scores = y.data(),
                                                 .stride = kCount,
                                                 .first_length = kCount,
                                                 .scale = 1,
                                                 .lse_stride = 1},
                                                &inv_sum, &lse);
    for (size_t i = 0; i < y.size(); ++i) {
      const double exact = std::exp(static_cast<double>(x[i]));
      // 2 ulp of the result; below the smallest normal number an ulp is the smallest denormal.
      const double ulp =
          std::max(exact * 0x1p-23, double{std::numeric_limits<float>::denorm_min()});
      ASSERT_NEAR(static_cast<double>(y[i]), exact, 2 * ulp) << name_of(target) << " x " << x[i];
    }
  }
}

TEST(KernelsTest, Bf16RoundsAsLibTorchDoes) {
  std::vector<float> x;
  for (uint64_t i = 0; i < 50000; ++i) {  // all exponents, NaNs and infinities among them
    x.push_back(std::bit_cast<float>(static_cast<uint32_t>(i * 0x9E3779B9u)));
  }
  for (const uint32_t tie : {0x3f808000u, 0x3f818000u, 0x3f808001u, 0x7f7fffffu, 0x7f800001u}) {
    x.push_back(std::bit_cast<float>(tie));
  }
  const auto count = static_cast<int64_t>(x.size());
  for (const CpuTarget target : supported_targets()) {
    std::vector<c10::BFloat16> y(x.size());
    std::vector<float> back(x.size());
    rows_kernels.on(target).convert({.cols = count,
                                     .src = {x.data(), Elem::kFloat, count},
                                     .dst = {y.data(), Elem::kBfloat16, count}},
                                    1);
    rows_kernels.on(target).convert({.cols = count,
                                     .src = {y.data(), Elem::kBfloat16, count},
                                     .dst = {back.data(), Elem::kFloat, count}},
                                    1);
    for (size_t i = 0; i < x.size(); ++i) {
      const c10::BFloat16 expected(x[i]);
      if (std::isnan(x[i])) {
        ASSERT_TRUE(std::isnan(static_cast<float>(y[i])) && std::isnan(back[i])) << name_of(target);
      } else {
        ASSERT_EQ(y[i].x, expected.x) << name_of(target) << " " << x[i];
        ASSERT_EQ(back[i], static_cast<float>(expected)) << name_of(target);
      }
    }
  }
}

// Masks decide what is trained on: they must not depend on the processor.
TEST(KernelsTest, MasksHaveTheSameBitsOnEveryProcessor) {
  const std::vector<int32_t> rows = {0, 7, 7, 123456}, positions = {0, 0, 1, 4095};
  const MaskArgs args{.key = {1, 0xfffffff0u},
                      .site = 5,
                      .threshold = 6554,
                      .rows = rows.data(),
                      .positions = positions.data(),
                      .num_groups = 77};
  std::vector<std::vector<uint8_t>> masks;
  for (const CpuTarget target : supported_targets()) {
    std::vector<uint8_t> padded(static_cast<size_t>(4 * mask_row_bytes(77)));
    dropout_kernels.on(target).draw_mask(args, 0, 4, padded.data());
    auto& mask = masks.emplace_back();
    for (int64_t row = 0; row < 4; ++row) {
      const auto begin = padded.begin() + row * mask_row_bytes(77);
      mask.insert(mask.end(), begin, begin + 77);
    }
    EXPECT_EQ(mask, masks.front()) << name_of(target);
  }
}

// The same product on every instruction set: an independent check of tiles and remainders of each
// width.
TEST(KernelsTest, ThinProductsMatchMatrixProducts) {
  for (const CpuTarget target : supported_targets()) {
    for (const int64_t rows : {1, 3, 6}) {
      for (const int64_t cols : {1, 15, 33, 64, 77}) {
        for (const int64_t rank : {1, 4, 7}) {
          const at::Tensor x = random({rows, cols}, 1), a = random({rank, cols}, 2);
          at::Tensor u = at::empty({rows, rank}), y = at::ones({rows, cols});
          at::Tensor grad = at::ones({rank, cols});
          const ThinArgs args{.rows = rows,
                              .cols = cols,
                              .rank = rank,
                              .u = u.mutable_data_ptr<float>(),
                              .u_stride = rank,
                              .a = a.const_data_ptr<float>(),
                              .a_stride = cols};
          thin_product_kernels.on(target).xat(args, x.const_data_ptr<float>(), cols);
          VAX_EXPECT_CLOSE(u, at::mm(x, a.t()), kFloatTolerance);
          thin_product_kernels.on(target).ua(args, {y.mutable_data_ptr(), Elem::kFloat, cols},
                                             nullptr, 0);
          VAX_EXPECT_CLOSE(y, at::mm(u, a) + 1, kFloatTolerance);
          thin_product_kernels.on(target).utx(args, x.const_data_ptr<float>(), cols,
                                              grad.mutable_data_ptr<float>());
          VAX_EXPECT_CLOSE(grad, at::mm(u.t(), x) + 1, kFloatTolerance);
        }
      }
    }
  }
}

}  // namespace
}  // namespace vax::ops::test
