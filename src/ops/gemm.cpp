// The BLAS call behind gemm().
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

}  // namespace

// Row-major C = A B is column-major C^T = B^T A^T on the same memory: operands change places.
void gemm(int64_t rows, int64_t cols, int64_t inner, float alpha, MatrixView a, MatrixView b,
          float beta, float* c, int64_t c_stride) {
  if (rows == 0 || cols == 0) return;
  const char trans_a = a.transposed ? 'T' : 'N';
  const char trans_b = b.transposed ? 'T' : 'N';
  const int m = narrow<int>(cols), n = narrow<int>(rows), k = narrow<int>(inner);
  const int lda = narrow<int>(a.stride), ldb = narrow<int>(b.stride);
  const int ldc = narrow<int>(c_stride);
  const SerialBlas serial;
  sgemm_(&trans_b, &trans_a, &m, &n, &k, &alpha, b.data, &ldb, a.data, &lda, &beta, c, &ldc);
}

}  // namespace vax::ops
