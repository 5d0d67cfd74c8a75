# The sources of device groups, for vax_dist and for the stand-in of tests.
set(VAX_DIST_CUDA device/cuda_device_group.cpp device/cuda_group.cpp device/cuda_handle.cpp
                  device/cuda_self_backend.cpp device/cuda_staged_backend.cpp)
set(VAX_DIST_NCCL device/nccl_backend.cpp device/nccl_communicator.cpp)
