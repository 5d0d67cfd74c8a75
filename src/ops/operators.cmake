# The operators, one line each. An operator NAME is
#   NAME.h      its declaration, the formulas of forward and backward, what is saved; its kernels
#   NAME.cpp    checks of shapes, once, and the way to its kernels
#   NAME.inl    LOOPS: vector loops for the CPU, compiled once for each instruction set
#   NAME.cu     KERNELS: kernels for GPUs; tests/standin compiles them for the host
# and tests/unit/ops/NAME_test.cpp. kernels/kernel.h says how the header names what is in the latter.
vax_operator(activation LOOPS KERNELS)
vax_operator(adamw LOOPS KERNELS)
vax_operator(attention LOOPS KERNELS)
vax_operator(attention_decode KERNELS)
vax_operator(dropout LOOPS KERNELS)
vax_operator(embedding KERNELS)
vax_operator(fp8_linear)
vax_operator(head_loss LOOPS KERNELS)
vax_operator(hidden_state LOOPS KERNELS)
vax_operator(layer_norm LOOPS KERNELS)
vax_operator(linear LOOPS)
vax_operator(lora KERNELS)
vax_operator(matmul)
vax_operator(rms_norm LOOPS KERNELS)
vax_operator(rotary LOOPS KERNELS)
vax_operator(swiglu LOOPS KERNELS)

# What several operators are made of.
vax_operator_part(packed_gemm LOOPS)
vax_operator_part(quantise KERNELS)
vax_operator_part(rows LOOPS)
vax_operator_part(sums KERNELS)
vax_operator_part(thin_product LOOPS)
