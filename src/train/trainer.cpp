#include "train/trainer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/narrow.h"
#include "base/stopwatch.h"
#include "ops/device/runtime.h"
#include "train/lr_schedule.h"
#include "train/tensor_memory.h"

namespace vax::train {
namespace {

// Tokens and labels of the whole global batch, from the data that every rank holds.
void count_tokens(const data::Dataset& dataset, std::span<const int64_t> rows,
                  io::StepRecord& record) {
  record.sequences = narrow<int64_t>(rows.size());
  for (const int64_t row : rows) {
    const data::Sample& sample = dataset.samples[static_cast<size_t>(row)];
    record.tokens += sample.size();
    record.label_tokens += sample.num_labels();
  }
}

// Those that train/step_figures.h declares.
void add_figures(const StepOutcome& outcome, double rho, io::StepRecord& record) {
  std::vector<double>& layer_grad_norm = record.layer_figures.emplace_back();
  double sum = 0;
  for (const double square : outcome.layer_squares) {
    layer_grad_norm.push_back(std::sqrt(square));
    sum += square;
  }
  const bool two_pass = !layer_grad_norm.empty();
  record.figures = {two_pass ? std::optional(std::sqrt(sum)) : std::nullopt, two_pass ? rho : 0.0,
                    outcome.probe_cosine};
}

// Passes that gather nothing, on a device, over batches so small that launching their operators
// costs about as much as the operators.
bool may_use_graphs(const TrainerInputs& in) {
  if (!ops::device::is_selected() || in.graphs == Graphs::kOff) return false;
  const bool gathers = in.mesh.world->size() > 1 || in.state.num_slots() > 0;
  if (in.graphs == Graphs::kOn) {
    if (gathers)
      throw ConfigError(
          "runtime.graphs: expected auto or off (the passes gather weights: several ranks, or "
          "parameters that are computed with in another type than they are stored in), found on");
    return true;
  }
  constexpr int64_t kMostTokens = 4096;
  const int64_t micro_batch = in.train.micro_batch.value_or(in.train.global_batch);
  return !gathers && micro_batch * in.data.max_length <= kMostTokens;
}

}  // namespace

int64_t num_training_steps(const TrainOptions& options, int64_t steps_per_epoch) {
  if (options.max_steps) return *options.max_steps;
  VAX_CHECK(options.epochs.has_value());
  return static_cast<int64_t>(std::ceil(*options.epochs * static_cast<double>(steps_per_epoch)));
}

Trainer::Trainer(const TrainerInputs& inputs)
    : in_(inputs),
      sampler_({.num_rows = in_.dataset.size(),
                .global_batch = in_.train.global_batch,
                .seed = in_.train.seed,
                .shuffle = in_.data.shuffle}),
      num_steps_(num_training_steps(in_.train, sampler_.steps_per_epoch())),
      gradients_(*in_.mesh.reduce, in_.state.trainable().unit_layout(), in_.state.model().device(),
                 in_.mesh.trainable_node ? &*in_.mesh.trainable_node : nullptr),
      sink_(in_.state.trainable(), gradients_),
      optimizer_(in_.state.trainable(), gradients_, in_.train),
      method_(in_.make_method({.update = in_.state.update_model(),
                               .probe = in_.state.probe_model(),
                               .gradients = sink_,
                               .world = *in_.mesh.world,
                               .train = in_.train,
                               .dropout = in_.dropout,
                               .calls = in_.mesh.calls.get(),
                               .device_world = in_.mesh.device_world.get(),
                               .use_graphs = may_use_graphs(in_)})) {}

std::optional<io::DriftRecord> Trainer::observe_drift(int64_t step) {
  if (!in_.measure_drift) return std::nullopt;
  in_.state.begin_step({});
  in_.mesh.calls->set_phase("drift");
  return in_.measure_drift(step, step == num_steps_);
}

void Trainer::check_batches() {
  if (in_.dataset.num_without_labels == 0) return;
  for (int64_t step = 1; step <= num_steps_; ++step) {
    io::StepRecord record;
    count_tokens(in_.dataset, sampler_.rows_of_step(step).rows, record);
    if (record.label_tokens == 0)
      throw DataError(cat("step ", step,
                          ": no row of the global batch has a label left (prompts fill "
                          "data.max_length = ",
                          in_.data.max_length, ")"));
  }
}

void Trainer::keep_reference() { observe_drift(0); }

int64_t Trainer::run(const TrainingRun& run) {
  int64_t step = run.steps_done;
  bool stopped = false;
  while (step < num_steps_ && !stopped) {
    ++step;
    try {
      const io::StepRecord record = run_step(step);
      if (run.outputs != nullptr) run.outputs->step(record, num_steps_);
    } catch (const DivergenceError& e) {
      if (run.outputs != nullptr) run.outputs->end(e.what(), step - 1);
      throw;
    }
    const std::optional<io::DriftRecord> drift = observe_drift(step);
    if (drift && run.outputs != nullptr) run.outputs->drift(*drift);
    in_.mesh.calls->set_phase("checkpoint");
    stopped = run.after_step && run.after_step(step);
  }
  in_.state.begin_step({});
  return step;
}

io::StepRecord Trainer::run_step(int64_t step) {
  const Stopwatch watch;
  in_.mesh.calls->set_place(cat("step ", step));
  const double blocked_before_s = waited_s();
  const int64_t sent_before_bytes = in_.mesh.sent_bytes();
  const dist::Collectives& world = *in_.mesh.world;
  const std::vector<int64_t> rows = sampler_.rows_of_step(step).rows;
  io::StepRecord record{.step = step};
  count_tokens(in_.dataset, rows, record);
  VAX_CHECK(record.label_tokens > 0, "step ", step, " has no labels");
  const std::vector<PackedBatch> micro_batches =
      data::pack_share(in_.dataset, rows, world.rank(), world.size(), in_.train.micro_batch);

  const StepOutcome outcome = run_method(
      {.step = step, .micro_batches = micro_batches, .label_tokens = record.label_tokens});
  const StepNorms norms = apply_gradients(step, outcome.loss);

  record.epoch = static_cast<double>(step) / static_cast<double>(sampler_.steps_per_epoch());
  record.loss = outcome.loss;
  record.clean_loss = outcome.clean_loss;
  record.lr = norms.lr;
  record.grad_norm = norms.grad_norm;
  add_figures(outcome, in_.rho.value_or(0), record);
  record.pass1_s = outcome.pass1_s;
  record.comm_bytes = in_.mesh.sent_bytes() - sent_before_bytes;
  record.comm_s = waited_s() - blocked_before_s;
  record.memory_bytes = ops::device::is_selected() ? tensor_peak_bytes() : peak_memory_bytes();
  record.step_s = watch.elapsed_s();
  return record;
}

StepOutcome Trainer::run_method(const StepBatch& batch) {
  gradients_.zero();
  in_.state.begin_step(method_->unit_uses(batch.step, batch.micro_batches.size()));
  // What was kept from the step before goes when the method runs.
  const int64_t held_before = tensor_bytes() - method_->kept_bytes();
  reset_tensor_peak();
  StepOutcome outcome = method_->run(batch);
  most_kept_ = std::max(most_kept_, method_->kept_bytes());
  most_activations_ =
      std::max(most_activations_, tensor_peak_bytes() - held_before - method_->kept_bytes());
  return outcome;
}

MemoryParts Trainer::measured_memory() const {
  const dist::ShardedUnits &frozen = in_.state.frozen().units(),
                           &trainable = in_.state.trainable().units();
  MemoryParts parts{.weights = frozen.shard_bytes() + trainable.shard_bytes(),
                    .slots = frozen.slot_bytes() + trainable.slot_bytes(),
                    .gradients = gradients_.num_bytes(),
                    .optimizer = optimizer_.num_bytes(),
                    .activations = most_activations_,
                    .perturbation = most_kept_};
  if (const Plane* probe = in_.state.probe_plane()) parts.slots += probe->units().slot_bytes();
  parts.slots += in_.state.fp8_bytes();
  return parts;
}

double Trainer::waited_s() const { return in_.mesh.blocked_s() + gradients_.waited_s(); }

void Trainer::reduce_over_replicas() {
  dist::Collectives& replicas = *in_.mesh.replicas;
  if (replicas.size() == 1) return;
  for (int unit = 0; unit < in_.state.trainable().units().num_units(); ++unit) {
    at::Tensor& shard = gradients_.shard(unit);
    replicas
        .all_reduce(shard.data_ptr(), shard.numel(), dist::DataType::kFloat32, dist::ReduceOp::kSum)
        .wait();
  }
}

void Trainer::check_finite(int64_t step, double loss, double grad_norm) const {
  if (std::isfinite(loss) && std::isfinite(grad_norm)) return;
  throw DivergenceError(cat("step ", step, ": loss ", loss, ", gradient norm ", grad_norm,
                            ": not finite, stopped before the update; lower train.lr",
                            in_.rho ? " or vaccine.rho" : ""));
}

Trainer::StepNorms Trainer::apply_gradients(int64_t step, double loss) {
  in_.mesh.calls->set_phase("update");
  gradients_.finish();
  reduce_over_replicas();
  const double norm = optimizer_.gradient_norm();
  check_finite(step, loss, norm);
  const double clip = in_.train.clip;
  // As torch.nn.utils.clip_grad_norm_.
  const double scale = clip > 0 ? std::min(1.0, clip / (norm + 1e-6)) : 1.0;
  const double lr = learning_rate(in_.train, step - 1, num_steps_);
  optimizer_.update(lr, scale);
  in_.state.refresh_probe();
  return {.grad_norm = norm, .lr = lr};
}

}  // namespace vax::train
