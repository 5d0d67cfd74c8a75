// Every option of the program as plain data, one struct per section of the configuration. The
// defaults written here are the program's defaults. app/ fills and validates them; the other
// folders only read. An empty optional means "not given": its meaning then stands beside it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace vax {

struct ModelOptions {
  std::string path;   // Hugging Face directory
  std::string dtype;  // of frozen weights and GEMM inputs: fp32 | bf16; "" = fp32, on a GPU bf16
};

struct AdapterOptions {
  std::string type = "lora";  // "lora" | "none" (full parameters)
  int64_t r = 8;
  double alpha = 4;
  double dropout = 0.1;
  std::vector<std::string> targets;  // projection names; empty = all linear layers of a block
  std::string dtype = "fp32";
  std::vector<std::string> merge;  // PEFT directories merged into the base first, in order
  std::string init;                // PEFT directory to go on from
};

struct DataOptions {
  std::string path;
  std::string format = "alpaca";  // "alpaca" | "text"
  // Key "template": alpaca | llama2-chat | vicuna | plain | FILE.
  std::string template_name = "alpaca";
  bool parse_special = false;
  int64_t max_length = 200;        // ids
  std::optional<int64_t> samples;  // all
  int64_t skip = 0;
  bool shuffle = true;
  std::string harmful_path;
  double harmful_ratio = 0;
};

struct TrainOptions {
  std::string method;  // "sft" | "vaccine"; "" = vaccine for align, sft for finetune
  int64_t global_batch = 5;
  std::optional<int64_t> micro_batch;  // rows; the rank's whole share
  std::optional<double> epochs;        // 50 when max_steps is not given either
  std::optional<int64_t> max_steps;
  double lr = 1e-3;
  double weight_decay = 0.1;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  std::string schedule = "cosine";  // cosine | linear | constant
  double warmup_ratio = 0.1;
  double clip = 1.0;               // largest L2 norm of the gradient; 0 = no clipping
  std::string recompute = "none";  // none | pass2 | all
  uint64_t seed = 42;
};

// METHOD: eps_l = rho * G_l / (sqrt(S) + 1e-7).
struct VaccineOptions {
  double rho = 2.0;
  std::string norm_scope = "global";   // global | rank | micro: where S is summed
  std::string direction = "token";     // token | shared
  int64_t interval = 1;                // two passes when (step - 1) % interval == 0
  std::vector<int64_t> layers;         // 0-based; empty = all
  std::string probe_dtype = "same";    // of pass 1: same (as the training) | bf16 | fp8
  int64_t probe_check_interval = 100;  // steps between measurements of the probe's cosine; 0: never
  std::string dropout_mask = "same";   // same | fresh
};

struct ShardOptions {
  std::string frozen = "full";        // replicate | node | full
  std::string trainable = "full";     // replicate | node | full
  std::optional<int64_t> group_size;  // ranks a unit is spread over; all
  double residency_gib = 0;           // gathered units kept beyond those in use
  int64_t prefetch = 1;               // units gathered ahead
};

struct DriftOptions {
  std::string path;  // data.path
  int64_t samples = 50;
  int64_t batch = 5;
  int64_t interval = 0;  // steps; 0 = only at the end
  // What `vaccine drift` compares model.path + adapter.merge with.
  std::string reference_path;                // model.path
  std::vector<std::string> reference_merge;  // none
};

struct EvalOptions {
  std::string harmful_path;
  std::string task_path;
  std::string task = "label";  // label | sst2 | agnews | gsm8k
  std::string alignment_path;
  std::string benign_path;
  std::string judge = "match";  // match | keywords
  std::string judge_path;
  int64_t max_new_tokens = 128;
  std::optional<int64_t> samples;  // per file; all
  int64_t batch = 16;
};

struct PlanOptions {
  std::optional<int64_t> ranks;           // those that run the planner
  std::optional<int64_t> ranks_per_node;  // all
  bool schedule = false;                  // print the gathers of a step
};

struct CheckpointOptions {
  int64_t interval = 0;         // steps; 0 = only on request
  int64_t keep = 2;             // newest ones that pruning leaves, at least 2
  std::string resume = "none";  // auto | none | PATH of a step-NNNNNN directory
  // The trainable weights alone; false: the frozen ones too. true for lora, all are trained else.
  std::optional<bool> adapter_only;
  std::string path;  // what `vaccine export` reads; empty: model.path alone
  std::vector<std::string> signals = {"USR1", "TERM"};  // that ask for a checkpoint and a stop
  double stop_limit_s = 300;  // from such a signal on; then the process ends itself
};

struct OutputOptions {
  std::string dir;
  int64_t log_interval = 1;  // steps between progress lines
};

struct RuntimeOptions {
  std::optional<int64_t> threads;   // per rank; cores / local ranks
  std::string device = "auto";      // auto | cpu | cuda
  std::string progress = "thread";  // thread | poll: who drives MPI while a rank computes
  double timeout_s = 600;           // of one wait for other ranks; 0 = for ever
  std::string graphs = "auto";      // auto | on | off: passes are captured and replayed on a GPU
};

// Keys of config.json for `vaccine init`; named as there.
struct InitOptions {
  int64_t vocab_size = 0;  // 0 = the tokenizer's
  int64_t hidden_size = 128;
  int64_t intermediate_size = 352;
  int64_t num_hidden_layers = 4;
  int64_t num_attention_heads = 4;
  std::optional<int64_t> num_key_value_heads;  // num_attention_heads
  std::optional<int64_t> head_dim;             // hidden_size / num_attention_heads
  int64_t max_position_embeddings = 2048;
  double rms_norm_eps = 1e-5;
  double rope_theta = 10000;
  bool tie_word_embeddings = false;
  bool attention_bias = false;
  double initializer_range = 0.02;
  std::string tokenizer_path;  // tokenizer.model
  uint64_t seed = 42;
};

struct Options {
  std::string subcommand;
  ModelOptions model;
  AdapterOptions adapter;
  DataOptions data;
  TrainOptions train;
  VaccineOptions vaccine;
  ShardOptions shard;
  DriftOptions drift;
  EvalOptions eval;
  PlanOptions plan;
  CheckpointOptions checkpoint;
  OutputOptions output;
  RuntimeOptions runtime;
  InitOptions init;
};

}  // namespace vax
