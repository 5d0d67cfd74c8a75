// On the CPU the work goes by sub-blocks of 16 token rows: their mask bits are drawn once, the rows
// are widened to fp32 (and masked) once, and the thin products read them from cache. The factor
// 1 / (1 - p) is applied to the thin side (u, du), so that masks are only bits. Sums over tokens
// (dA, dB) go through row_blocks(). On a device each product is a kernel that draws its mask.
#include "ops/lora.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/narrow.h"
#include "ops/device/runtime.h"
#include "ops/float_rows.h"
#include "ops/parallel.h"
#include "ops/scratch.h"
#include "ops/tensor_rows.h"
#include "ops/thin_product.h"

namespace vax::ops {
namespace {

constexpr int64_t kSubBlock = 16;

struct LoraShape {
  int64_t num_tokens, num_inputs, num_outputs, rank;
};

LoraShape checked_shape(const at::Tensor& in_TI, const char* in_name, const at::Tensor& a_RI,
                        const at::Tensor& b_OR, const at::Tensor& out_TO, const char* out_name) {
  VAX_CHECK(in_TI.dim() == 2, in_name, " has shape ", in_TI.sizes(), ", expected [T, I]");
  VAX_CHECK(a_RI.dim() == 2, "a has shape ", a_RI.sizes(), ", expected [R, I]");
  VAX_CHECK(b_OR.dim() == 2, "b has shape ", b_OR.sizes(), ", expected [O, R]");
  const LoraShape shape{in_TI.size(0), in_TI.size(1), b_OR.size(0), a_RI.size(0)};
  check_tensor(in_TI, in_name, in_TI.sizes(), Types::kFloatOrBf16);
  check_tensor(a_RI, "a", {shape.rank, shape.num_inputs}, Types::kFloat);
  check_tensor(b_OR, "b", {shape.num_outputs, shape.rank}, Types::kFloat);
  if (out_TO.defined())
    check_tensor(out_TO, out_name, {shape.num_tokens, shape.num_outputs}, Types::kFloatOrBf16);
  return shape;
}

// B^T [R, O], so that the long side is contiguous for the vector loops.
FloatScratch transposed(const at::Tensor& b_OR) {
  const int64_t num_outputs = b_OR.size(0), rank = b_OR.size(1);
  const float* b = b_OR.const_data_ptr<float>();
  FloatScratch b_RO(static_cast<size_t>(rank * num_outputs));
  for (int64_t o = 0; o < num_outputs; ++o) {
    for (int64_t r = 0; r < rank; ++r) {
      b_RO[static_cast<size_t>(r * num_outputs + o)] = b[o * b_OR.stride(0) + r];
    }
  }
  return b_RO;
}

void add_transposed(const FloatScratch& sum_RO, at::Tensor& db_OR, bool accumulate) {
  const int64_t num_outputs = db_OR.size(0), rank = db_OR.size(1);
  float* db = db_OR.mutable_data_ptr<float>();
  for (int64_t o = 0; o < num_outputs; ++o) {
    for (int64_t r = 0; r < rank; ++r) {
      float& to = db[o * rank + r];
      const float sum = sum_RO[static_cast<size_t>(r * num_outputs + o)];
      to = accumulate ? to + sum : sum;
    }
  }
}

// The mask bits of one sub-block at a time.
class SubBlockMask {
 public:
  explicit SubBlockMask(const DropoutMask& mask)
      : mask_(mask), bits_(static_cast<size_t>(kSubBlock * mask.row_bytes())) {}

  const uint8_t* draw(int64_t begin, int64_t rows) {
    if (!mask_.active()) return nullptr;
    mask_.draw(begin, begin + rows, bits_.data());
    return bits_.data();
  }

