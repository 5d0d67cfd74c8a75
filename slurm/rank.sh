#!/usr/bin/env bash
# rank.sh FILE COMMAND...: one rank of a job, under srun or mpirun. A rank that fails ends the others
# (srun --kill-on-bad-exit, mpirun by itself), but a stop on request and bad input end all ranks in
# an orderly way and with one code: srun would kill the slower ones and report 143. So these codes go
# to FILE and the rank ends with 0. Success is written there, too: a file without a code is none.
set -uo pipefail

file=$1
shift
# The signals reach the whole process group: the program acts on them, this shell outlives them.
trap : USR1 TERM
"$@"
code=$?
case $code in
  0 | 2 | 75)
    if echo "$code" >"$file"; then exit 0; fi
    echo "rank.sh: cannot write exit code $code to $file" >&2
    ((code != 0)) || code=1
    ;;
esac
exit "$code"
