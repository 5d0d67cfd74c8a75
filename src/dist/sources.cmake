# The sources of device groups, for vax_dist and for the stand-in of tests.
set(VAX_DIST_CUDA cuda_device_group.cpp cuda_handle.cpp cuda_queue.cpp cuda_self_collectives.cpp
                  cuda_staged_collectives.cpp)
set(VAX_DIST_NCCL nccl_collectives.cpp nccl_communicator.cpp nccl_library.cpp)
