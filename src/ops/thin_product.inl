// Products with one thin side (LoRA's rank, a few query heads), register-blocked: a tile of results
// stays in registers while the long side streams. The tile shapes fit 32 (AVX-512) or 16 registers.
// Every result is summed in the same order in full tiles and in remainders.
#include "ops/kernels/vec.inl"
#include "ops/thin_product.h"

namespace vax::ops::VAX_KERNEL_TARGET {

constexpr int kTileRows = 4;
constexpr int kTileRank = kLanes == 16 ? 4 : 2;

template <int kRows, int kRank>
inline void xat_tile(const ThinArgs& args, const float* x, int64_t x_stride, const float* a,
                     float* u) {
  VecF sum[kRows][kRank] = {};
  for_vectors(0, args.cols, [&](int64_t c, auto part) {
    VecF x_c[kRows];
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) x_c[i] = load(x + i * x_stride + c, part);
#pragma GCC unroll 4
    for (int k = 0; k < kRank; ++k) {
      const VecF a_c = load(a + k * args.a_stride + c, part);
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) sum[i][k] = multiply_add(x_c[i], a_c, sum[i][k]);
    }
  });
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int k = 0; k < kRank; ++k) u[i * args.u_stride + k] = sum_lanes(sum[i][k]);
  }
}

template <int kRows>
inline void xat_rows(const ThinArgs& args, const float* x, int64_t x_stride, float* u) {
  int64_t k = 0;
  for (; k + kTileRank <= args.rank; k += kTileRank) {
    xat_tile<kRows, kTileRank>(args, x, x_stride, args.a + k * args.a_stride, u + k);
  }
  for (; k < args.rank; ++k) {
    xat_tile<kRows, 1>(args, x, x_stride, args.a + k * args.a_stride, u + k);
  }
}

void thin_xat(const ThinArgs& args, const float* x, int64_t x_stride) {
  int64_t row = 0;
  for (; row + kTileRows <= args.rows; row += kTileRows) {
    xat_rows<kTileRows>(args, x + row * x_stride, x_stride, args.u + row * args.u_stride);
  }
  for (; row < args.rows; ++row) {
    xat_rows<1>(args, x + row * x_stride, x_stride, args.u + row * args.u_stride);
  }
}

// kRows rows and kVectors vectors of columns from c.
template <int kRows, int kVectors, typename PartType>
inline void ua_tile(const ThinArgs& args, const float* u, Rows y, int64_t row, int64_t c,
                    PartType part, const uint8_t* mask, int64_t mask_stride) {
  VecF sum[kRows][kVectors] = {};
  for (int64_t k = 0; k < args.rank; ++k) {
    VecF a_k[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      a_k[v] = load(args.a + k * args.a_stride + c + v * kLanes, part);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      const VecF u_ik = splat(u[i * args.u_stride + k]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[i][v] = multiply_add(u_ik, a_k[v], sum[i][v]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
    with_row(y, row + i, [&](auto* y_row) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const int64_t at = c + v * kLanes;
        VecF added = sum[i][v];
        if (mask != nullptr) added = keep(added, mask + (row + i) * mask_stride, at);
        store(y_row + at, load(y_row + at, part) + added, part);
      }
    });
  }
}

template <int kRows>
inline void ua_rows(const ThinArgs& args, Rows y, int64_t row, const uint8_t* mask,
                    int64_t mask_stride) {
  const float* u = args.u + row * args.u_stride;
  int64_t c = 0;
  for (; c + 2 * kLanes <= args.cols; c += 2 * kLanes) {
    ua_tile<kRows, 2>(args, u, y, row, c, Full{}, mask, mask_stride);
  }
  for_vectors(c, args.cols, [&](int64_t at, auto part) {
    ua_tile<kRows, 1>(args, u, y, row, at, part, mask, mask_stride);
  });
}

void thin_ua(const ThinArgs& args, Rows y, const uint8_t* mask, int64_t mask_stride) {
  int64_t row = 0;
  for (; row + kTileRows <= args.rows; row += kTileRows) {
    ua_rows<kTileRows>(args, y, row, mask, mask_stride);
  }
  for (; row < args.rows; ++row) ua_rows<1>(args, y, row, mask, mask_stride);
}

template <int kRank, int kVectors, typename PartType>
inline void utx_tile(const ThinArgs& args, const float* u, const float* x, int64_t x_stride,
                     float* grad, int64_t c, PartType part) {
  VecF sum[kRank][kVectors];
#pragma GCC unroll 4
  for (int k = 0; k < kRank; ++k) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      sum[k][v] = load(grad + k * args.cols + c + v * kLanes, part);
    }
  }
  for (int64_t row = 0; row < args.rows; ++row) {
    VecF x_row[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) x_row[v] = load(x + row * x_stride + c + v * kLanes, part);
#pragma GCC unroll 4
    for (int k = 0; k < kRank; ++k) {
      const VecF u_k = splat(u[row * args.u_stride + k]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[k][v] = multiply_add(u_k, x_row[v], sum[k][v]);
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < kRank; ++k) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      store(grad + k * args.cols + c + v * kLanes, sum[k][v], part);
    }
  }
}

template <int kRank>
inline void utx_rank(const ThinArgs& args, int64_t k, const float* x, int64_t x_stride,
                     float* grad) {
  const float* u = args.u + k;
  float* grad_k = grad + k * args.cols;
  int64_t c = 0;
  for (; c + 2 * kLanes <= args.cols; c += 2 * kLanes) {
    utx_tile<kRank, 2>(args, u, x, x_stride, grad_k, c, Full{});
  }
  for_vectors(c, args.cols, [&](int64_t at, auto part) {
    utx_tile<kRank, 1>(args, u, x, x_stride, grad_k, at, part);
  });
}

void thin_utx(const ThinArgs& args, const float* x, int64_t x_stride, float* grad) {
  int64_t k = 0;
  for (; k + 4 <= args.rank; k += 4) utx_rank<4>(args, k, x, x_stride, grad);
  for (; k < args.rank; ++k) utx_rank<1>(args, k, x, x_stride, grad);
}

const ThinProductKernels thin_product_kernels = {.xat = thin_xat, .ua = thin_ua, .utx = thin_utx};

}  // namespace vax::ops::VAX_KERNEL_TARGET
