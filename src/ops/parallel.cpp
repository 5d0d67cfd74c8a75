#include "ops/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>

// What GCC makes of `#pragma omp parallel`, called by name: LibTorch's runtime is GCC's (or
// Intel's, which has the same functions), and clang's pragmas call another one.
extern "C" {
void GOMP_parallel(void (*body)(void*), void* context, unsigned num_threads, unsigned flags);
int omp_in_parallel();
int omp_get_max_threads();
int omp_get_num_threads();
int omp_get_thread_num();
}

namespace vax::ops {

// The limit of LibTorch's threads is OpenMP's own: at::set_num_threads() sets it.
bool may_run_parallel() { return !omp_in_parallel() && omp_get_max_threads() > 1; }

namespace internal {

void run_parallel(int64_t begin, int64_t end, int64_t grain, RangeBody body, const void* context) {
  if (begin >= end) return;
  const int64_t count = end - begin, least = std::max<int64_t>(1, grain);
  if (count <= least || !may_run_parallel()) return body(context, begin, end);
  std::atomic_flag failed = ATOMIC_FLAG_INIT;
  std::exception_ptr error;
  // The whole team is woken whatever the number of ranges: another size would make GOMP end threads
  // and start new ones.
  auto team = [&] {
    const int64_t ranges = std::min<int64_t>(omp_get_num_threads(), (count + least - 1) / least);
    const int64_t size = (count + ranges - 1) / ranges;
    const int64_t first = begin + omp_get_thread_num() * size;
    try {
      if (first < end) body(context, first, std::min(end, first + size));
    } catch (...) {
      if (!failed.test_and_set()) error = std::current_exception();
    }
  };
  GOMP_parallel([](void* each) { (*static_cast<decltype(team)*>(each))(); }, &team, 0, 0);
  if (error) std::rethrow_exception(error);
}

}  // namespace internal
}  // namespace vax::ops
