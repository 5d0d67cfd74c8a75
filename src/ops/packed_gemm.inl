// Matrix products from packed panels: a tile of kGemmRows x kGemmCols results stays in registers
// while both panels stream. A panel holds, word by word along the inner dimension, its rows of A
// (columns of B) side by side; a word is one fp32 number or a pair of bf16 numbers.
#include "ops/kernels/vec.inl"
#include "ops/packed_gemm.h"

namespace vax::ops::VAX_KERNEL_TARGET {

constexpr int kGemmRows = kLanes == 16 ? 14 : 6;  // with two vectors each: 28 of 32, 12 of 16
constexpr int kGemmVectors = 2;
constexpr int kGemmCols = kGemmVectors * kLanes;

// Element (row, lane) changes place with (lane, row).
inline void transpose(VecF (&v)[kLanes]) {
#pragma GCC unroll 4
  for (int distance = 1; distance < kLanes; distance *= 2) {
    const VecI upper = (kIota & distance) != 0;  // all ones in lanes of the second half
    const VecI low = (kIota & ~upper) | ((kIota + (kLanes - distance)) & upper);
    const VecI high = ((kIota + distance) & ~upper) | ((kIota + kLanes) & upper);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if ((i & distance) != 0) continue;
      const VecF a = v[i], b = v[i + distance];
      v[i] = shuffle(a, b, low);
      v[i + distance] = shuffle(a, b, high);
    }
  }
}

// Lanes [0, kLanes) of a row of a panel, from lane `first`.
template <int kWidth>
inline void store_panel(float* row, int first, VecF v) {
  if (kWidth - first >= kLanes) {
    store(row + first, v, Full{});
  } else {
    store(row + first, v, Part{kWidth - first});
  }
}

// Source rows are panel lanes: whole vectors along the inner dimension are turned.
template <int kWidth>
inline void pack_turning(const PackArgs& args, float* to) {
  const auto* source = static_cast<const float*>(args.source);
  for (int first = 0; first < kWidth; first += kLanes) {
    for_vectors(0, args.depth, [&](int64_t k, auto part) {
      VecF block[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        const bool exists = first + i < kWidth && first + i < args.lanes;
        block[i] = exists ? load(source + (first + i) * args.stride + k, part) : VecF{};
      }
      transpose(block);
      const int64_t words = args.depth - k < kLanes ? args.depth - k : kLanes;
      for (int64_t w = 0; w < words; ++w)
        store_panel<kWidth>(to + (k + w) * kWidth, first, block[w]);
    });
  }
}

// The pair of rows 2 k and 2 k + 1 as words.
template <typename PartType>
inline VecF load_pair(const Bf16* even, const Bf16* odd, PartType part) {
  const VecU low = reinterpret_cast<VecU>(load(even, part)) >> 16;
  const VecU high = odd == nullptr ? VecU{} : reinterpret_cast<VecU>(load(odd, part));
  return reinterpret_cast<VecF>(low | high);
}

template <typename PartType>
inline VecF load_words(const PackArgs& args, int64_t k, int64_t lane, PartType part) {
  if (args.elem == Elem::kFloat) {
    return load(static_cast<const float*>(args.source) + k * args.stride + lane, part);
  }
  const Bf16* even = static_cast<const Bf16*>(args.source) + 2 * k * args.stride + lane;
  return load_pair(even, 2 * k + 1 < args.inner ? even + args.stride : nullptr, part);
}

// Source rows are words of the inner dimension.
template <int kWidth>
inline void pack_copying(const PackArgs& args, float* to) {
  for (int64_t k = 0; k < args.depth; ++k) {
    for (int first = 0; first < kWidth; first += kLanes) {
      const int64_t count = (args.lanes < kWidth ? args.lanes : kWidth) - first;
      VecF v = {};
      if (count >= kLanes) {
        v = load_words(args, k, first, Full{});
      } else if (count > 0) {
        v = load_words(args, k, first, Part{count});
      }
      store_panel<kWidth>(to + k * kWidth, first, v);
    }
  }
}

template <int kWidth>
inline void pack_panel(const PackArgs& args, float* to) {
  if (args.turned) {
    pack_turning<kWidth>(args, to);
  } else {
    pack_copying<kWidth>(args, to);
  }
}

void pack_a(const PackArgs& args, float* to) { pack_panel<kGemmRows>(args, to); }
void pack_b(const PackArgs& args, float* to) { pack_panel<kGemmCols>(args, to); }

struct FloatProduct {
  static inline VecF add(VecF a, VecF b, VecF sum) { return multiply_add(a, b, sum); }
};

#if defined(__AVX512BF16__)
constexpr bool kBf16Dot = true;
struct Bf16Product {
  static inline VecF add(VecF a, VecF b, VecF sum) {
    return reinterpret_cast<VecF>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum),
                                                   reinterpret_cast<__m512bh>(a),
                                                   reinterpret_cast<__m512bh>(b)));
  }
};
#else
constexpr bool kBf16Dot = false;
struct Bf16Product {
  static inline VecF even(VecF pair) {
    return reinterpret_cast<VecF>(reinterpret_cast<VecU>(pair) << 16);
  }
  static inline VecF odd(VecF pair) {
    return reinterpret_cast<VecF>(reinterpret_cast<VecU>(pair) & 0xffff0000u);
  }
  static inline VecF add(VecF a, VecF b, VecF sum) {
    return multiply_add(even(a), even(b), multiply_add(odd(a), odd(b), sum));
  }
};
#endif

template <typename PartType>
inline void store_tile_row(const TileArgs& args, float* c, VecF sum, PartType part) {
  const VecF before = args.accumulate ? load(c, part) : VecF{};
  store(c, multiply_add(sum, args.alpha, before), part);
}

template <typename Product>
inline void tile(const TileArgs& args) {
  VecF sum[kGemmRows][kGemmVectors] = {};
  const float *a = args.a, *b = args.b;
  for (int64_t k = 0; k < args.depth; ++k) {
    VecF b_k[kGemmVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kGemmVectors; ++v) b_k[v] = load(b + v * kLanes, Full{});
#pragma GCC unroll 14
    for (int i = 0; i < kGemmRows; ++i) {
      const VecF a_ik = splat(a[i]);
#pragma GCC unroll 2
      for (int v = 0; v < kGemmVectors; ++v) sum[i][v] = Product::add(a_ik, b_k[v], sum[i][v]);
    }
    a += kGemmRows;
    b += kGemmCols;
  }
#pragma GCC unroll 14
  for (int i = 0; i < kGemmRows; ++i) {
    if (i >= args.rows) break;
    float* c = args.c + i * args.c_stride;
#pragma GCC unroll 2
    for (int v = 0; v < kGemmVectors; ++v) {
      const int64_t count = args.cols - v * kLanes;
      if (count >= kLanes) {
        store_tile_row(args, c + v * kLanes, sum[i][v], Full{});
      } else if (count > 0) {
        store_tile_row(args, c + v * kLanes, sum[i][v], Part{count});
      }
    }
  }
}

void tile_float(const TileArgs& args) { tile<FloatProduct>(args); }
void tile_bf16(const TileArgs& args) { tile<Bf16Product>(args); }

const PackedGemmKernels packed_gemm_kernels = {.rows = kGemmRows,
                                               .cols = kGemmCols,
                                               .bf16_dot = kBf16Dot,
                                               .pack_a = pack_a,
                                               .pack_b = pack_b,
                                               .tile_float = tile_float,
                                               .tile_bf16 = tile_bf16};

}  // namespace vax::ops::VAX_KERNEL_TARGET
