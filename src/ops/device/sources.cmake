# The device operators: glue (LibTorch's calls and launches) and own kernels. src/ops compiles them
# for GPUs, tests/standin for the host.
set(VAX_DEVICE_GLUE
    attention.cpp head_loss.cpp hidden_state.cpp lora.cpp products.cpp quantised.cpp pointwise.cpp
    table_rows.cpp)
set(VAX_DEVICE_KERNELS
    adamw.cu attention_decode.cu attention_lse.cu cross_entropy.cu embedding.cu hidden_state.cu lora.cu quantise.cu
    rms_norm.cu rotary.cu swiglu.cu)
# What only a GPU has: the device itself, and LibTorch's operators that exist for it alone.
set(VAX_DEVICE_CUDA_ONLY runtime_cuda.cpp library_cuda.cpp)
list(TRANSFORM VAX_DEVICE_GLUE PREPEND "${CMAKE_CURRENT_LIST_DIR}/")
list(TRANSFORM VAX_DEVICE_KERNELS PREPEND "${CMAKE_CURRENT_LIST_DIR}/")
list(TRANSFORM VAX_DEVICE_CUDA_ONLY PREPEND "${CMAKE_CURRENT_LIST_DIR}/")
