// A program without a device. Its tables of kernels, which are empty, are generated from
// operators.cmake.
#include <ATen/ATen.h>

#include "base/error.h"
#include "ops/device/library.h"
#include "ops/device/runtime.h"

namespace vax::ops::device {
namespace {

[[noreturn]] void out_of_reach() { VAX_CHECK(false, "this program has no device operators"); }

}  // namespace

bool takes(const at::Tensor&) { return false; }

void product_to_float(const at::Tensor&, const at::Tensor&, at::Tensor&, bool) { out_of_reach(); }
AttentionOutput flash_attention(const AttentionInput&) { out_of_reach(); }
AttentionGradients flash_attention_backward(const AttentionInput&, const at::Tensor&,
                                            const at::Tensor&, const at::Tensor&) {
  out_of_reach();
}
AttentionOutput efficient_attention(const AttentionInput&) { out_of_reach(); }
AttentionGradients efficient_attention_backward(const AttentionInput&, const at::Tensor&,
                                                const at::Tensor&, const at::Tensor&) {
  out_of_reach();
}
void scaled_product(const ScaledOperands&, const at::Tensor&, at::Tensor&) { out_of_reach(); }

int count() { return 0; }
std::string why_none() { return "this program was built without CUDA"; }
void select(int) { out_of_reach(); }
c10::Device current() { return c10::Device(c10::kCPU); }
void* compute_stream() { return nullptr; }
std::string name(int) { out_of_reach(); }
bool is_selected() { return false; }
std::unique_ptr<Graph> capture(std::function<void()>) { out_of_reach(); }
int64_t held_bytes() { return 0; }
int64_t peak_bytes() { return 0; }
void reset_peak_bytes() {}
int64_t total_bytes() { return 0; }
at::Tensor pinned_empty(at::IntArrayRef sizes, at::ScalarType type) {
  return at::empty(sizes, type);
}

}  // namespace vax::ops::device
