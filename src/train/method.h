// A training method: how one global batch becomes a gradient. It declares what it needs besides
// the run's data (streams, vectors, figures, options), and its step is made of an engine's verbs.
// The rest of the program knows a method by its entry in Methods alone.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/option.h"
#include "io/figures.h"
#include "model/model.h"
#include "train/engine.h"
#include "train/model_options.h"

namespace vax::train {

// What a step has made, besides the gradient; the same on every rank.
struct StepOutcome {
  double loss = 0;        // mean token cross entropy of the pass that made the gradient
  double clean_loss = 0;  // of the unperturbed pass; equals loss where there is no other
  double pass1_s = 0;     // of the host, before the pass that makes the gradient; 0 on a device
  // By place in the declaration: figures of one number (empty: not measured), and the others, one
  // number a layer ([layers], or empty: not measured).
  std::vector<std::optional<double>> numbers;
  std::vector<std::vector<double>> layers;
};

// Numbers that a method carries from step to step, by name; what a checkpoint keeps of it.
using MethodState = std::map<std::string, std::vector<double>>;

class Method {
 public:
  virtual ~Method() = default;
  // Makes the gradient of the engine's step: COLLECTIVE, on every rank the same.
  virtual StepOutcome step(Engine& engine) = 0;
  // Bytes that are kept from one pass for another, until the next step.
  virtual int64_t kept_bytes() const { return 0; }
  // Together with the vectors declared as state: all that decides what later steps do. Between
  // steps only. set_state() THROWS DataError for what state() would not give.
  virtual MethodState state() const { return {}; }
  virtual void set_state(const MethodState& state);
};

// A second data stream: rows of the file of this role, sampled like the run's data with a global
// batch of its own.
struct StreamDeclaration {
  std::string role;  // "harmful": data.harmful_path
  int64_t global_batch = 1;
};

// An fp32 vector shaped like the shards of the trainable weights, zero at first.
struct VectorDeclaration {
  std::string name;       // of a checkpoint's array
  bool is_state = false;  // kept in checkpoints
};

struct MethodDeclaration {
  std::vector<StreamDeclaration> streams;
  std::vector<VectorDeclaration> vectors;
  bool moves_weights = false;  // Engine::move(): a copy of the trainable shards is kept
  ProbeDtype probe_dtype = ProbeDtype::kSame;
  std::string probe_option;  // that says so, for messages
  io::Figures figures;       // its columns of run.jsonl and run.h5
  // The steps that the plan looks at: memory is that of the first step, which must be the most
  // demanding; traffic and schedule are those of this one.
  int64_t ordinary_step = 2;
  // Options that make a run steadier when lowered, beside train.lr: for the message of a run that
  // diverges.
  std::vector<std::string> steadied_by;
};

// What a method is made for.
struct MethodContext {
  const model::Model& model;
  const model::Model& probe;  // the same where there is none of its own
  at::Device device;          // where tensors of a step lie; the host for a recorder
  bool has_probe() const { return &model != &probe; }
};

struct MethodEntry {
  std::string name;                      // a legal value of train.method
  SubcommandSet default_of = 0;          // subcommands that take it when none is given
  std::optional<OptionSection> options;  // of its own
  std::function<MethodDeclaration(const Options&)> declare;
  // THROWS ConfigError for options that do not fit the model.
  std::function<std::unique_ptr<Method>(const Options&, const MethodContext&)> make;
};

// The methods that a program knows.
class Methods {
 public:
  // THROWS std::logic_error for a name that is there already.
  void add(MethodEntry entry);
  // THROWS ConfigError naming those that there are.
  const MethodEntry& find(std::string_view name) const;
  const std::vector<MethodEntry>& entries() const { return entries_; }

 private:
  std::vector<MethodEntry> entries_;
};

}  // namespace vax::train
