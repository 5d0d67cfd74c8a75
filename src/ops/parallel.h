// Loops over LibTorch's threads. at::parallel_for is a template that runs serially in every source
// that is not compiled with OpenMP, without a word; none is here: parallel.cpp calls the OpenMP
// runtime that LibTorch brings, so that there is one pool of threads in the process.
#pragma once

#include <cstdint>

namespace vax::ops {

// Would a parallel_for() here have the threads of at::get_num_threads()? False inside another one.
bool may_run_parallel();

namespace internal {
using RangeBody = void (*)(const void* context, int64_t begin, int64_t end);
void run_parallel(int64_t begin, int64_t end, int64_t grain, RangeBody body, const void* context);
}  // namespace internal

// body(first, last) for a partition of [begin, end) into contiguous ranges of at least `grain` (the
// last may be shorter), at most one a thread. One range on the calling thread when that is all, and
// inside another parallel_for(). The first exception of any range is thrown here.
template <typename Body>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Body& body) {
  internal::run_parallel(
      begin, end, grain,
      [](const void* context, int64_t first, int64_t last) {
        (*static_cast<const Body*>(context))(first, last);
      },
      &body);
}

}  // namespace vax::ops
