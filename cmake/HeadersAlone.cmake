# Target headers_alone: every header of src/ as the only include of a source of its own, so that none
# leans on what stands before it elsewhere. Not part of `all`.
#
# Headers are in no list that could be taken here, so they are looked for. What a header may include is
# what the libraries of src/ include; the code of kernels finds the tests' emulation of CUDA
# (ops/device/launch.h), and what only CUDA's compiler takes is left to preset cuda.
file(GLOB_RECURSE headers CONFIGURE_DEPENDS RELATIVE "${PROJECT_SOURCE_DIR}/src"
     "${PROJECT_SOURCE_DIR}/src/*.h")
list(FILTER headers EXCLUDE REGEX "^ops/device/cuda/")
set(sources "")
foreach(header IN LISTS headers)
  set(source "${PROJECT_BINARY_DIR}/headers_alone/${header}.cpp")
  file(CONFIGURE OUTPUT "${source}" CONTENT "#include \"${header}\"\n")
  list(APPEND sources "${source}")
endforeach()
add_library(headers_alone OBJECT EXCLUDE_FROM_ALL ${sources})
target_include_directories(headers_alone PRIVATE "${PROJECT_SOURCE_DIR}/src"
                                                 "${PROJECT_SOURCE_DIR}/tests/standin/kernels")
target_compile_options(headers_alone PRIVATE -O0 -g0 -Wno-unknown-pragmas)
target_link_libraries(headers_alone PRIVATE vax_flags LibTorch::cpu MPI::MPI_CXX vax_hdf5
                                            nlohmann_json::nlohmann_json OpenSSL::Crypto ZLIB::ZLIB)
foreach(name IN ITEMS cuda nccl)
  if(TARGET vax_${name}_headers)
    target_link_libraries(headers_alone PRIVATE vax_${name}_headers)
  endif()
endforeach()