 private:
  const DropoutMask& mask_;
  std::vector<uint8_t> bits_;
};

void scale_into(const float* from, int64_t count, float factor, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i] * factor;
}

struct Backward {
  LoraShape shape;
  const DropoutMask& mask;
  float scale;
  ConstRows dy, x;
  Rows dx;
  const float *a, *u;
  int64_t a_stride;
  FloatScratch b_RO;
  bool input;    // dx is wanted
  bool weights;  // dA and dB are wanted

  int64_t partial_size() const {
    return weights ? shape.rank * (shape.num_inputs + shape.num_outputs) : 0;
  }

  // partial: dA [R, I] then dB^T [R, O], added to.
  void run(int64_t begin, int64_t end, float* partial) const {
    const auto [num_tokens, num_inputs, num_outputs, rank] = shape;
    SubBlockMask bits(mask);
    FloatRows float_dy, float_x;
    FloatScratch du(static_cast<size_t>(kSubBlock * rank)), su(du.size());
    for (int64_t row = begin; row < end; row += kSubBlock) {
      const int64_t rows = std::min(kSubBlock, end - row);
      const uint8_t* row_bits = bits.draw(row, rows);
      const auto dy_rows = float_dy.get(from(dy, row), rows, num_outputs);
      thin_product_kernels.cpu().xat({.rows = rows,
                                      .cols = num_outputs,
                                      .rank = rank,
                                      .u = du.data(),
                                      .u_stride = rank,
                                      .a = b_RO.data(),
                                      .a_stride = num_outputs},
                                     dy_rows.data, dy_rows.stride);
      scale_into(du.data(), rows * rank, scale * mask.scale(), du.data());
      const ThinArgs through_a{.rows = rows,
                               .cols = num_inputs,
                               .rank = rank,
                               .u = du.data(),
                               .u_stride = rank,
                               .a = a,
                               .a_stride = a_stride};
      if (input)
        thin_product_kernels.cpu().ua(through_a, from(dx, row), row_bits, mask.row_bytes());
      if (!weights) continue;
      const auto x_rows = float_x.get(from(x, row), rows, num_inputs, row_bits, mask.row_bytes());
      thin_product_kernels.cpu().utx(through_a, x_rows.data, x_rows.stride, partial);
      scale_into(u + row * rank, rows * rank, scale, su.data());
      thin_product_kernels.cpu().utx({.rows = rows,
                                      .cols = num_outputs,
                                      .rank = rank,
                                      .u = su.data(),
                                      .u_stride = rank,
                                      .a = nullptr,
                                      .a_stride = 0},
                                     dy_rows.data, dy_rows.stride, partial + rank * num_inputs);
    }
  }
};

// --- On a device ---------------------------------------------------------------------------------

constexpr MaskArgs kNoMask{};

// [R, C], C contiguous.
ThinArgs thin_args(const at::Tensor& u_TR, const at::Tensor& a_RC) {
  return {.rows = u_TR.size(0),
          .cols = a_RC.size(1),
          .rank = a_RC.size(0),
          .u = u_TR.mutable_data_ptr<float>(),
          .u_stride = a_RC.size(0),
          .a = a_RC.const_data_ptr<float>(),
          .a_stride = a_RC.stride(0)};
}

at::Tensor scratch_floats(int64_t count, const at::Tensor& like) {
  return at::empty({count}, like.options().dtype(at::kFloat));
}

// u = factor * mask(x) a^T
void thin_xat(const at::Tensor& x_TC, const at::Tensor& a_RC, const MaskArgs& mask, float factor,
              const at::Tensor& u_TR) {
  const ThinArgs thin = thin_args(u_TR, a_RC);
  const LoraKernels& kernels = lora_kernels.device();
  const at::Tensor scratch = scratch_floats(kernels.xat_scratch(thin), u_TR);
  kernels.xat(
      {.thin = thin, .mask = mask, .factor = factor, .scratch = scratch.mutable_data_ptr<float>()},
      const_rows(x_TC));
}

// y += mask(factor * u a)
void thin_ua(const at::Tensor& u_TR, const at::Tensor& a_RC, const MaskArgs& mask, float factor,
             const at::Tensor& y_TC) {
  lora_kernels.device().ua(
      {.thin = thin_args(u_TR, a_RC), .mask = mask, .factor = factor, .scratch = nullptr},
      mutable_rows(y_TC));
}

struct MaskedInput {
  const at::Tensor& x_TC;
  const MaskArgs& mask;
};
// grad (+)= factor * u^T mask(x)
void thin_utx(const at::Tensor& u_TR, const MaskedInput& input, float factor, const LoraSum& grad) {
  const ThinArgs thin{.rows = u_TR.size(0),
                      .cols = input.x_TC.size(1),
                      .rank = u_TR.size(1),
                      .u = u_TR.mutable_data_ptr<float>(),
                      .u_stride = u_TR.size(1),
                      .a = nullptr,
                      .a_stride = 0};
  const LoraKernels& kernels = lora_kernels.device();
  const at::Tensor scratch = scratch_floats(kernels.utx_scratch(thin), u_TR);
  kernels.utx({.thin = thin,
               .mask = input.mask,
               .factor = factor,
               .scratch = scratch.mutable_data_ptr<float>()},
              const_rows(input.x_TC), grad);
}

}  // namespace

