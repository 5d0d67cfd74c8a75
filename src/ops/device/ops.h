// Private to this folder's operators: what a program for GPUs does in their place. An operator
// checks its arguments, asks takes() and hands over. Three libraries implement these functions and
// linking chooses one: none (takes() is false, the rest is out of reach), CUDA, and for tests a
// stand-in that runs the same kernels on the host.
//
// All of them put work on the current stream and return; none waits for it. Results are the same
// bits for the same inputs: sums are made in a fixed order, never by atomics. Arguments are as in
// the operators' headers, checked already; pointers are device memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "ops/attention.h"
#include "ops/dropout.h"
#include "ops/fp8_linear.h"
#include "ops/kernels/table.h"

namespace vax::ops::device {

// Is this tensor one of a device that the program has operators for?
bool takes(const at::Tensor& tensor);

// C (+)= A B; shapes and strides as ops::matmul(). fp32 products are true fp32.
void matmul(const at::Tensor& a_MK, const at::Tensor& b_KN, at::Tensor& c_MN, bool accumulate);
void matmul_to_float(const at::Tensor& a_MK, const at::Tensor& b_KN, at::Tensor& c_MN,
                     bool accumulate);
void linear_forward(const at::Tensor& x_TI, const at::Tensor& w_OI, const at::Tensor& bias_O,
                    at::Tensor& y_TO);
void linear_backward_bias(const at::Tensor& dy_TO, at::Tensor& db_O, bool accumulate);

// Writes the tensors of `weight` that are defined.
void quantise_weight(const at::Tensor& w_OI, const Fp8Weight& weight);
void fp8_linear_forward(const at::Tensor& x_TI, const Fp8Weight& weight, const at::Tensor& bias_O,
                        at::Tensor& y_TO);
void fp8_linear_backward_input(const at::Tensor& dy_TO, const Fp8Weight& weight, at::Tensor& dx_TI);

void embedding_forward(const int64_t* ids, const at::Tensor& w_VD, at::Tensor& x_TD);
// Adds to dw.
void embedding_backward(const at::Tensor& dx_TD, const int64_t* ids, at::Tensor& dw_VD);

void rms_norm_forward(const at::Tensor& x_TD, const at::Tensor& w_D, double eps, at::Tensor& y_TD,
                      at::Tensor& rstd_T);
void rms_norm_apply(const at::Tensor& x_TD, const at::Tensor& w_D, const at::Tensor& rstd_T,
                    at::Tensor& y_TD);
void rms_norm_backward(const at::Tensor& dy_TD, const at::Tensor& x_TD, const at::Tensor& w_D,
                       const at::Tensor& rstd_T, at::Tensor& dx_TD, at::Tensor& dw_D,
                       bool accumulate);
// sign 1: forward, -1: backward.
void rotate(const at::Tensor& x_THK, const at::Tensor& cos_PK, const at::Tensor& sin_PK,
            const at::Tensor& positions_T, float sign);
void swiglu_forward(const at::Tensor& gate_up_TC, at::Tensor& y_TF);
void swiglu_backward(const at::Tensor& dy_TF, const at::Tensor& gate_up_TC,
                     at::Tensor& dgate_up_TC);

void attention_forward(const at::Tensor& qkv_TC, const AttentionShape& shape,
                       const SequenceOffsets& sequences, at::Tensor& o_TC, at::Tensor& lse_TH);
void attention_backward(const at::Tensor& do_TC, const at::Tensor& qkv_TC, const at::Tensor& o_TC,
                        const at::Tensor& lse_TH, const AttentionShape& shape,
                        const SequenceOffsets& sequences, at::Tensor& dqkv_TC);
// One entry of slots and lengths per row of q.
void attention_decode(const at::Tensor& q_BC, const at::Tensor& k_cache, const at::Tensor& v_cache,
                      const int32_t* slots, const int32_t* lengths, const AttentionShape& shape,
                      at::Tensor& o_BC);

void dropout(const at::Tensor& x_TD, const DropoutKey& key, at::Tensor& y_TD);
void lora_forward(const at::Tensor& x_TI, const at::Tensor& a_RI, const at::Tensor& b_OR,
                  double scale, const DropoutKey& dropout, at::Tensor& u_TR, at::Tensor& y_TO);
void lora_backward(const at::Tensor& dy_TO, const at::Tensor& x_TI, const at::Tensor& u_TR,
                   const at::Tensor& a_RI, const at::Tensor& b_OR, double scale,
                   const DropoutKey& dropout, at::Tensor& dx_TI, at::Tensor& da_RI,
                   at::Tensor& db_OR, bool accumulate);

// REQUIRES chunk_rows > 0 and rows.
void head_loss(const at::Tensor& x_ND, const at::Tensor& w_VD, const int64_t* targets,
               const at::Tensor& loss_scale, at::Tensor& loss_sum, at::Tensor& dx_ND,
               at::Tensor& dw_VD, bool accumulate, int64_t chunk_rows);

void residual_add(const at::Tensor& x_TD, const at::Tensor& e_TD, at::Tensor& h_TD);
void copy_with_squares(const at::Tensor& grad_TD, at::Tensor& kept_TD, at::Tensor& squares);
void add_scaled(const at::Tensor& kept_TD, const at::Tensor& scale, at::Tensor& h_TD);
void cosine_sums(const at::Tensor& a_TD, const at::Tensor& b_TD, at::Tensor& sums);
void add_squares(const at::Tensor& x, at::Tensor& squares);

// Pointers of `args` are device memory, `count` elements each.
void adamw_update(const AdamWArgs& args, int64_t count);

}  // namespace vax::ops::device
