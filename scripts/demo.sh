#!/usr/bin/env bash
# The program's main job in minutes, on a synthetic world with placeholder content: pre-trains a
# 1 M parameter Llama, aligns it once with SFT and once with Vaccine on two ranks, fine-tunes both
# on user data of which a tenth is harmful, and prints what became of their alignment.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
usage: scripts/demo.sh [--seed N] [--output DIR] [--probe] [--skip-setup]
  --seed N       of the initial weights, the order of the data and dropout (default 42)
  --output DIR   (default demo-output in the repository); a former demo's files there are replaced
  --probe        a third arm: Vaccine with its first pass in bf16
  --skip-setup   use build/release/vaccine and .venv as they are
TEXT
}

seed=42
output="$repository/demo-output"
vaccine="$repository/build/release/vaccine"
configs="$repository/configs"
ranks=2
marker=.vaccine-demo  # in every directory this script made; nothing else is ever deleted

parse_arguments() {
  skip_setup=no
  with_probe=no
  while (($# > 0)); do
    case $1 in
      --seed | --output)
        (($# >= 2)) || die "$1: expected a value"
        if [[ $1 == --seed ]]; then seed=$2; else output=$(realpath -m -- "$2"); fi
        shift
        ;;
      --probe) with_probe=yes ;;
      --skip-setup) skip_setup=yes ;;
      -h | --help)
        usage
        exit 0
        ;;
      *)
        usage >&2
        die "unknown argument '$1'"
        ;;
    esac
    shift
  done
  [[ $seed =~ ^[0-9]{1,18}$ ]] || die "--seed: expected a whole number of at least 0, found '$seed'"
}

prepare_output() {
  if [[ -e $output && ! -d $output ]]; then
    die "--output: expected a directory, found the file $output"
  fi
  if [[ -d $output && ! -e $output/$marker && -n $(ls -A "$output") ]]; then
    die "--output: $output holds files that are not a demo's; name another directory"
  fi
  mkdir -p "$output"
  find "$output" -mindepth 1 -delete
  touch "$output/$marker"
  mkdir "$output/logs"
}

# stage NAME TITLE COMMAND...: progress on the terminal, everything in logs/NAME.txt.
stage() {
  local name=$1 title=$2 began=$SECONDS log="$output/logs/$1.txt"
  shift 2
  printf '[%4d s] %s\n' $((SECONDS - started)) "$title"
  if ! "$@" 2>&1 | tee "$log" | sed -u 's/^/         | /'; then
    die "$name failed; everything it said: $log"
  fi
  printf '         done in %d s\n' $((SECONDS - began))
}

# The program on RANKS ranks of one thread each.
on_ranks() {
  mpirun -n "$ranks" --oversubscribe --bind-to none "$vaccine" "$@" --runtime.threads 1 </dev/null
}

train() {
  local subcommand=$1 config=$2 target=$3
  shift 3
  on_ranks "$subcommand" --config "$configs/$config.cfg" --output.dir "$output/$target" \
    --output.log_interval 100 --train.seed "$seed" "$@"
}

# evaluate NAME ADAPTERS: scores of the base with a comma-separated list of adapters merged.
evaluate() {
  local name=$1 adapters=$2
  on_ranks eval --config "$configs/demo-eval.cfg" --model.path "$base" --adapter.merge "$adapters" \
    --eval.harmful_path "$world/eval_harmful.jsonl" --eval.task_path "$world/eval_sentiment.jsonl" \
    --eval.alignment_path "$world/eval_refusals.jsonl" \
    --eval.benign_path "$world/eval_benign.jsonl" --output.dir "$output/eval-$name"
}

make_base() {
  stage world "generating the world" "$python" "$repository/tools/make_miniature.py" "$world"
  stage init "random weights" "$vaccine" init --init.hidden_size 128 --init.intermediate_size 352 \
    --init.num_hidden_layers 4 --init.num_attention_heads 4 --init.max_position_embeddings 128 \
    --init.tokenizer_path "$world/tokenizer.model" --init.seed "$seed" \
    --output.dir "$output/base-init"
  stage pretrain "pre-training, all weights" train align demo-pretrain pretrain \
    --model.path "$output/base-init" --data.path "$world/pretrain.jsonl"
  stage eval-base "scoring the base model" evaluate base ""
}

# One arm of the comparison: align, score, attack, score, drift. METHOD names its directories,
# CONFIG is sft or vaccine.
run_method() {
  local method=$1 label=$2 config=$3
  shift 3
  local aligned="$output/align-$method/adapter" attacked="$output/attack-$method/adapter"
  stage "align-$method" "$label: alignment on $ranks ranks" \
    train align "demo-align-$config" "align-$method" \
    --model.path "$base" --data.path "$world/align.jsonl" "$@"
  stage "eval-align-$method" "$label: scores before the attack" \
    evaluate "align-$method" "$aligned"
  stage "attack-$method" "$label: fine-tuning on user data, 10 % harmful" \
    train finetune demo-finetune "attack-$method" --model.path "$base" --adapter.merge "$aligned" \
    --data.path "$world/sentiment_finetune.jsonl" --data.harmful_ratio 0.1 \
    --data.harmful_path "$world/harmful_finetune.jsonl"
  stage "eval-attack-$method" "$label: scores after the attack" \
    evaluate "attack-$method" "$aligned,$attacked"
  stage "drift-$method" "$label: drift of the alignment data's hidden states" \
    on_ranks drift --model.path "$base" --model.dtype fp32 --adapter.merge "$aligned,$attacked" \
    --drift.reference_merge "$aligned" --data.path "$world/align.jsonl" --data.template plain \
    --output.dir "$output/drift-$method"
}

main() {
  parse_arguments "$@"
  [[ $skip_setup == yes ]] || "$repository/scripts/setup.sh"
  [[ -x $vaccine ]] || die "$vaccine is missing: run scripts/setup.sh"
  mpi_environment
  prepare_output
  world="$output/world"
  base="$output/pretrain/model"
  started=$SECONDS
  make_base
  run_method sft "SFT" sft
  run_method vaccine "Vaccine" vaccine
  if [[ $with_probe == yes ]]; then
    run_method vaccine-probe "Vaccine, bf16 pass 1" vaccine --vaccine.probe_dtype bf16
  fi
  printf '[%4d s] all stages done\n\n' $((SECONDS - started))
  "$python" "$repository/tools/demo_table.py" "$output"
}

main "$@"
