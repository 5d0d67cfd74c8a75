# The CUDA toolkit for VAX_WITH_CUDA: that of CMAKE_CUDA_COMPILER or CUDACXX where one of them is given,
# else the wheels (beside LibTorch's or in the project's .venv, where scripts/setup.sh --tests puts
# them: enough to compile and link without a GPU), else the system's. Wheels come before the system,
# so that all machines which have them build alike.
#
# Output  language CUDA, CUDA::cudart, VAX_CUDA_INCLUDE_DIRS, VAX_CUDA_LIBRARY_DIR,
#         vax_use_cuda(TARGET)
get_filename_component(_libtorch_packages "${LibTorch_CPU_LIBRARY}/../../.." ABSOLUTE)
file(GLOB _wheels "${_libtorch_packages}/nvidia/cu13"
     "${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/nvidia/cu13")
set(_wheel "")  # whose nvcc compiles
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(VAX_WHEEL_NVCC nvcc HINTS ${_wheels} PATH_SUFFIXES bin NO_DEFAULT_PATH)
  mark_as_advanced(VAX_WHEEL_NVCC)
  if(VAX_WHEEL_NVCC)
    set(CMAKE_CUDA_COMPILER "${VAX_WHEEL_NVCC}")
  else()
    find_program(VAX_SYSTEM_NVCC nvcc PATHS /usr/local/cuda/bin)
    mark_as_advanced(VAX_SYSTEM_NVCC)
    if(VAX_SYSTEM_NVCC)
      set(CMAKE_CUDA_COMPILER "${VAX_SYSTEM_NVCC}")
    endif()
  endif()
endif()
if(VAX_WHEEL_NVCC AND CMAKE_CUDA_COMPILER STREQUAL VAX_WHEEL_NVCC)
  get_filename_component(_wheel "${VAX_WHEEL_NVCC}/../.." ABSOLUTE)
  # nvcc looks for its libraries in lib64, and the wheel has lib.
  string(APPEND CMAKE_CUDA_FLAGS_INIT " -L${_wheel}/lib")
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

if(NOT LibTorch_WITH_CUDA)
  message(FATAL_ERROR "VAX_WITH_CUDA: this LibTorch has no libtorch_cuda and libc10_cuda; "
                      "pass -DLIBTORCH_ROOT=DIR of one that has")
endif()

# CMake's own search for a toolkit knows no wheel: there is no libcudart.so without a number.
if(_wheel)
  set(VAX_CUDA_INCLUDE_DIRS "${_wheel}/include")
  set(VAX_CUDA_LIBRARY_DIR "${_wheel}/lib")
else()
  find_package(CUDAToolkit REQUIRED)
  set(VAX_CUDA_INCLUDE_DIRS ${CUDAToolkit_INCLUDE_DIRS})
  set(VAX_CUDA_LIBRARY_DIR "${CUDAToolkit_LIBRARY_DIR}")
endif()

# The runtime that LibTorch loads: where LibTorch is a wheel its neighbour, else the toolkit's.
file(GLOB _cudart "${_libtorch_packages}/nvidia/cu13/lib/libcudart.so.*"
     "${_libtorch_packages}/nvidia/cuda_runtime/lib/libcudart.so.*")
if(NOT TARGET CUDA::cudart)
  add_library(CUDA::cudart SHARED IMPORTED)
  set_target_properties(CUDA::cudart PROPERTIES INTERFACE_INCLUDE_DIRECTORIES
                                                "${VAX_CUDA_INCLUDE_DIRS}")
  if(NOT _cudart)
    file(GLOB _cudart "${VAX_CUDA_LIBRARY_DIR}/libcudart.so.*")
  endif()
  if(NOT _cudart)
    message(FATAL_ERROR "VAX_WITH_CUDA: no libcudart in ${VAX_CUDA_LIBRARY_DIR}")
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
