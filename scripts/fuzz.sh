#!/usr/bin/env bash
# Fuzzes the readers of files from elsewhere, all targets of tests/fuzz for an equal share of the
# time, after everything that once failed (tests/fuzz/regressions/TARGET). Ends with 0 only if
# nothing failed. Needs clang 16 or later with libFuzzer; without it says so, and fails where CI=true.
#   scripts/fuzz.sh [SECONDS]   60 unless told, on all cores
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

targets=(json manifest run_log safetensors sentencepiece)
build="$repository/build/fuzz"

# The first clang that is new enough and has libFuzzer's and the sanitizers' libraries.
find_compiler() {
  local name major probe
  probe=$(mktemp -d)
  trap 'rm -rf "$probe"' RETURN
  echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' \
    >"$probe/probe.cpp"
  for name in clang++-16 clang++-17 clang++-18 clang++-19 clang++-20 clang++; do
    command -v "$name" >/dev/null || continue
    major=$("$name" -dumpversion | cut -d. -f1)
    if ((major >= 16)) &&
      "$name" -fsanitize=fuzzer,address,undefined "$probe/probe.cpp" -o "$probe/probe" 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  return 1
}

build_targets() {
  local compiler=$1 launcher=()
  if command -v ccache >/dev/null; then launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
  cmake -G Ninja -S "$repository/tests/fuzz" -B "$build" "-DCMAKE_C_COMPILER=${compiler/clang++/clang}" \
    "-DCMAKE_CXX_COMPILER=$compiler" "${launcher[@]}" >&2
  cmake --build "$build" --parallel "$(build_jobs)" >&2
}

# libFuzzer measures an input's time by the clock, so a machine that is busy elsewhere makes it call
# innocent inputs slow. True when all that it complained of are such inputs, which take little time
# of the processor.
only_stalls() {
  local target=$1 input found=1
  for input in "$build/failed/$target"-*; do
    [[ -e $input ]] || continue
    found=0
    [[ $input == *-timeout-* ]] &&
      (ulimit -t 10 && "$build/fuzz_$target" -timeout=600 "$input" >/dev/null 2>&1) || return 1
  done
  return "$found"
}

# Inputs that failed stay in $build/failed, where the messages say so.
fuzz() {
  local target=$1 seconds=$2 corpus=()
  rm -rf "$build/grown/$target"
  mkdir -p "$build/grown/$target" "$build/failed"
  if [[ -d $repository/tests/fuzz/regressions/$target ]]; then
    corpus+=("$repository/tests/fuzz/regressions/$target")
  fi
  # The first directory is written to, the others are only read.
  if "$build/fuzz_$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
    -print_final_stats=1 -dict="$build/corpus/$target.dict" \
    -artifact_prefix="$build/failed/$target-" "$build/grown/$target" "$build/corpus/$target" \
    "${corpus[@]}" >"$build/$target.log" 2>&1; then
    say "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$build/$target.log") inputs"
  elif only_stalls "$target"; then
    say "$target: the machine stalled for longer than an input may take; nothing else was found"
  else
    tail -n 60 "$build/$target.log" >&2
    say "$target failed: fix it, keep the input in tests/fuzz/regressions/$target and as a unit test;" \
      "again with $build/fuzz_$target FILE"
    return 1
  fi
}

main() {
  local seconds=${1:-60} compiler target jobs share running=0 failed=0
  if [[ ! $seconds =~ ^[1-9][0-9]*$ ]]; then
    sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    [[ $seconds == -h || $seconds == --help ]] && return
    return 2
  fi
  if ! compiler=$(find_compiler); then
    say "no clang 16 or later with libFuzzer here (Debian: clang-16, libclang-rt-16-dev):" \
      "the readers are not fuzzed"
    [[ ${CI:-} != true ]] || return 1
    return 0
  fi
  build_targets "$compiler"
  rm -rf "$build/corpus" "$build/failed"
  python3 "$repository/tests/fuzz/make_corpus.py" "$build/corpus"
  jobs=$(env -u OMP_NUM_THREADS nproc)
  ((jobs <= ${#targets[@]})) || jobs=${#targets[@]}
  share=$((seconds * jobs / ${#targets[@]}))
  ((share >= 1)) || share=1
  say "fuzzing ${targets[*]}: $share s each, $jobs at a time"
  for target in "${targets[@]}"; do
    if ((running == jobs)); then
      wait -n || failed=1
      running=$((running - 1))
    fi
    fuzz "$target" "$share" &
    running=$((running + 1))
  done
  while ((running > 0)); do
    wait -n || failed=1
    running=$((running - 1))
  done
  return "$failed"
}

main "$@"
