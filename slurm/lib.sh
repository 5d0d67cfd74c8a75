# shellcheck shell=bash
# Functions shared by the scripts of this folder; sourced, never run: reading the settings of the
# site, reading the program's options, and one start of a stage inside a job.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly kBadInput=2  # exit code, the program's too
readonly kSettings="VAX_PROGRAM VAX_LAUNCHER VAX_NODES VAX_TASKS_PER_NODE VAX_CPUS_PER_TASK
  VAX_GPUS_PER_NODE VAX_TIME VAX_MEMORY VAX_PARTITION VAX_ACCOUNT VAX_SBATCH_OPTIONS VAX_MODULES
  VAX_PREFIX VAX_LAUNCHER_OPTIONS VAX_SRUN_MPI VAX_BIND VAX_INTERFACE VAX_LOGS VAX_WARNING_S
  VAX_CHECKPOINT_INTERVAL VAX_CHECKPOINT_KEEP VAX_MAX_REQUEUES VAX_MAX_STALLED"

# To standard error, which is the job's log; standard output is a script's result.
say() { printf '%s %s: %s\n' "$(date '+%F %T')" "${SLURM_JOB_NAME:-${0##*/}}" "$*" >&2; }

die() {
  say "error: $*"
  exit "$kBadInput"
}

one_of() {
  local word=$1 other
  shift
  for other in "$@"; do
    [[ $word != "$other" ]] || return 0
  done
  return 1
}

# require_match NAME REGEX EXPECTED: of a setting.
require_match() {
  local value=${!1-}
  [[ $value =~ ^($2)$ ]] || die "$site: $1: expected $3, found '$value'"
}

check_names() {
  local name
  while read -r name; do
    # shellcheck disable=SC2086  # a list of words
    one_of "$name" $kSettings || die "$site: unknown setting $name; known:" $kSettings
  done < <(sed -nE 's/^[[:space:]]*(VAX_[A-Za-z0-9_]*)\+?=.*/\1/p' "$site")
}

check_settings() {
  local count='[1-9][0-9]{0,8}' word='[^[:space:]]+'
  require_match VAX_LAUNCHER 'srun|mpirun' "srun or mpirun"
  require_match VAX_NODES "$count" "a whole number of at least 1"
  require_match VAX_TASKS_PER_NODE "$count" "a whole number of at least 1"
  require_match VAX_TIME '[0-9]+|([0-9]+-)?[0-9]+:[0-9]+(:[0-9]+)?|[0-9]+-[0-9]+' \
    "a time limit of Slurm, such as 24:00:00"
  require_match VAX_CPUS_PER_TASK "$count" "a whole number of at least 1"
  require_match VAX_GPUS_PER_NODE '0|[1-9][0-9]{0,3}' "a whole number"
  require_match VAX_MEMORY '|[0-9]+[KMGT]?' "memory of a node, such as 64G, or nothing"
  require_match VAX_PARTITION "|$word" "one word or nothing"
  require_match VAX_ACCOUNT "|$word" "one word or nothing"
  require_match VAX_SRUN_MPI "$word" "a plugin that 'srun --mpi=list' names"
  require_match VAX_BIND 'cores|none' "cores or none"
  require_match VAX_INTERFACE "|$word" "a network interface or nothing"
  require_match VAX_LOGS '.+' "a directory"
  require_match VAX_WARNING_S '[0-9]{1,4}|[1-5][0-9]{4}' "seconds, at most 59999"
  require_match VAX_CHECKPOINT_INTERVAL "$count" "a whole number of steps, at least 1"
  require_match VAX_CHECKPOINT_KEEP "$count" "a whole number of at least 1"
  require_match VAX_MAX_REQUEUES '0|[1-9][0-9]{0,5}' "a whole number"
  require_match VAX_MAX_STALLED "$count" "a whole number of at least 1"
}

# Reads the settings file; $VAX_SITE names another one than site.conf of this folder.
load_site() {
  site=${VAX_SITE:-$repository/slurm/site.conf}
  [[ -r $site ]] || die "no settings file $site: copy slurm/site.conf.example there and fill it in"
  unset VAX_LAUNCHER VAX_NODES VAX_TASKS_PER_NODE VAX_TIME  # required: the file must say them
  VAX_PROGRAM=build/release/vaccine VAX_CPUS_PER_TASK=1 VAX_GPUS_PER_NODE=0 VAX_MEMORY=""
  VAX_PARTITION="" VAX_ACCOUNT="" VAX_SBATCH_OPTIONS=() VAX_MODULES=() VAX_PREFIX=()
  VAX_LAUNCHER_OPTIONS=() VAX_SRUN_MPI=pmix VAX_BIND=cores VAX_INTERFACE="" VAX_LOGS=slurm-logs
  VAX_WARNING_S=300 VAX_CHECKPOINT_INTERVAL=50 VAX_CHECKPOINT_KEEP=2 VAX_MAX_REQUEUES=20
  VAX_MAX_STALLED=2
  check_names
  # shellcheck source-path=SCRIPTDIR source=site.conf.example
  source "$site" || die "$site: bash could not read it; its message is above"
  check_settings
  [[ $VAX_PROGRAM == /* ]] || VAX_PROGRAM=$repository/$VAX_PROGRAM
}

# config_value NAME FILE: of section.key in a configuration file of the program.
config_value() {
  awk -v wanted="$1" '
    { sub(/#.*/, ""); gsub(/^[ \t\r]+|[ \t\r]+$/, "") }
    /^\[.*\]$/ { section = substr($0, 2, length($0) - 2) "."; next }
    (at = index($0, "=")) {
      key = substr($0, 1, at - 1); value = substr($0, at + 1)
      sub(/[ \t]+$/, "", key); sub(/^[ \t]+/, "", value)
      if (section key == wanted) { found = 1; result = value }
    }
    END { if (found) print result; exit !found }' "$2"
}

# option_value NAME ARGUMENT...: what the program will take for section.key: the command line wins,
# then the last configuration file. Status 1 when nobody sets it.
option_value() {
  local name=$1 argument in_file="" from_file=no line
  shift
  while (($# > 0)); do
    argument=$1
    shift
    case $argument in
      "--$name="*)
        echo "${argument#*=}"
        return
        ;;
      --config=*) set -- --config "${argument#*=}" "$@" ;;
      "--$name")
        echo "${1-}"
        return
        ;;
      --config)
        [[ -r ${1-} ]] || die "--config: cannot read '${1-}' (in $PWD)"
        if line=$(config_value "$name" "$1"); then
          in_file=$line
          from_file=yes
        fi
        shift
        ;;
    esac
  done
  [[ $from_file == yes ]] || return 1
  echo "$in_file"
}

require_output() {
  option_value output.dir "$@" || die "output.dir is neither on the command line nor in a" \
    "configuration file: add --output.dir DIRECTORY"
}

# Number of the newest checkpoint's step in an output directory; 0 when there is none. Unfinished
# checkpoints have other names.
newest_step() {
  local path newest=0
  for path in "$1"/checkpoints/step-*; do
    [[ ${path##*/} =~ ^step-([0-9]+)$ ]] || continue
    if ((10#${BASH_REMATCH[1]} > newest)); then newest=$((10#${BASH_REMATCH[1]})); fi
  done
  echo "$newest"
}

# stalled_starts FILE STEP: how many of this job's last starts, without a gap, began at that step.
stalled_starts() {
  tac "$1" | awk -v step="$2" '$1 != step { exit } { n++ } END { print n + 0 }'
}
