# The CUDA toolkit for VAX_WITH_CUDA: the system's, the one of CMAKE_CUDA_COMPILER, or the wheels that
# scripts/setup.sh --tests puts into the project's .venv (enough to compile and link without a GPU).
#
# Output  language CUDA, CUDA::cudart, vax_use_cuda(TARGET)
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(_nvcc nvcc PATHS /usr/local/cuda/bin)
  file(GLOB _wheel_nvcc "${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/nvidia/cu13/bin/nvcc")
  if(_nvcc)
    set(CMAKE_CUDA_COMPILER "${_nvcc}")
  elseif(_wheel_nvcc)
    set(CMAKE_CUDA_COMPILER "${_wheel_nvcc}")
  endif()
endif()
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90 CACHE STRING "GPUs to compile for")
endif()
enable_language(CUDA)
# CMake 3.25 does not know yet that nvcc 12 and later have C++20.
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
# The one runtime of a process is LibTorch's, below: not nvcc's static one beside it, which the wheels
# do not have where the linker looks either.
set(CMAKE_CUDA_RUNTIME_LIBRARY None)
find_package(CUDAToolkit REQUIRED)

if(NOT LibTorch_WITH_CUDA)
  message(FATAL_ERROR "VAX_WITH_CUDA: this LibTorch has no libtorch_cuda and libc10_cuda; "
                      "pass -DLIBTORCH_ROOT=DIR of one that has")
endif()

# The runtime that LibTorch loads: where LibTorch is a wheel its neighbour, which has no link
# libcudart.so by which CUDAToolkit would know it; else the toolkit's.
get_filename_component(_libtorch_packages "${LibTorch_CPU_LIBRARY}/../../.." ABSOLUTE)
file(GLOB _cudart "${_libtorch_packages}/nvidia/cu13/lib/libcudart.so.*"
     "${_libtorch_packages}/nvidia/cuda_runtime/lib/libcudart.so.*")
if(NOT TARGET CUDA::cudart)
  add_library(CUDA::cudart SHARED IMPORTED)
  set_target_properties(CUDA::cudart PROPERTIES INTERFACE_INCLUDE_DIRECTORIES
                                                "${CUDAToolkit_INCLUDE_DIRS}")
  if(NOT _cudart)
    message(FATAL_ERROR "VAX_WITH_CUDA: no libcudart in ${CUDAToolkit_LIBRARY_DIR}")
  endif()
endif()
if(_cudart)
  list(GET _cudart 0 _cudart)
  set_target_properties(CUDA::cudart PROPERTIES IMPORTED_LOCATION "${_cudart}")
endif()

# LibTorch's CUDA library registers its operators when it is loaded: it must be, though few of its
# symbols are used. What it needs itself is found by its own search path where the program runs.
function(vax_use_cuda target)
  target_link_libraries(${target} PUBLIC LibTorch::cuda CUDA::cudart)
  target_link_options(${target} PUBLIC "LINKER:--no-as-needed" "LINKER:--allow-shlib-undefined")
  set_target_properties(${target} PROPERTIES CUDA_SEPARABLE_COMPILATION OFF)
endfunction()
