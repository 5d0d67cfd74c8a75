# shellcheck shell=bash
# One start of a stage inside a Slurm job, for the .sbatch files; sourced, never run. A job is
# started as often as it takes: every start resumes from the newest checkpoint.

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly kRankFailed=3 kStopped=75  # exit codes of the program, with kBadInput

# Every line here has its reason in README.md, "Environment".
set_environment() {
  export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
  export OMP_PROC_BIND=${OMP_PROC_BIND:-false}
  export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
  if [[ -n $VAX_INTERFACE ]]; then
    export NCCL_SOCKET_IFNAME=$VAX_INTERFACE
    export OMPI_MCA_btl_tcp_if_include=$VAX_INTERFACE OMPI_MCA_oob_tcp_if_include=$VAX_INTERFACE
  fi
  if [[ $VAX_LAUNCHER == srun ]]; then export SRUN_CPUS_PER_TASK=$cpus_per_task; fi
  if ((${#VAX_MODULES[@]} > 0)); then
    declare -F module >/dev/null || die "$site: VAX_MODULES is set, but there is no 'module' command"
    module load "${VAX_MODULES[@]}" || die "$site: VAX_MODULES: 'module load ${VAX_MODULES[*]}' failed"
  fi
}

# Sets `launch`, the launcher with its options.
choose_launcher() {
  if [[ $VAX_LAUNCHER == srun ]]; then
    launch=(srun "--mpi=$VAX_SRUN_MPI" --kill-on-bad-exit=1 "--cpu-bind=$VAX_BIND")
  elif [[ $VAX_BIND == cores ]]; then
    launch=(mpirun -n "$SLURM_NTASKS" --map-by "slot:PE=$cpus_per_task" --bind-to core)
  else
    launch=(mpirun -n "$SLURM_NTASKS" --map-by slot --bind-to none)
  fi
  launch+=("${VAX_LAUNCHER_OPTIONS[@]}")
}

# Sets `options`: the user's, and after them what makes a job restartable where he said nothing.
complete_options() {
  local name value
  options=("$@")
  while read -r name value; do
    option_value "$name" "$@" >/dev/null || options+=("--$name" "$value")
  done < <(
    echo "runtime.threads $cpus_per_task"
    [[ $stage == eval ]] || printf '%s\n' "checkpoint.resume auto" \
      "checkpoint.interval $VAX_CHECKPOINT_INTERVAL" "checkpoint.keep $VAX_CHECKPOINT_KEEP"
  )
}

# Gives the ranks' step another number in every start. Slurm numbers steps from 0 again; where a node
# died, the socket that its pmix plugin left in the spool folder is in the way of a step of the same
# number ("Address already in use"), and the job could never start there again.
skip_used_steps() {
  local used
  for ((used = 0; used < restarts; used++)); do
    srun --mpi=none --nodes=1 --ntasks=1 true || say "step $used failed"
  done
}

# Ends the script with the reason why the job is not requeued.
give_up() {
  say "not requeued: $*. Jobs that wait for this one by afterok are cancelled."
  exit "$code"
}

# Refuses a start that nobody wants or that would only repeat a crash. Slurm requeues after the fault
# of a node without asking check_requeue.
check_start() {
  local stalled
  # Only Slurm requeues with a stop file there: touched while the job waited or its node was dead.
  # At a first start the file is an old one, and the program removes it.
  if ((restarts > 0)) && [[ -e $output/stop ]]; then
    say "not started again: $output/stop is there. Submit again to go on."
    exit "$kStopped"
  fi
  code=1
  ((restarts <= VAX_MAX_REQUEUES)) ||
    give_up "restart $restarts is one more than VAX_MAX_REQUEUES allows; submit again to go on"
  echo "$step restart=$restarts $(date '+%FT%T') ${SLURM_JOB_NODELIST-}" >>"$starts"
  stalled=$(stalled_starts "$starts" "$step")
  ((stalled <= VAX_MAX_STALLED)) ||
    give_up "$((stalled - 1)) starts ended without a checkpoint newer than step $step, see above"
}

# Sets `code` to what the ranks wrote (rank.sh). The file lies where others may write: nothing but a
# code that rank.sh writes is taken from it, and without one the ranks have not succeeded.
read_code() {
  local text=""
  read -r text <"$code_file" || true
  code=1
  if [[ $text =~ ^(0|2|75)$ ]]; then
    code=$text
  else
    say "the ranks left no exit code in $code_file"
  fi
}

# Runs the ranks; sets `code`. Bash ends `wait` when a trapped signal arrives, and the ranks still
# run then.
run_ranks() {
  local launcher="" interrupted=yes
  cancelled=no code=1
  { rm -f "$code_file" && : >"$code_file"; } || give_up "cannot write $code_file"
  trap 'interrupted=yes; say "USR1: to the ranks"; kill -USR1 "$launcher" 2>/dev/null || true' USR1
  # The ranks or mpirun have it, too. A script that ended now would take their time to save.
  trap 'interrupted=yes; cancelled=yes' TERM
  "${launch[@]}" "$repository/slurm/rank.sh" "$code_file" "${VAX_PREFIX[@]}" "$VAX_PROGRAM" \
    "$stage" "${options[@]}" &
  launcher=$!
  while [[ $interrupted == yes ]]; do
    interrupted=no code=0
    wait "$launcher" || code=$?
  done
  trap - USR1
  if ((code == 0)); then read_code; fi
  rm -f "$code_file"
}

# Whether a rank died or lost the others, which another start may survive. 126 and 127 are the
# shell's: the program could not be started.
rank_failed() { ((code == kRankFailed || code > 128)); }

check_requeue() {
  local now stalled
  [[ $cancelled == no ]] || give_up "the job got TERM (cancelled, preempted or out of time)"
  ((code != kBadInput)) || give_up "an option or an input file is wrong, see above"
  ((code == kStopped)) || rank_failed || give_up "exit code $code"
  [[ ! -e $output/stop ]] || give_up "$output/stop asks for the end; submit again to go on"
  ((restarts < VAX_MAX_REQUEUES)) ||
    give_up "$restarts restarts are what VAX_MAX_REQUEUES allows; submit again to go on"
  now=$(newest_step "$output")
  stalled=$(stalled_starts "$starts" "$now")
  ((stalled < VAX_MAX_STALLED)) ||
    give_up "no checkpoint newer than step $now after $stalled starts (crash loop?)"
  say "exit code $code, newest checkpoint: step $now (this start began at $step)"
}

# Slurm ends this script once it has requeued the job, which then waits for as long as credentials
# last (AuthInfo=cred_expire, 120 s unless the site says otherwise).
requeue() {
  say "requeueing job $SLURM_JOB_ID"
  trap - TERM
  scontrol requeue "$SLURM_JOB_ID" || give_up "scontrol requeue failed; submit again to go on"
  sleep 300
  give_up "Slurm did not end this script within 300 s of scontrol requeue"
}

# run_stage STAGE ARGUMENT...: the whole of a start. Ends the script.
run_stage() {
  stage=$1
  shift
  [[ -n ${SLURM_JOB_ID-} ]] || die "not inside a job: use slurm/submit.sh $stage, or sbatch"
  load_site
  cpus_per_task=${SLURM_CPUS_PER_TASK:-1} restarts=${SLURM_RESTART_COUNT:-0}
  [[ $restarts =~ ^(0|[1-9][0-9]{0,8})$ ]] ||
    die "SLURM_RESTART_COUNT: expected a whole number, found '$restarts'"
  output=$(require_output "$@")
  step=$(newest_step "$output")
  mkdir -p "$VAX_LOGS" || die "$site: VAX_LOGS: cannot make the directory $VAX_LOGS in $PWD"
  starts=$VAX_LOGS/$SLURM_JOB_NAME-$SLURM_JOB_ID.starts
  code_file=$VAX_LOGS/$SLURM_JOB_NAME-$SLURM_JOB_ID.code
  complete_options "$@"
  set_environment
  choose_launcher
  check_start
  say "job $SLURM_JOB_ID, restart $restarts, nodes ${SLURM_JOB_NODELIST-}, newest checkpoint: step $step"
  say "$VAX_PROGRAM $stage ${options[*]}"
  skip_used_steps
  run_ranks
  if ((code == 0)); then
    say "done"
    exit 0
  fi
  check_requeue
  requeue
}
