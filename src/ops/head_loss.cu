// Cross entropy of rows of logits, one block per row: one pass finds the largest logit and the sum
// of exponentials together (each thread rescales its sum by the largest one so far), the second,
// which finds the row in a cache, writes the gradient in its place. Vocabularies with an added
// token are odd: rows need aligned beginnings only, the last vector of a row may be a part of one.
#include "ops/device/launch.h"
#include "ops/head_loss.h"

namespace vax::ops::device {
namespace {

constexpr unsigned kThreads = 512;
constexpr float kLowest = -3.402823466e+38f;  // finite: no difference with it is NaN

constexpr int kAtOnce = 4;  // vectors of a thread whose loads are under way

template <typename T>
constexpr int kN = 16 / sizeof(T);

// Vectors of one row that a thread works on together; kLowest beyond the row's end, whose
// exponential is 0.
template <typename T, bool kAligned>
struct Part {
  float at[kAtOnce][kN<T>];

  static __device__ __forceinline__ int64_t col_of(int64_t begin, int k) {
    return begin + (static_cast<int64_t>(k) * kThreads + threadIdx.x) * kN<T>;
  }
  __device__ __forceinline__ Part(const T* z, int64_t begin, int64_t cols) {
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      load_vector<kAligned>(z, col_of(begin, k), cols, at[k], kLowest);
    }
  }
};
template <typename T>
constexpr int64_t kPartCols = int64_t{kThreads} * kAtOnce* kN<T>;

// sum of exp(z - largest) over what has been seen.
template <typename T>
struct RunningSum {
  float largest = kLowest;
  float sum = 0;

  template <bool kAligned>
  __device__ __forceinline__ void add(const Part<T, kAligned>& z) {
    float highest = largest;
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
#pragma unroll
      for (int i = 0; i < kN<T>; ++i) highest = fmaxf(highest, z.at[k][i]);
    }
    sum *= exp_for<T>(largest - highest);
    largest = highest;
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
#pragma unroll
      for (int i = 0; i < kN<T>; ++i) sum += exp_for<T>(z.at[k][i] - largest);
    }
  }
};

template <typename T, bool kAligned>
__device__ __forceinline__ void write_zeros(T* z, int64_t cols) {
  const float zeros[kN<T>] = {};
  for (int64_t col = threadIdx.x * kN<T>; col < cols; col += int64_t{kThreads} * kN<T>) {
    store_vector<kAligned>(z, col, cols, zeros);
  }
}

template <typename T, bool kAligned>
__device__ __forceinline__ void write_gradient(const CrossEntropyArgs& args, T* z, float largest,
                                               float factor, int64_t target, float at_target) {
  for (int64_t begin = 0; begin < args.cols; begin += kPartCols<T>) {
    Part<T, kAligned> part(z, begin, args.cols);
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int64_t col = part.col_of(begin, k);
#pragma unroll
      for (int i = 0; i < kN<T>; ++i) {
        float& v = part.at[k][i];
        v = col + i == target ? at_target : exp_for<T>(v - largest) * factor;
      }
      store_vector<kAligned>(z, col, args.cols, part.at[k]);
    }
  }
}

template <typename T, bool kAligned>
__global__ void __launch_bounds__(kThreads) cross_entropy(CrossEntropyArgs args) {
  const int64_t row = blockIdx.x, target = args.targets[row];
  T* z = row_of<T>(args.z, row);
  if (target < 0) {  // the same for all threads
    if (args.with_gradient) write_zeros<T, kAligned>(z, args.cols);
    if (threadIdx.x == 0) args.losses[row] = 0;
    return;
  }
  const float z_target = to_float(z[target]);  // before anything is written
  RunningSum<T> mine;
  for (int64_t begin = 0; begin < args.cols; begin += kPartCols<T>) {
    mine.add(Part<T, kAligned>(z, begin, args.cols));
  }
  const float largest = block_max(mine.largest);
  const float sum = block_sum(mine.sum * exp_for<T>(mine.largest - largest));
  if (threadIdx.x == 0) {
    args.losses[row] = static_cast<double>(largest) - static_cast<double>(z_target) +
                       log(static_cast<double>(sum));
  }
  if (!args.with_gradient) return;
  const auto scale = static_cast<float>(*args.scale);
  const float at_target = scale * (exp_for<T>(z_target - largest) / sum - 1.0f);
  write_gradient<T, kAligned>(args, z, largest, scale / sum, target, at_target);
}

void launch_cross_entropy(const CrossEntropyArgs& args, int64_t, int64_t rows) {
  const int width = static_cast<int>(16 / elem_bytes(args.z.elem));
  with_layout(args.z.elem, rows_aligned(args.z, width), [&](auto element, auto aligned) {
    launch(cross_entropy<decltype(element), decltype(aligned)::value>, grid_of(rows),
           dim3(kThreads), args);
  });
}

}  // namespace

const HeadLossKernels head_loss_kernels = {.cross_entropy = launch_cross_entropy};

}  // namespace vax::ops::device
