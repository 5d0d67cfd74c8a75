# shellcheck shell=bash
# Functions shared by the scripts of this folder; sourced, never run. Every message goes to standard
# error, so that a script's standard output is its result.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034  # for the scripts that source this file
python="$repository/.venv/bin/python"

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }

die() {
  say "error: $*"
  exit 1
}

# retry COMMAND...: up to three times, for commands that use the network.
retry() {
  local attempt
  for attempt in 1 2 3; do
    if "$@"; then return 0; fi
    if ((attempt < 3)); then
      say "attempt $attempt failed, trying again: $*"
      sleep $((attempt * 5))
    fi
  done
  return 1
}

# Small matrices on few cores: one thread a rank, and pools that sleep when they wait. mpirun
# refuses to start as root, and to start more ranks than cores, unless told otherwise.
mpi_environment() {
  export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
}

# How many compilers fit: one a core, 1.5 GB of free memory each.
build_jobs() {
  local cores available_kb by_memory
  cores=$(env -u OMP_NUM_THREADS nproc)  # nproc takes the variable for a limit
  available_kb=$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)
  by_memory=$((available_kb / 1500000))
  ((by_memory >= 1)) || by_memory=1
  echo $((cores < by_memory ? cores : by_memory))
}

# build_preset PRESET TESTS(ON|OFF) [TARGET...]: configures where something changed, and builds; all
# of it unless targets are named.
build_preset() {
  local preset=$1 tests=$2 jobs targets=()
  shift 2
  (($# == 0)) || targets=(--target "$@")
  local cache="$repository/build/$preset/CMakeCache.txt"
  jobs=$(build_jobs)
  cd "$repository" || return
  # Ninja runs CMake again by itself when a CMake file changed. --fresh, because what was found in
  # one LIBTORCH_ROOT would otherwise be kept for the next.
  if [[ ! -e build/$preset/build.ninja ]] ||
    ! grep -qx "VAX_BUILD_TESTS:BOOL=$tests" "$cache" ||
    ! grep -qx "LIBTORCH_ROOT:PATH=${LIBTORCH_ROOT:-}" "$cache"; then
    say "configuring preset $preset"
    cmake --fresh --preset "$preset" "-DVAX_BUILD_TESTS=$tests" \
      "-DLIBTORCH_ROOT=${LIBTORCH_ROOT:-}" >&2
  fi
  say "building preset $preset, $jobs at a time"
  cmake --build --preset "$preset" --parallel "$jobs" "${targets[@]}" >&2
}
