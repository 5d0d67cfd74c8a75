// A program without device operators. Nothing but takes() is ever called.
#include <ATen/ATen.h>

#include "base/error.h"
#include "ops/device/ops.h"
#include "ops/device/runtime.h"

namespace vax::ops::device {
namespace {

[[noreturn]] void out_of_reach() { VAX_CHECK(false, "this program has no device operators"); }

}  // namespace

bool takes(const at::Tensor&) { return false; }

void matmul(const at::Tensor&, const at::Tensor&, at::Tensor&, bool) { out_of_reach(); }
void matmul_to_float(const at::Tensor&, const at::Tensor&, at::Tensor&, bool) { out_of_reach(); }
void linear_forward(const at::Tensor&, const at::Tensor&, const at::Tensor&, at::Tensor&) {
  out_of_reach();
}
void linear_backward_bias(const at::Tensor&, at::Tensor&, bool) { out_of_reach(); }
void quantise_weight(const at::Tensor&, const Fp8Weight&) { out_of_reach(); }
void fp8_linear_forward(const at::Tensor&, const Fp8Weight&, const at::Tensor&, at::Tensor&) {
  out_of_reach();
}
void fp8_linear_backward_input(const at::Tensor&, const Fp8Weight&, at::Tensor&) { out_of_reach(); }
void embedding_forward(const int64_t*, const at::Tensor&, at::Tensor&) { out_of_reach(); }
void embedding_backward(const at::Tensor&, const int64_t*, at::Tensor&) { out_of_reach(); }
void rms_norm_forward(const at::Tensor&, const at::Tensor&, double, at::Tensor&, at::Tensor&) {
  out_of_reach();
}
void rms_norm_apply(const at::Tensor&, const at::Tensor&, const at::Tensor&, at::Tensor&) {
  out_of_reach();
}
void rms_norm_backward(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                       at::Tensor&, at::Tensor&, bool) {
  out_of_reach();
}
void rotate(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, float) {
  out_of_reach();
}
void swiglu_forward(const at::Tensor&, at::Tensor&) { out_of_reach(); }
void swiglu_backward(const at::Tensor&, const at::Tensor&, at::Tensor&) { out_of_reach(); }
void attention_forward(const at::Tensor&, const AttentionShape&, const SequenceOffsets&,
                       at::Tensor&, at::Tensor&) {
  out_of_reach();
}
void attention_backward(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                        const AttentionShape&, const SequenceOffsets&, at::Tensor&) {
  out_of_reach();
}
void attention_decode(const at::Tensor&, const at::Tensor&, const at::Tensor&, const int32_t*,
                      const int32_t*, const AttentionShape&, at::Tensor&) {
  out_of_reach();
}
void dropout(const at::Tensor&, const DropoutKey&, at::Tensor&) { out_of_reach(); }
void lora_forward(const at::Tensor&, const at::Tensor&, const at::Tensor&, double,
                  const DropoutKey&, at::Tensor&, at::Tensor&) {
  out_of_reach();
}
void lora_backward(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                   const at::Tensor&, double, const DropoutKey&, at::Tensor&, at::Tensor&,
                   at::Tensor&, bool) {
  out_of_reach();
}
void head_loss(const at::Tensor&, const at::Tensor&, const int64_t*, const at::Tensor&, at::Tensor&,
               at::Tensor&, at::Tensor&, bool, int64_t) {
  out_of_reach();
}
void residual_add(const at::Tensor&, const at::Tensor&, at::Tensor&) { out_of_reach(); }
void copy_with_squares(const at::Tensor&, at::Tensor&, at::Tensor&) { out_of_reach(); }
void add_scaled(const at::Tensor&, const at::Tensor&, at::Tensor&) { out_of_reach(); }
void cosine_sums(const at::Tensor&, const at::Tensor&, at::Tensor&) { out_of_reach(); }
void add_squares(const at::Tensor&, at::Tensor&) { out_of_reach(); }
void adamw_update(const AdamWArgs&, int64_t) { out_of_reach(); }

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
