# The sources of device groups, for vax_dist and for the stand-in of tests.
set(VAX_DIST_CUDA device/cuda_device_group.cpp device/cuda_handle.cpp device/cuda_queue.cpp
                  device/cuda_self_collectives.cpp device/cuda_staged_collectives.cpp)
set(VAX_DIST_NCCL device/nccl_collectives.cpp device/nccl_communicator.cpp
                  device/nccl_library.cpp)