void lora_forward(const at::Tensor& x_TI, const at::Tensor& a_RI, const at::Tensor& b_OR,
                  double scale, const DropoutKey& dropout, at::Tensor& u_TR, at::Tensor& y_TO) {
  const bool output = y_TO.defined();
  const LoraShape shape = checked_shape(x_TI, "x", a_RI, b_OR, y_TO, "y");
  check_tensor(u_TR, "u", {shape.num_tokens, shape.rank}, Types::kFloat);
  VAX_CHECK(u_TR.is_contiguous(), "u must be contiguous");
  const DropoutMask mask(dropout, shape.num_tokens, shape.num_inputs);
  if (device::takes(x_TI)) {
    thin_xat(x_TI, a_RI, mask.args(), mask.scale(), u_TR);
    const auto factor = static_cast<float>(scale);
    if (output) thin_ua(u_TR, b_OR.t().contiguous(), kNoMask, factor, y_TO);
    return;
  }
  const FloatScratch b_RO = output ? transposed(b_OR) : FloatScratch();
  const ConstRows x = const_rows(x_TI);
  const Rows y = output ? mutable_rows(y_TO) : Rows{};
  float* u = u_TR.mutable_data_ptr<float>();
  const int64_t rank = shape.rank;
  const int64_t num_blocks = ceil_div(shape.num_tokens, kSubBlock);
  parallel_for(0, num_blocks, 1, [&](int64_t first, int64_t last) {
    SubBlockMask bits(mask);
    FloatRows float_x;
    FloatScratch su(static_cast<size_t>(kSubBlock * rank));
    for (int64_t block = first; block < last; ++block) {
      const int64_t row = block * kSubBlock;
      const int64_t rows = std::min(kSubBlock, shape.num_tokens - row);
      const auto x_rows =
          float_x.get(from(x, row), rows, shape.num_inputs, bits.draw(row, rows), mask.row_bytes());
      float* u_rows = u + row * rank;
      thin_product_kernels.cpu().xat({.rows = rows,
                                      .cols = shape.num_inputs,
                                      .rank = rank,
                                      .u = u_rows,
                                      .u_stride = rank,
                                      .a = a_RI.const_data_ptr<float>(),
                                      .a_stride = a_RI.stride(0)},
                                     x_rows.data, x_rows.stride);
      scale_into(u_rows, rows * rank, mask.scale(), u_rows);
      if (!output) continue;
      scale_into(u_rows, rows * rank, static_cast<float>(scale), su.data());
      thin_product_kernels.cpu().ua({.rows = rows,
                                     .cols = shape.num_outputs,
                                     .rank = rank,
                                     .u = su.data(),
                                     .u_stride = rank,
                                     .a = b_RO.data(),
                                     .a_stride = shape.num_outputs},
                                    from(y, row), nullptr, 0);
    }
  });
}

