#!/usr/bin/env bash
# Checks and measures the program on a machine with an NVIDIA GPU, nvcc, CMake, Ninja, a C++ compiler
# and a python3 that has a CUDA build of torch (for the comparison transformers and peft too): builds,
# runs the tests labelled gpu, the benchmarks of Llama-2 7B and 13B shapes and the Python stack on the
# same, prints one table. Every stage goes on where it stopped; exit code 4: call it again.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
usage: scripts/gpu_check.sh [OPTION...] [build|test|bench-7b|bench-13b|bench-python|table|all]
  --output DIR      where results are kept (build/gpu-check)
  --seconds N       a stage of benchmarks ends after N seconds (0: when it is done)
  --packages DIR    Debian packages (*.deb) of the libraries that this machine lacks; see below
  --build-only      build everything, run nothing: needs no GPU
  --list-packages   print the packages that --packages needs, and end
Environment:
  LIBTORCH_ROOT     LibTorch to build against (default: that of `import torch` in python3)
  CUDACXX           nvcc (default: found as cmake/Cuda.cmake says)
On a machine with Debian 12 and network:
  mkdir packages && cd packages && apt-get download $(../scripts/gpu_check.sh --list-packages)
TEXT
}

# Names of Debian 12. What these need at run time is found by apt-cache.
header_packages=(
  libopenmpi-dev libhdf5-dev libboost1.74-dev libboost-program-options1.74-dev
  libboost-context1.74-dev libgtest-dev libbenchmark-dev nlohmann-json3-dev zlib1g-dev libssl-dev
)
library_packages=(
  libopenmpi3 openmpi-bin libpmix2 libhdf5-103-1 libhdf5-hl-100 libboost-program-options1.74.0
  libboost-context1.74.0 libbenchmark1debian
)
# What comes with a compiler, what only Debian itself needs, and Open MPI's fabrics.
not_needed='^(<.*|libc6|libcrypt1|libgcc-s1|libstdc\+\+6|gcc-.*-base|libgfortran5|libquadmath0|libatomic1|openssh-client|.*debconf.*|dpkg|tar|perl.*|ibverbs-providers|libibverbs1|librdmacm1|libpsm.*|libfabric1|libucx0|libnl-.*|libhwloc-plugins|ocl-icd.*|libx.*)$'

dependencies_of() {
  apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
    --no-enhances "$1" | sed -nE 's/^ *\|?(Pre)?Depends: //p'
}

