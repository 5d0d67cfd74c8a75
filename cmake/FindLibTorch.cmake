# Finds LibTorch without the CUDA toolkit that the wheel's own TorchConfig.cmake demands.
#
# Input   LIBTORCH_ROOT   a LibTorch or torch package directory (it holds include/ and lib/);
#                         default: the project's .venv, as made by scripts/setup.sh
# Output  LibTorch_FOUND, LibTorch_VERSION, LibTorch_WITH_CUDA
#         targets LibTorch::cpu (libtorch_cpu + libc10), LibTorch::openmp (the OpenMP runtime that
#         it uses: its own copy where it brings one, else the compiler's) and, where the build has
#         it, LibTorch::cuda (libtorch_cuda + libc10_cuda)
set(LIBTORCH_ROOT "" CACHE PATH "LibTorch directory (with include/ and lib/); empty: the project's .venv")

set(_libtorch_hints ${LIBTORCH_ROOT} $ENV{LIBTORCH_ROOT})
file(GLOB _libtorch_venv "${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch")
list(APPEND _libtorch_hints ${_libtorch_venv})

find_path(LibTorch_INCLUDE_DIR ATen/core/Tensor.h HINTS ${_libtorch_hints} PATH_SUFFIXES include
          NO_DEFAULT_PATH)
find_library(LibTorch_CPU_LIBRARY torch_cpu HINTS ${_libtorch_hints} PATH_SUFFIXES lib
             NO_DEFAULT_PATH)
find_library(LibTorch_C10_LIBRARY c10 HINTS ${_libtorch_hints} PATH_SUFFIXES lib NO_DEFAULT_PATH)
find_library(LibTorch_CUDA_LIBRARY torch_cuda HINTS ${_libtorch_hints} PATH_SUFFIXES lib
             NO_DEFAULT_PATH)
find_library(LibTorch_C10_CUDA_LIBRARY c10_cuda HINTS ${_libtorch_hints} PATH_SUFFIXES lib
             NO_DEFAULT_PATH)
mark_as_advanced(LibTorch_INCLUDE_DIR LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY
                 LibTorch_CUDA_LIBRARY LibTorch_C10_CUDA_LIBRARY)

if(LibTorch_INCLUDE_DIR AND EXISTS "${LibTorch_INCLUDE_DIR}/torch/headeronly/version.h")
  file(STRINGS "${LibTorch_INCLUDE_DIR}/torch/headeronly/version.h" _libtorch_version
       REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
elseif(LibTorch_INCLUDE_DIR)
  file(STRINGS "${LibTorch_INCLUDE_DIR}/torch/csrc/api/include/torch/version.h" _libtorch_version
       REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
endif()
string(REGEX MATCHALL "[0-9]+" _libtorch_version "${_libtorch_version}")
string(REPLACE ";" "." LibTorch_VERSION "${_libtorch_version}")

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  LibTorch
  REQUIRED_VARS LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_INCLUDE_DIR
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "run scripts/setup.sh, or pass -DLIBTORCH_ROOT=DIR")

if(LibTorch_FOUND AND NOT TARGET LibTorch::cpu)
  add_library(LibTorch::c10 SHARED IMPORTED)
  set_target_properties(LibTorch::c10 PROPERTIES IMPORTED_LOCATION "${LibTorch_C10_LIBRARY}")
  add_library(LibTorch::cpu SHARED IMPORTED)
  set_target_properties(
    LibTorch::cpu
    PROPERTIES IMPORTED_LOCATION "${LibTorch_CPU_LIBRARY}"
               INTERFACE_INCLUDE_DIRECTORIES
               "${LibTorch_INCLUDE_DIR};${LibTorch_INCLUDE_DIR}/torch/csrc/api/include"
               INTERFACE_LINK_LIBRARIES LibTorch::c10)
  get_filename_component(_libtorch_lib_dir "${LibTorch_CPU_LIBRARY}" DIRECTORY)
  file(GLOB _libtorch_openmp "${_libtorch_lib_dir}/libgomp*.so*" "${_libtorch_lib_dir}/libiomp5.so")
  if(_libtorch_openmp)
    list(GET _libtorch_openmp 0 _libtorch_openmp)
    add_library(LibTorch::openmp SHARED IMPORTED)
    set_target_properties(LibTorch::openmp PROPERTIES IMPORTED_LOCATION "${_libtorch_openmp}")
  else()
    find_package(OpenMP REQUIRED COMPONENTS CXX)
    add_library(LibTorch::openmp INTERFACE IMPORTED)
    target_link_libraries(LibTorch::openmp INTERFACE ${OpenMP_CXX_LIBRARIES})
  endif()
  if(LibTorch_CUDA_LIBRARY AND LibTorch_C10_CUDA_LIBRARY)
    set(LibTorch_WITH_CUDA TRUE)
    add_library(LibTorch::cuda SHARED IMPORTED)
    set_target_properties(
      LibTorch::cuda PROPERTIES IMPORTED_LOCATION "${LibTorch_CUDA_LIBRARY}"
                                INTERFACE_LINK_LIBRARIES
                                "LibTorch::cpu;${LibTorch_C10_CUDA_LIBRARY}")
  endif()
endif()
