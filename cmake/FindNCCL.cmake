# Finds NCCL's header and library: NCCL_ROOT, the CUDA toolkit's folders, or the wheel that
# LibTorch's wheel depends on (it has libnccl.so.2 and no link without the
# number). A program must use the copy that its LibTorch loads, so the wheel comes before the system
# where LibTorch is a wheel. Output: NCCL_FOUND, NCCL_VERSION, target NCCL::nccl.
get_filename_component(_libtorch_packages "${LibTorch_CPU_LIBRARY}/../../.." ABSOLUTE)
set(_nccl_wheel "${_libtorch_packages}/nvidia/nccl")
set(_nccl_hints ${NCCL_ROOT} $ENV{NCCL_ROOT} ${_nccl_wheel})
find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${_nccl_hints} ${VAX_CUDA_INCLUDE_DIRS}
          PATH_SUFFIXES include)
find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2 NAMES_PER_DIR
             HINTS ${_nccl_hints} ${VAX_CUDA_LIBRARY_DIR} PATH_SUFFIXES lib lib64)
mark_as_advanced(NCCL_INCLUDE_DIR NCCL_LIBRARY)
if(NCCL_INCLUDE_DIR)
  file(STRINGS "${NCCL_INCLUDE_DIR}/nccl.h" _nccl_version REGEX "#define NCCL_(MAJOR|MINOR|PATCH) ")
  string(REGEX MATCHALL "[0-9]+" _nccl_version "${_nccl_version}")
  string(REPLACE ";" "." NCCL_VERSION "${_nccl_version}")
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(NCCL REQUIRED_VARS NCCL_LIBRARY NCCL_INCLUDE_DIR
                                  VERSION_VAR NCCL_VERSION)
if(NCCL_FOUND AND NOT TARGET NCCL::nccl)
  add_library(NCCL::nccl UNKNOWN IMPORTED)
  set_target_properties(NCCL::nccl PROPERTIES IMPORTED_LOCATION "${NCCL_LIBRARY}"
                                              INTERFACE_INCLUDE_DIRECTORIES "${NCCL_INCLUDE_DIR}")
endif()
