# The headers of the CUDA runtime and of NCCL without their libraries: enough to compile the code of
# device groups against the stand-in of tests/standin/nccl on machines without CUDA.
#
# Looks in the CUDA toolkit of cmake/Cuda.cmake, where the build has one, in CUDA_ROOT and NCCL_ROOT,
# and in the wheels that LibTorch's brings into the project's .venv.
# Output  targets vax_cuda_headers and vax_nccl_headers, each where its header was found
file(GLOB _nvidia "${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/nvidia")
find_path(VAX_CUDA_HEADERS cuda_runtime_api.h
          HINTS ${VAX_CUDA_INCLUDE_DIRS} ${CUDA_ROOT} $ENV{CUDA_ROOT} ${_nvidia}
          PATH_SUFFIXES include cu13/include cuda_runtime/include)
find_path(VAX_NCCL_HEADERS nccl.h HINTS ${NCCL_ROOT} $ENV{NCCL_ROOT} ${_nvidia} ${VAX_CUDA_INCLUDE_DIRS}
          PATH_SUFFIXES include nccl/include)
mark_as_advanced(VAX_CUDA_HEADERS VAX_NCCL_HEADERS)
foreach(name IN ITEMS cuda nccl)
  string(TOUPPER ${name} _upper)
  if(VAX_${_upper}_HEADERS AND NOT TARGET vax_${name}_headers)
    add_library(vax_${name}_headers INTERFACE)
    target_include_directories(vax_${name}_headers SYSTEM INTERFACE "${VAX_${_upper}_HEADERS}")
  endif()
endforeach()
