// Shared by the operator tests: seeded inputs, the autograd oracle and the tolerances.
//
// The oracle is LibTorch's autograd in double on the same (already rounded) inputs, so a difference
// is the operator's own error. It is measured relative to the largest element of the expected
// tensor. Tensors are made where the program computes, device::current(): the same tests run for
// the CPU, for a stand-in and for a GPU.
#pragma once

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "ops/device/runtime.h"
#include "ops/kernels/cpu_target.h"

namespace vax::ops::test {

// fp32: sums of at most a few hundred terms, each rounded by 6e-8, with room for cancellation.
inline constexpr double kFloatTolerance = 1e-5;
// bf16: one rounding of the result is at most 2^-9 = 2e-3 of it; operators that round an
// intermediate as well (logits, an accumulated output) need up to three.
inline constexpr double kBf16Tolerance = 6e-3;

inline double tolerance(at::ScalarType type) {
  return type == at::kFloat ? kFloatTolerance : kBf16Tolerance;
}

// LibTorch's functions of the same names, on the device unless the options name another.
inline at::TensorOptions on_device(const at::TensorOptions& options) {
  return options.has_device() ? options : options.device(device::current());
}
inline at::Tensor empty(at::IntArrayRef sizes, const at::TensorOptions& options = {}) {
  return at::empty(sizes, on_device(options));
}
inline at::Tensor zeros(at::IntArrayRef sizes, const at::TensorOptions& options = {}) {
  return at::zeros(sizes, on_device(options));
}
inline at::Tensor ones(at::IntArrayRef sizes, const at::TensorOptions& options = {}) {
  return at::ones(sizes, on_device(options));
}
inline at::Tensor full(at::IntArrayRef sizes, double value,
                       const at::TensorOptions& options = at::kFloat) {
  return at::full(sizes, value, on_device(options));
}
template <typename T>
at::Tensor tensor_of(const std::vector<T>& values) {
  return at::tensor(values).to(device::current());
}

inline at::Tensor random(at::IntArrayRef sizes, uint64_t seed, at::ScalarType type = at::kFloat) {
  return at::randn(sizes, at::detail::createCPUGenerator(seed), at::kFloat)
      .to(type)
      .to(device::current());
}

// Numbers in the memory of the tensors, for operators that take spans.
template <typename T>
class OnDevice {
 public:
  OnDevice(const std::vector<T>& values) : tensor_(tensor_of(values)) {}
  std::span<const T> span() const {
    return {tensor_.template const_data_ptr<T>(), static_cast<size_t>(tensor_.numel())};
  }
  operator std::span<const T>() const { return span(); }
  const at::Tensor& tensor() const { return tensor_; }

 private:
  at::Tensor tensor_;
};

// Copies there of numbers that change, each kept as long as the object.
class DeviceCopies {
 public:
  std::span<const int32_t> of(const std::vector<int32_t>& values) {
    return copies_.emplace_back(values).span();
  }

 private:
  std::deque<OnDevice<int32_t>> copies_;
};

// One fp64 number in the memory of the tensors: what sums are added to and scales are read from.
inline at::Tensor number(double value) { return full({1}, value, at::kDouble); }

// A double copy that collects gradients.
inline at::Tensor leaf(const at::Tensor& tensor) {
  return tensor.to(at::kDouble).clone().requires_grad_(true);
}

// Stands for memory that nobody has set: what must be written whole must not read it.
inline at::Tensor unset(at::IntArrayRef sizes, at::ScalarType type = at::kFloat) {
  return full(sizes, std::numeric_limits<double>::quiet_NaN(), type);
}

inline double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  EXPECT_EQ(actual.sizes(), expected.sizes());
  if (expected.numel() == 0) return 0;
  const at::Tensor wide = expected.detach().to(at::kDouble);
  const double largest = wide.abs().max().item<double>();
  const double difference = (actual.detach().to(at::kDouble) - wide).abs().max().item<double>();
  return largest == 0 ? difference : difference / largest;
}

#define VAX_EXPECT_CLOSE(actual, expected, bound) \
  EXPECT_LT(::vax::ops::test::relative_error(actual, expected), bound) << #actual

inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.cpu().contiguous(), y = b.cpu().contiguous();
  return x.sizes() == y.sizes() && x.scalar_type() == y.scalar_type() &&
         (x.nbytes() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0);
}

// Runs compute() on one and on three threads: the results must have the same bits.
inline void expect_same_on_any_threads(const std::function<at::Tensor()>& compute) {
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = compute();
  at::set_num_threads(3);
  const at::Tensor three = compute();
  at::set_num_threads(before);
  EXPECT_TRUE(same_bits(one, three)) << relative_error(three, one);
}

// Instruction sets that this processor has, the widest last.
inline std::vector<CpuTarget> supported_targets() {
  std::vector<CpuTarget> targets;
  for (const char* name : {"generic", "avx2", "avx512", "avx512bf16"}) {
    if (const auto target = find_cpu_target(name)) targets.push_back(*target);
  }
  return targets;
}

// A [rows, cols] column block of a wider matrix, with the values of `values`.
inline at::Tensor strided_copy(const at::Tensor& values) {
  at::Tensor wide = full({values.size(0), values.size(1) + 5}, 77, values.options());
  wide.narrow(1, 2, values.size(1)).copy_(values);
  return wide.narrow(1, 2, values.size(1));
}

}  // namespace vax::ops::test
