# The project's own build vocabulary: compile flags as one interface target, one function per kind
# of target. Everything is target-scoped; nothing here changes global flags.

add_library(vax_flags INTERFACE)
target_compile_options(
  vax_flags
  INTERFACE
    "$<$<COMPILE_LANGUAGE:C,CXX>:-Wall;-Wextra;-Wpedantic;-Wshadow;-Wconversion;-Wno-sign-conversion;-Wnon-virtual-dtor;-Woverloaded-virtual;-Wno-missing-field-initializers;-fno-math-errno;-fno-trapping-math;$<$<BOOL:${VAX_WERROR}>:-Werror>>"
    "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra;--expt-relaxed-constexpr;$<$<BOOL:${VAX_WERROR}>:-Werror=all-warnings>>")
if(VAX_SANITIZE)
  target_compile_options(vax_flags INTERFACE -fsanitize=${VAX_SANITIZE} -fno-sanitize-recover=all
                                             -fno-omit-frame-pointer)
  target_link_options(vax_flags INTERFACE -fsanitize=${VAX_SANITIZE})
endif()

find_program(VAX_CCACHE ccache)
mark_as_advanced(VAX_CCACHE)
if(VAX_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      ${VAX_CCACHE})
endif()

# vax_add_library(NAME SOURCES file... [LINKS target...] [PRIVATE_LINKS target...])
# One static library vax_NAME per folder of src/; LINKS are the folders and packages its headers
# need, PRIVATE_LINKS those only its sources need.
function(vax_add_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS;PRIVATE_LINKS" ${ARGN})
  add_library(vax_${name} STATIC ${ARG_SOURCES})
  add_library(vax::${name} ALIAS vax_${name})
  target_include_directories(vax_${name} PUBLIC "${PROJECT_SOURCE_DIR}/src")
  target_link_libraries(vax_${name} PUBLIC ${ARG_LINKS} PRIVATE vax_flags ${ARG_PRIVATE_LINKS})
endfunction()

# vax_use_torch(TARGET): LibTorch with one precompiled header shared by all targets that use it.
function(vax_use_torch target)
  if(NOT TARGET vax_torch_pch)
    file(WRITE "${PROJECT_BINARY_DIR}/torch_pch.cpp" "// anchor of the shared precompiled header\n")
    add_library(vax_torch_pch OBJECT "${PROJECT_BINARY_DIR}/torch_pch.cpp")
    target_link_libraries(vax_torch_pch PRIVATE vax_flags LibTorch::cpu)
    target_precompile_headers(
      vax_torch_pch PRIVATE <ATen/ATen.h> <ATen/Parallel.h> <algorithm> <cmath> <cstdint> <functional>
      <memory> <optional> <span> <string> <string_view> <unordered_map> <vector>)
  endif()
  target_link_libraries(${target} PUBLIC LibTorch::cpu)
  target_precompile_headers(${target} REUSE_FROM vax_torch_pch)
endfunction()

# vax_add_test(NAME SOURCES file... [LINKS target...] [LABELS label...] [TIMEOUT s] [TORCH])
# A GoogleTest program that runs in one process; every TEST becomes part of one CTest entry. Target
# unit_programs builds all of them.
function(vax_add_test name)
  cmake_parse_arguments(ARG "TORCH" "TIMEOUT" "SOURCES;LINKS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE vax_flags ${ARG_LINKS} GTest::gtest GTest::gtest_main)
  if(ARG_TORCH)
    vax_use_torch_executable(${name})
  endif()
  add_test(NAME ${name} COMMAND ${name})
  vax_set_test_properties(${name} "${ARG_TIMEOUT}" 1 unit ${ARG_LABELS})
  set_property(GLOBAL APPEND PROPERTY VAX_UNIT_PROGRAMS ${name})
endfunction()

# vax_add_mpi_test(NAME RANKS n... SOURCES file... [LINKS target...] [LABELS label...] [TIMEOUT s]
#                  [TORCH])
# One CTest entry NAME.npN per rank count. The program's main() comes from tests/support/mpi_main.cpp:
# it gathers failures over the ranks, so that the exit code is that of the worst rank.
function(vax_add_mpi_test name)
  cmake_parse_arguments(ARG "TORCH" "TIMEOUT" "RANKS;SOURCES;LINKS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES} "${PROJECT_SOURCE_DIR}/tests/support/mpi_main.cpp")
  target_link_libraries(${name} PRIVATE vax_flags ${ARG_LINKS} MPI::MPI_CXX GTest::gtest)
  if(ARG_TORCH)
    vax_use_torch_executable(${name})
  endif()
  foreach(ranks IN LISTS ARG_RANKS)
    add_test(NAME ${name}.np${ranks}
             COMMAND ${MPIEXEC_EXECUTABLE} --oversubscribe ${MPIEXEC_NUMPROC_FLAG} ${ranks}
                     $<TARGET_FILE:${name}>)
    vax_set_test_properties(${name}.np${ranks} "${ARG_TIMEOUT}" ${ranks} mpi ${ARG_LABELS})
  endforeach()
endfunction()

# The same for an executable. It is compiled with the libraries' -fPIC instead of -fPIE, because a
# precompiled header can only be shared between equal flags.
function(vax_use_torch_executable target)
  vax_use_torch(${target})
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${target} PRIVATE -fPIC)
endfunction()

function(vax_set_test_properties name timeout processors)
  if(NOT timeout)
    set(timeout 300)
  endif()
  if(processors GREATER 2)
    set(processors 2)
  endif()
  set_tests_properties(
    ${name}
    PROPERTIES
      TIMEOUT ${timeout}
      PROCESSORS ${processors}
      LABELS "${ARGN}"
      ENVIRONMENT
      "OMP_NUM_THREADS=1;OMP_WAIT_POLICY=passive;OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMPI_MCA_rmaps_base_oversubscribe=1;OMPI_MCA_mpi_yield_when_idle=1"
  )
endfunction()

function(vax_print_summary)
  message(STATUS "vaccine ${PROJECT_VERSION}")
  message(STATUS "  build type    ${CMAKE_BUILD_TYPE}   sanitizers '${VAX_SANITIZE}'")
  message(STATUS "  LibTorch      ${LibTorch_VERSION}")
  message(STATUS "  MPI           ${MPI_CXX_VERSION} ${MPI_CXX_LIBRARIES}")
  message(STATUS "  HDF5          ${HDF5_VERSION}   Boost ${Boost_VERSION}")
  message(STATUS "  CUDA ${VAX_WITH_CUDA}   NCCL ${VAX_WITH_NCCL}   tests ${VAX_BUILD_TESTS}   "
                 "benchmarks ${VAX_BUILD_BENCHMARKS}")
endfunction()
