#!/usr/bin/env bash
# Submits one stage as a Slurm job with the settings of the site. The job's id goes to standard
# output, everything else to standard error.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly kStages="align finetune eval"

usage() {
  cat <<'TEXT'
usage: slurm/submit.sh align|finetune|eval [option]... --config FILE [--section.key VALUE]...
  --site FILE    settings (default slurm/site.conf)
  --after JOB    starts when that job has ended with 0; cancelled when it failed
  --nodes N      in place of VAX_NODES
  --time T       in place of VAX_TIME
  --dry-run      prints the sbatch command, submits nothing
Everything else goes to the program. Relative paths start at the current directory.
TEXT
}

parse_arguments() {
  stage=${1-} after="" nodes="" time="" dry_run=no program_options=()
  if [[ $stage == -h || $stage == --help ]]; then
    usage
    exit 0
  fi
  # shellcheck disable=SC2086  # a list of words
  one_of "$stage" $kStages || die "expected one of: $kStages; found '$stage' (--help shows more)"
  shift
  while (($# > 0)); do
    case $1 in
      --site | --after | --nodes | --time)
        (($# >= 2)) || die "$1: expected a value"
        case $1 in
          --site) VAX_SITE=$(realpath -m -- "$2") ;;
          --after) after=$2 ;;
          --nodes) nodes=$2 ;;
          --time) time=$2 ;;
        esac
        shift
        ;;
      --dry-run) dry_run=yes ;;
      *) program_options+=("$1") ;;
    esac
    shift
  done
}

# Sets `command`.
compose_command() {
  command=(sbatch --parsable "--job-name=vaccine-$stage" "--output=$VAX_LOGS/%x-%j.log"
    "--nodes=$VAX_NODES" "--ntasks-per-node=$VAX_TASKS_PER_NODE"
    "--cpus-per-task=$VAX_CPUS_PER_TASK" "--time=$VAX_TIME")
  [[ -z $VAX_PARTITION ]] || command+=("--partition=$VAX_PARTITION")
  [[ -z $VAX_ACCOUNT ]] || command+=("--account=$VAX_ACCOUNT")
  [[ -z $VAX_MEMORY ]] || command+=("--mem=$VAX_MEMORY")
  ((VAX_GPUS_PER_NODE == 0)) || command+=("--gres=gpu:$VAX_GPUS_PER_NODE")
  # Under srun the ranks are signalled directly; mpirun's are reached through the script.
  if [[ $stage != eval && $VAX_LAUNCHER == srun ]]; then
    command+=("--signal=USR1@$VAX_WARNING_S")
  elif [[ $stage != eval ]]; then
    command+=("--signal=B:USR1@$VAX_WARNING_S")
  fi
  # Without the second one Slurm keeps a job whose dependency can never be fulfilled for ever.
  [[ -z $after ]] || command+=("--dependency=afterok:$after" --kill-on-invalid-dep=yes)
  command+=("${VAX_SBATCH_OPTIONS[@]}" "$repository/slurm/$stage.sbatch" "${program_options[@]}")
}

main() {
  parse_arguments "$@"
  load_site
  VAX_NODES=${nodes:-$VAX_NODES} VAX_TIME=${time:-$VAX_TIME}
  check_settings
  [[ -z $after || $after =~ ^[0-9]+$ ]] || die "--after: expected the number of a job, found '$after'"
  local output job
  output=$(require_output "${program_options[@]}")
  compose_command
  if [[ $dry_run == yes ]]; then
    printf '%q ' "${command[@]}"
    echo
    return
  fi
  # The modules may bring the program, so that only a path can be checked here.
  [[ -x $VAX_PROGRAM || ${#VAX_PREFIX[@]} -gt 0 || ${#VAX_MODULES[@]} -gt 0 ]] ||
    die "$site: VAX_PROGRAM: no program $VAX_PROGRAM: scripts/setup.sh builds it"
  mkdir -p "$VAX_LOGS"
  export VAX_REPOSITORY=$repository VAX_SITE=$site
  job=$("${command[@]}") || die "sbatch refused; its message is above"
  job=${job%%;*}  # several clusters: ID;CLUSTER
  say "job $job: $stage into $output, log $VAX_LOGS/vaccine-$stage-$job.log"
  echo "$job"
}

main "$@"
