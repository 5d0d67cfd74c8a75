#!/usr/bin/env bash
# Builds presets `ci` and `cuda` (warnings are errors) and runs every test, after its own set-up. Ends
# with 0 only if the formatting, the scripts and all tests are in order and no test was skipped; tests
# labelled gpu may skip.
#   scripts/test.sh [-L LABEL] [-R REGEX] [any other ctest option]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

failures=()

# Another version formats differently.
check_format() {
  local formatter sources
  formatter=$(command -v clang-format-14) || {
    failures+=("formatting (no clang-format-14)")
    return
  }
  mapfile -d '' -t sources < <(find src tests benchmarks -type f \
    \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' \) -print0)
  say "formatting of ${#sources[@]} files"
  "$formatter" --dry-run --Werror "${sources[@]}" || failures+=("formatting")
}

check_scripts() {
  local files=()
  command -v shellcheck >/dev/null || {
    failures+=("scripts (no shellcheck)")
    return
  }
  mapfile -d '' -t files < <(find scripts slurm .ci -type f \
    \( -name '*.sh' -o -name '*.sbatch' -o -path '.ci/*' \) -print0)
  say "shellcheck of ${#files[@]} scripts"
  shellcheck -x "${files[@]}" || failures+=("scripts")
}

# The program for GPUs and its tests compile and link everywhere: setup.sh --tests brings nvcc. They
# run only where a device is.
build_cuda() {
  say "compiling and linking the program for GPUs"
  if ! { cmake --preset cuda -DVAX_WERROR=ON "-DLIBTORCH_ROOT=${LIBTORCH_ROOT:-}" >&2 &&
    cmake --build --preset cuda --target gpu_check_programs --parallel "$(build_jobs)" >&2; }; then
    failures+=("build for GPUs")
    return
  fi
  # Without a device they skip, which shows that the programs start.
  ctest --test-dir build/cuda --output-on-failure --no-tests=error -j2 -L '^gpu$' ||
    failures+=("tests on a GPU")
}

gpu_tests() { ctest --test-dir build/ci -N -L '^gpu$' | sed -n 's/^ *Test *#[0-9]*: //p'; }

# skipped_tests OUTPUT_OF_CTEST NAMES: tests that did not really run although ctest calls them
# passed, but for those named. Skipped or disabled by ctest's rules, or a GoogleTest inside them
# called GTEST_SKIP. Every call of ctest writes LastTest.log anew, so none may come in between.
skipped_tests() {
  local log=$1 may_skip=$2
  {
    sed -nE 's/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: ([^ ]+) .*\*\*\*(Skipped|Not Run).*/\1/p' "$log"
    awk '/^[0-9]+\/[0-9]+ Testing: / { name = $3 } /^\[  SKIPPED \]/ { print name }' \
      build/ci/Testing/Temporary/LastTest.log
  } | sort -u | grep -vxF -e "$may_skip" || true
}

run_tests() {
  local log=build/ci/ctest-output.txt may_skip skipped
  may_skip=$(gpu_tests)
  ctest --test-dir build/ci --output-on-failure --no-tests=error -j2 "$@" 2>&1 | tee "$log" ||
    failures+=("tests")
  skipped=$(skipped_tests "$log" "$may_skip")
  if [[ -n $skipped ]]; then
    say "skipped, which counts as failed: ${skipped//$'\n'/ }"
    failures+=("skipped tests")
  fi
  summary=$(grep -E '^[0-9]+% tests passed' "$log" || echo "ctest ran no test")
}

main() {
  local summary=""
  if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    return
  fi
  "$repository/scripts/setup.sh" --tests --no-build
  mpi_environment
  cd "$repository"
  check_format
  check_scripts
  build_preset ci ON
  build_cuda
  run_tests "$@"
  # A selection of tests is asked for to be quick.
  if (($# == 0)); then "$repository/scripts/fuzz.sh" || failures+=("fuzzing"); fi
  say "$summary"
  ((${#failures[@]} == 0)) || die "failed: $(printf '%s; ' "${failures[@]}")"
}

main "$@"
