// Joins what the blocks of other kernels have left.
#include "ops/device/launch.h"
#include "ops/sums.h"

namespace vax::ops::device {
namespace {

constexpr unsigned kThreads = 1024;

// 32 columns by 32 groups of rows.
__global__ void __launch_bounds__(1024)
    add_partials(PartialSums partials, int64_t elements, float* sum, bool accumulate) {
  VAX_SHARED(float, groups, [kWarpSize][kWarpSize]);
  const int64_t col = static_cast<int64_t>(blockIdx.x) * kWarpSize + threadIdx.x;
  float total = 0;
  if (col < elements) {
    for (int64_t row = threadIdx.y; row < partials.count; row += kWarpSize) {
      total += partials.data[row * partials.stride + col];
    }
  }
  groups[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.y != 0 || col >= elements) return;
  for (int group = 1; group < kWarpSize; ++group) total += groups[group][threadIdx.x];
  sum[col] = accumulate ? sum[col] + total : total;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    add_totals(const T* values, int64_t count, double* sums) {
  const T* mine = values + blockIdx.x * count;
  double total = 0;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) total += static_cast<double>(mine[i]);
  total = block_sum(total);
  if (threadIdx.x == 0) sums[blockIdx.x] += total;
}

void launch_add_partials(const PartialSums& partials, int64_t elements, float* sum,
                         bool accumulate) {
  launch(add_partials, grid_of(blocks_for(elements, kWarpSize)), dim3(kWarpSize, kWarpSize),
         partials, elements, sum, accumulate);
}

template <typename T>
void launch_add_totals(const T* values, int64_t count, int num_sums, double* sums) {
  if (count == 0) return;
  launch(add_totals<T>, grid_of(num_sums), dim3(kThreads), values, count, sums);
}

}  // namespace

const SumsKernels sums_kernels = {.add_partials = launch_add_partials,
                                  .add_totals = launch_add_totals<float>,
                                  .add_double_totals = launch_add_totals<double>};

}  // namespace vax::ops::device
