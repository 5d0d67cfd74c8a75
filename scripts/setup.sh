#!/usr/bin/env bash
# Prepares a machine and builds the program: system packages (Debian, Ubuntu), a Python environment
# in .venv that holds LibTorch, and preset `release` in build/release. Does what is missing and
# nothing else, so it may be run any time.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
usage: scripts/setup.sh [--tests] [--no-build]
  --tests      also installs what the tests compare with (about 5 GB in .venv), builds the tests
  --no-build   packages only
Environment:
  LIBTORCH_ROOT   LibTorch to build against (holds include/ and lib/), in place of the wheel
TEXT
}

system_packages=(
  build-essential cmake ninja-build python3-venv libopenmpi-dev openmpi-bin libhdf5-dev
  libboost-program-options-dev libgtest-dev nlohmann-json3-dev zlib1g-dev libssl-dev
)

# Free space in MiB on the file system of a path.
free_mib() { df -Pm "$1" | awk 'NR == 2 { print $4 }'; }

require_free() {
  local path=$1 needed=$2 purpose=$3 free
  free=$(free_mib "$path")
  ((free >= needed)) ||
    die "$purpose needs $needed MiB on the file system of $path, $free MiB are free: make room"
}

missing_system_packages() {
  local package
  for package in "${system_packages[@]}"; do
    dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
      echo "$package"
  done
}

install_system_packages() {
  # CI compiles the benchmark programs, so that they keep up with the code, and runs the job scripts
  # under a real Slurm; srun's pmix plugin loads the library by the name that libpmix-dev brings.
  # GPU kernels run on the host as fibers of Boost.Context.
  # clang is the second compiler: sanitizers, fuzzing (scripts/fuzz.sh); Debian's default,
  # 14, does not compile C++20's source_location. Sources are formatted as the default formats them.
  if [[ $with_tests == ON ]]; then
    system_packages+=(libbenchmark-dev libboost-context-dev slurm-wlm munge libpmix-dev clang-16
      libclang-rt-16-dev clang-format-14 shellcheck)
  fi
  if ! command -v dpkg-query >/dev/null; then
    say "not a Debian system: please see to ${system_packages[*]} (names of Debian 12)"
    return
  fi
  local missing needed_mib as_root=()
  mapfile -t missing < <(missing_system_packages)
  ((${#missing[@]} > 0)) || return 0
  if ((EUID != 0)); then
    as_root=(sudo -n)
    "${as_root[@]}" true 2>/dev/null ||
      die "system packages are missing and this user may not install them; ask for:" \
        "apt-get install ${missing[*]}"
  fi
  # Those of the tests are 1 GB installed, half as much to download.
  if [[ $with_tests == ON ]]; then needed_mib=2500; else needed_mib=1000; fi
  require_free /usr "$needed_mib" "installing system packages"
  say "installing ${missing[*]}"
  retry "${as_root[@]}" apt-get update -q >&2 || die "apt-get update failed: is the network there?"
  retry "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "${missing[@]}" >&2 ||
    die "apt-get could not install ${missing[*]}; its messages are above"
}

# The system's interpreter rather than the first in PATH: it is the one python3-venv belongs to.
make_environment() {
  if "$python" -c 'import pip' 2>/dev/null; then return; fi
  local interpreter=/usr/bin/python3
  [[ -x $interpreter ]] || interpreter=$(command -v python3) || die "python3 is missing: install it"
  say "creating .venv with $interpreter"
  # --clear: an interrupted or moved environment is made again.
  "$interpreter" -m venv --clear "$repository/.venv" ||
    die "$interpreter -m venv failed: install python3-venv"
}

has() { "$python" "$repository/tools/missing_requirements.py" "$@" >/dev/null; }

pip_install() {
  retry "$python" -m pip install -q --disable-pip-version-check "$@" >&2 ||
    die "pip could not install ($*); its messages are above"
}

install_python_packages() {
  local tools="$repository/tools"
  if [[ $with_tests == ON ]]; then
    if ! has --deep "$tools/requirements-tests.txt"; then
      require_free "$repository" 6000 "the test environment"
      say "installing the tests' Python packages into .venv (about 5 GB, minutes)"
      pip_install -r "$tools/requirements-tests.txt"
    fi
    return
  fi
  if ! has "$tools/requirements.txt"; then
    say "installing the tools' Python packages into .venv"
    pip_install -r "$tools/requirements.txt"
  fi
  if [[ -z ${LIBTORCH_ROOT:-} ]] && ! has "$tools/requirements-libtorch.txt"; then
    require_free "$repository" 2500 "LibTorch"
    say "installing LibTorch into .venv (0.6 GB to download, 1.3 GB on disk)"
    pip_install --no-deps -r "$tools/requirements-libtorch.txt"
  fi
}

check_libtorch() {
  [[ -z ${LIBTORCH_ROOT:-} || -e $LIBTORCH_ROOT/lib/libtorch_cpu.so ]] ||
    die "LIBTORCH_ROOT: expected a directory with lib/libtorch_cpu.so, found $LIBTORCH_ROOT"
}

mention_gpu() {
  if [[ -r /proc/driver/nvidia/version ]] && command -v nvcc >/dev/null; then
    say "an NVIDIA driver and nvcc are here: 'cmake --preset cuda && cmake --build --preset cuda'" \
      "builds for GPUs"
  fi
}

main() {
  local build=yes
  with_tests=OFF
  while (($# > 0)); do
    case $1 in
      --tests) with_tests=ON ;;
      --no-build) build=no ;;
      -h | --help)
        usage
        return
        ;;
      *)
        usage >&2
        say "unknown argument '$1'"
        return 2
        ;;
    esac
    shift
  done
  check_libtorch
  install_system_packages
  make_environment
  install_python_packages
  if [[ $build == yes ]]; then
    [[ -e $repository/build/release ]] || require_free "$repository" 1000 "the build"
    build_preset release "$with_tests"
    mention_gpu
    say "ready: build/release/vaccine"
  fi
}

main "$@"