void lora_backward(const at::Tensor& dy_TO, const at::Tensor& x_TI, const at::Tensor& u_TR,
                   const at::Tensor& a_RI, const at::Tensor& b_OR, double scale,
                   const DropoutKey& dropout, at::Tensor& dx_TI, at::Tensor& da_RI,
                   at::Tensor& db_OR, bool accumulate) {
  const bool input = dx_TI.defined(), weights = da_RI.defined();
  const LoraShape shape =
      checked_shape(input ? dx_TI : x_TI, input ? "dx" : "x", a_RI, b_OR, dy_TO, "dy");
  VAX_CHECK(weights == db_OR.defined(), "da and db must both be defined or both undefined");
  if (weights) {
    check_tensor(x_TI, "x", {shape.num_tokens, shape.num_inputs}, Types::kFloatOrBf16);
    check_tensor(u_TR, "u", {shape.num_tokens, shape.rank}, Types::kFloat);
    check_tensor(da_RI, "da", a_RI.sizes(), Types::kFloat);
    check_tensor(db_OR, "db", b_OR.sizes(), Types::kFloat);
    VAX_CHECK(u_TR.is_contiguous() && da_RI.is_contiguous() && db_OR.is_contiguous(),
              "u, da and db must be contiguous");
  }
  const DropoutMask mask(dropout, shape.num_tokens, shape.num_inputs);
  if (device::takes(dy_TO)) {
    const auto factor = static_cast<float>(scale);
    const at::Tensor du_TR =
        scratch_floats(shape.num_tokens * shape.rank, a_RI).view({shape.num_tokens, shape.rank});
    thin_xat(dy_TO, b_OR.t().contiguous(), kNoMask, factor * mask.scale(), du_TR);
    if (input) thin_ua(du_TR, a_RI, mask.args(), 1, dx_TI);
    if (!weights) return;
    thin_utx(du_TR, {x_TI, mask.args()}, 1,
             {.sum = da_RI.mutable_data_ptr<float>(), .accumulate = accumulate, .turned = false});
    thin_utx(u_TR, {dy_TO, kNoMask}, factor,
             {.sum = db_OR.mutable_data_ptr<float>(), .accumulate = accumulate, .turned = true});
    return;
  }
  const Backward backward{.shape = shape,
                          .mask = mask,
                          .scale = static_cast<float>(scale),
                          .dy = const_rows(dy_TO),
                          .x = weights ? const_rows(x_TI) : ConstRows{},
                          .dx = input ? mutable_rows(dx_TI) : Rows{},
                          .a = a_RI.const_data_ptr<float>(),
                          .u = weights ? u_TR.const_data_ptr<float>() : nullptr,
                          .a_stride = a_RI.stride(0),
                          .b_RO = transposed(b_OR),
                          .input = input,
                          .weights = weights};
  const int64_t size = backward.partial_size();
  const RowBlocks blocks = row_blocks(shape.num_tokens, size);
  FloatScratch partials(static_cast<size_t>(blocks.count * size));
  parallel_for(0, blocks.count, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      backward.run(blocks.begin(block), blocks.end(block), partials.data() + block * size);
    }
  });
  if (!weights) return;
  const PartialSums sums{partials.data(), blocks.count, size};
  add_partials(sums, da_RI.numel(), da_RI.mutable_data_ptr<float>(), accumulate);
  const float* db_partials = partials.data() + da_RI.numel();
  FloatScratch db_RO(static_cast<size_t>(db_OR.numel()));
  add_partials({db_partials, blocks.count, size}, db_OR.numel(), db_RO.data(), false);
  add_transposed(db_RO, db_OR, accumulate);
}

}  // namespace vax::ops
