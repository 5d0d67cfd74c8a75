// Rotary embedding in place: one thread rotates the pairs of one 16-byte access to each half of a
// head.
#include "ops/device/launch.h"
#include "ops/rotary.h"

namespace vax::ops::device {
namespace {

// Pairs of a thread; one where a vector could cross from a head to the next.
template <typename T, bool kAligned>
constexpr int kWidth = kAligned ? 16 / sizeof(T) : 1;

template <typename T, bool kAligned>
__global__ void rotate(RotaryArgs args, unsigned blocks_per_row) {
  constexpr int kN = kWidth<T, kAligned>;
  const auto [token, pair] = row_place(blocks_per_row, kN);
  if (pair >= args.num_heads * args.half_dim) return;
  const unsigned head = static_cast<unsigned>(pair) / static_cast<unsigned>(args.half_dim);
  const int64_t i = pair - head * args.half_dim;
  T* first = row_of<T>(args.x, token) + head * args.head_stride + i;
  T* second = first + args.half_dim;
  const int64_t angles = args.positions[token] * args.angle_stride + i;
  float x1[kN], x2[kN], cos[kN], sin[kN];
  load(first, x1);
  load(second, x2);
  load(args.cos + angles, cos);
  load(args.sin + angles, sin);
#pragma unroll
  for (int j = 0; j < kN; ++j) {
    const float s = sin[j] * args.sign, before = x1[j];
    x1[j] = fmaf(before, cos[j], -(x2[j] * s));
    x2[j] = fmaf(x2[j], cos[j], before * s);
  }
  store(first, x1);
  store(second, x2);
}

bool aligned(const RotaryArgs& args) {
  const int width = static_cast<int>(16 / elem_bytes(args.x.elem));
  const ConstRows heads{args.x.data, args.x.elem, args.head_stride};
  return vectors_fit(args.x, args.half_dim, width) && rows_aligned(heads, width) &&
         rows_aligned({args.cos, Elem::kFloat, args.angle_stride}, width) &&
         rows_aligned({args.sin, Elem::kFloat, args.angle_stride}, width);
}

void launch_rotary(const RotaryArgs& args, int64_t, int64_t rows) {
  with_layout(args.x.elem, aligned(args), [&](auto element, auto is_aligned) {
    using T = decltype(element);
    constexpr bool kAligned = decltype(is_aligned)::value;
    const RowGrid at = row_grid(rows, args.num_heads * args.half_dim, kWidth<T, kAligned>);
    launch(rotate<T, kAligned>, at.grid, at.block, args, at.blocks_per_row);
  });
}

}  // namespace

const RotaryKernels rotary_kernels = {.rotate = launch_rotary};

}  // namespace vax::ops::device