list_packages() {
  local -A seen=()
  local queue=("${library_packages[@]}") package
  while ((${#queue[@]} > 0)); do
    package=${queue[0]}
    queue=("${queue[@]:1}")
    if [[ -n ${seen[$package]:-} || $package =~ $not_needed ]]; then continue; fi
    seen[$package]=yes
    mapfile -t -O "${#queue[@]}" queue < <(dependencies_of "$package")
  done
  printf '%s\n' "${!seen[@]}" "${header_packages[@]}" | sort -u
}

# Shared libraries of the packages that this machine has too: its own come first, so that other
# programs (Python) do not meet strange versions.
link_missing_libraries() {
  local library known
  known=$(ldconfig -p 2>/dev/null | sed -nE 's/^\s+(\S+) .*/\1/p')
  mkdir -p "$prefix/lib"
  while IFS= read -r -d '' library; do
    grep -qxF -- "$(basename "$library")" <<<"$known" ||
      ln -sfn "$library" "$prefix/lib/$(basename "$library")"
  done < <(find "$unpacked/usr/lib/$multiarch" "$unpacked/lib/$multiarch" -maxdepth 1 \
    -name '*.so.*' -print0 2>/dev/null)
}

# A usual layout of what Debian puts elsewhere.
link_layout() {
  local name
  mkdir -p "$prefix/bin" "$prefix/hdf5/lib"
  ln -sfn "$libraries/openmpi/include" "$prefix/mpi-include"
  ln -sfn "$unpacked/usr/bin/mpirun.openmpi" "$prefix/bin/mpirun"
  ln -sfn "$unpacked/usr/bin/orted" "$prefix/bin/orted"
  ln -sfn "$unpacked/usr/include/hdf5/serial" "$prefix/hdf5/include"
  for name in libhdf5 libhdf5_hl; do
    ln -sfn "$libraries/hdf5/serial/$name.so" "$prefix/hdf5/lib/$name.so"
  done
}

unpack_packages() {
  local package newer
  [[ -d $packages ]] || die "--packages $packages: no such folder"
  newer=$(find "$packages" -name '*.deb' -newer "$prefix/complete" 2>/dev/null | head -n 1)
  if [[ ! -e $prefix/complete || -n $newer ]]; then
    say "unpacking $(find "$packages" -name '*.deb' | wc -l) packages"
    rm -rf "$unpacked" "$prefix"
    mkdir -p "$unpacked" "$prefix"
    while IFS= read -r -d '' package; do
      dpkg -x "$package" "$unpacked"
    done < <(find "$packages" -name '*.deb' -print0)
    [[ -e $libraries/openmpi/lib/libmpi.so ]] ||
      die "--packages $packages: libopenmpi-dev is not among them; see --list-packages"
    link_missing_libraries
    link_layout
    touch "$prefix/complete"
  fi
}

# Open MPI finds its parts by paths that were fixed when it was built.
use_packages() {
  unpack_packages
  export PATH="$prefix/bin:$PATH"
  export LD_LIBRARY_PATH="$prefix/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
  export C_INCLUDE_PATH="$unpacked/usr/include:$unpacked/usr/include/$multiarch"
  export CPLUS_INCLUDE_PATH="$C_INCLUDE_PATH"
  # Whatever pkg-config knows is not of these packages.
  export PKG_CONFIG_LIBDIR="$prefix/pkgconfig" PKG_CONFIG_PATH=""
  export OPAL_PREFIX="$unpacked/usr" OPAL_BINDIR="$unpacked/usr/bin"
  export OPAL_LIBDIR="$libraries/openmpi/lib" OPAL_PKGLIBDIR="$libraries/openmpi/lib/openmpi3"
  export OPAL_DATADIR="$unpacked/usr/share" OPAL_PKGDATADIR="$unpacked/usr/share/openmpi"
  export OPAL_SYSCONFDIR="$unpacked/etc/openmpi"
  export PMIX_INSTALL_PREFIX="$libraries/pmix2" PMIX_PKGLIBDIR="$libraries/pmix2/lib/pmix"
  export OMPI_MCA_mca_base_component_show_load_errors=0
  export PMIX_MCA_mca_base_component_show_load_errors=0
  export OMPI_MCA_btl=self,vader,tcp OMPI_MCA_pml=ob1
  settings+=(
    "-DCMAKE_PREFIX_PATH=$unpacked/usr" "-DHDF5_ROOT=$prefix/hdf5"
    "-DOPENSSL_ROOT_DIR=$unpacked/usr" "-DZLIB_ROOT=$unpacked/usr"
    -DMPI_SKIP_COMPILER_WRAPPER=ON -DMPI_CXX_SKIP_MPICXX=ON
    -DMPI_C_LIB_NAMES=mpi -DMPI_CXX_LIB_NAMES=mpi
    "-DMPI_mpi_LIBRARY=$libraries/openmpi/lib/libmpi.so"
    "-DMPI_C_HEADER_DIR=$prefix/mpi-include" "-DMPI_CXX_HEADER_DIR=$prefix/mpi-include"
    "-DMPIEXEC_EXECUTABLE=$prefix/bin/mpirun"
  )
}

# The folder of a Python package, empty without it.
python_package() {
  "$check_python" - "$1" <<'PYTHON'
import importlib.util, sys
try:
    spec = importlib.util.find_spec(sys.argv[1])
except ModuleNotFoundError:
    spec = None
print(next(iter(spec.submodule_search_locations), "") if spec else "")
PYTHON
}

find_torch() {
  local torch nccl
  torch=${LIBTORCH_ROOT:-$(python_package torch)}
  [[ -n $torch ]] || die "$check_python has no torch, and LIBTORCH_ROOT is not set"
  settings+=("-DLIBTORCH_ROOT=$torch")
  nccl=$(python_package nvidia.nccl)
  if [[ -n $nccl && -e $nccl/include/nccl.h ]]; then
    settings+=(-DVAX_WITH_NCCL=ON "-DNCCL_ROOT=$nccl")
  elif [[ -e /usr/include/nccl.h || -e /usr/local/cuda/include/nccl.h ]]; then
    settings+=(-DVAX_WITH_NCCL=ON)
  else
    say "no nccl.h here: without NCCL"
  fi
}

require_gpu() {
  if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L >&2; then
    die "no NVIDIA GPU here (nvidia-smi -L fails): nothing can be checked or measured;" \
      "--build-only builds all the same"
  fi
}

stage_build() {
  find_torch
  cd "$repository"
  cmake -G Ninja -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DVAX_WITH_CUDA=ON \
    -DVAX_BUILD_BENCHMARKS=ON "-DVAX_PYTHON=$check_python" "${settings[@]}" >&2
  cmake --build "$build" --parallel "$(build_jobs)" --target gpu_check_programs >&2
}

stage_test() {
  local log="$output/ctest.txt" status=0
  require_gpu
  mkdir -p "$output"
  ctest --test-dir "$build" -L '^gpu$' --output-on-failure --no-tests=error >"$log" 2>&1 || status=1
  tail -n 40 "$log" >&2
  "$check_python" benchmarks/gpu_check.py tests "$log" --output "$output" || status=1
  return "$status"
}

stage_benchmark() {
  require_gpu
  "$check_python" benchmarks/gpu_check.py run "$1" --program "$build/benchmarks/step_benchmark" \
    --seconds "$seconds" --output "$output"
}

stage_table() { "$check_python" benchmarks/gpu_check.py table --output "$output"; }

# What fails does not keep the others from being measured.
stage_all() {
  local stage status=0
  stage_build
  stage_test || status=1
  for stage in bench-7b bench-13b bench-python; do
    stage_benchmark "$stage" || status=$?
  done
  stage_table
  return "$status"
}

run_stage() {
  mpi_environment
  case $stage in
    bench-*) stage_benchmark "$stage" ;;
    *) "stage_$stage" ;;
  esac
}

settings=()
output=build/gpu-check seconds=0 packages="" stage="" build_only=no
while (($# > 0)); do
  case $1 in
    --output | --seconds | --packages)
      (($# > 1)) || die "$1: a value is missing"
      printf -v "${1#--}" '%s' "$2"
      shift
      ;;
    --build-only) build_only=yes ;;
    --list-packages)
      list_packages
      exit 0
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    build | test | bench-7b | bench-13b | bench-python | table | all) stage=$1 ;;
    *) die "unknown argument $1; see --help" ;;
  esac
  shift
done

output=$(realpath -m "$output")
[[ -z $packages ]] || packages=$(realpath -m "$packages")
cd "$repository"
build=build/gpu
multiarch=$(uname -m)-linux-gnu
unpacked=$repository/build/gpu-packages/unpacked
prefix=$repository/build/gpu-packages/prefix
libraries=$unpacked/usr/lib/$multiarch
check_python=$(command -v python3) || die "no python3 here"
# Where there is no python3 with torch, the project's own.
[[ -n $(python_package torch) || ! -x $python ]] || check_python=$python

[[ -z $packages ]] || use_packages
if [[ $build_only == yes ]]; then
  mpi_environment
  stage_build
  exit
fi
stage=${stage:-all}
[[ $stage == build || $stage == table ]] || require_gpu
run_stage
