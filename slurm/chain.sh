#!/usr/bin/env bash
# Submits a chain of three jobs: align, then finetune on top of the aligned adapter, then eval of the
# base with both adapters merged. Prints the three job ids.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
usage: slurm/chain.sh --output DIR --align FILE --finetune FILE --eval FILE [--site FILE]
                      [--dry-run] [--section.key VALUE]...
  --output DIR                the stages write DIR/align, DIR/finetune and DIR/eval
  --align, --finetune, --eval configuration of a stage; may be given again, later files win
  --section.key VALUE         an option of all three stages, such as --model.path
A stage starts when the one before has ended with 0, and is cancelled when that failed. The adapters
are handed on by adapter.merge, whatever the files say there.
TEXT
}

parse_arguments() {
  output="" submit_options=() common=() align=() finetune=() eval=()
  while (($# > 0)); do
    case $1 in
      -h | --help)
        usage
        exit 0
        ;;
      --dry-run)
        submit_options+=(--dry-run)
        shift
        continue
        ;;
    esac
    (($# >= 2)) || die "$1: expected a value"
    case $1 in
      --output) output=$2 ;;
      --site) submit_options+=(--site "$2") ;;
      --align) align+=(--config "$2") ;;
      --finetune) finetune+=(--config "$2") ;;
      --eval) eval+=(--config "$2") ;;
      --output.dir | --adapter.merge) die "$1: the chain sets it; see --output" ;;
      --*.*) common+=("$1" "$2") ;;
      *) die "unknown argument '$1' (--help shows the usage)" ;;
    esac
    shift 2
  done
  [[ -n $output ]] || die "--output is missing (--help shows the usage)"
  ((${#align[@]} * ${#finetune[@]} * ${#eval[@]} > 0)) ||
    die "each of --align, --finetune and --eval needs a file (--help shows the usage)"
}

# Whole models are handed on by model.path, which is one option for all stages here.
require_adapters() {
  local type
  type=$(option_value adapter.type "$@") || return 0
  [[ $type == lora ]] || die "the chain hands on LoRA adapters, found adapter.type = $type: submit" \
    "the stages one by one with slurm/submit.sh and --after"
}

submit() { "$repository/slurm/submit.sh" "$@" "${submit_options[@]}" "${common[@]}"; }

main() {
  parse_arguments "$@"
  require_adapters "${align[@]}" "${common[@]}"
  require_adapters "${finetune[@]}" "${common[@]}"
  local aligned=$output/align/adapter attacked=$output/finetune/adapter first second after=()
  first=$(submit align "${align[@]}" --output.dir "$output/align")
  echo "$first"
  [[ ! $first =~ ^[0-9]+$ ]] || after=(--after "$first")
  second=$(submit finetune "${after[@]}" "${finetune[@]}" --adapter.merge "$aligned" \
    --output.dir "$output/finetune")
  echo "$second"
  [[ ! $second =~ ^[0-9]+$ ]] || after=(--after "$second")
  submit eval "${after[@]}" "${eval[@]}" --adapter.merge "$aligned,$attacked" \
    --output.dir "$output/eval"
}

main "$@"
