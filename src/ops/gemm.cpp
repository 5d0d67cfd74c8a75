// The choice behind gemm().
#include "ops/gemm.h"

#include "base/narrow.h"

// The Fortran interface is the one that every BLAS exports: MKL inside LibTorch's wheels, OpenBLAS
// beside other builds. Column-major, 32-bit integers.
extern "C" void sgemm_(const char* trans_a, const char* trans_b, const int* m, const int* n,
                       const int* k, const float* alpha, const float* a, const int* lda,
                       const float* b, const int* ldb, const float* beta, float* c, const int* ldc);

// MKL's, null with another BLAS: sets the calling thread's number of threads, returns the former.
extern "C" int MKL_Set_Num_Threads_Local(int num_threads) __attribute__((weak));

namespace vax::ops {
namespace {

// MKL chooses some kernels by the number of threads that it may use, even where it then uses one.
class SerialBlas {
 public:
  SerialBlas() : before_(MKL_Set_Num_Threads_Local ? MKL_Set_Num_Threads_Local(1) : 0) {}
  ~SerialBlas() {
    if (MKL_Set_Num_Threads_Local) MKL_Set_Num_Threads_Local(before_);
  }
  SerialBlas(const SerialBlas&) = delete;
  SerialBlas& operator=(const SerialBlas&) = delete;

 private:
  int before_;
};

// Row-major C = A B is column-major C^T = B^T A^T on the same memory: operands change places.
void blas_gemm(const GemmArgs& args) {
  const char trans_a = args.a.transposed ? 'T' : 'N', trans_b = args.b.transposed ? 'T' : 'N';
  const int m = narrow<int>(args.cols), n = narrow<int>(args.rows), k = narrow<int>(args.inner);
  const int lda = narrow<int>(args.a.stored.stride), ldb = narrow<int>(args.b.stored.stride);
  const int ldc = narrow<int>(args.c_stride);
  const auto* a = static_cast<const float*>(args.a.stored.data);
  const auto* b = static_cast<const float*>(args.b.stored.data);
  const float beta = args.accumulate ? 1.0f : 0.0f;
  const SerialBlas serial;
  sgemm_(&trans_b, &trans_a, &m, &n, &k, &args.alpha, b, &ldb, a, &lda, &beta, args.c, &ldc);
}

}  // namespace

bool blas_is_narrower() {
#if defined(__x86_64__)
  constexpr int kAvx512Columns = 32;
  static const bool narrower = MKL_Set_Num_Threads_Local != nullptr && !__builtin_cpu_is("intel") &&
                               packed_gemm_kernels.cpu().cols == kAvx512Columns;
  return narrower;
#else
  return false;
#endif
}

void gemm(const GemmArgs& args) {
  if (args.rows == 0 || args.cols == 0) return;
  if (blas_is_narrower()) {
    packed_gemm(packed_gemm_kernels.cpu(), args);
  } else {
    blas_gemm(args);
  }
}

}  // namespace vax::ops
