#include "train/trainer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/narrow.h"
#include "base/stopwatch.h"
#include "data/packing.h"
#include "ops/device/runtime.h"
#include "train/lr_schedule.h"
#include "train/tensor_memory.h"

namespace vax::train {
namespace {

// Every stream has an order of its own; the run's data has that of the seed alone.
data::Sampler sampler_of(const TrainerInputs& in, size_t stream) {
  constexpr int kStreamBits = 48;
  return data::Sampler({.num_rows = in.streams[stream].dataset.size(),
                        .global_batch = in.streams[stream].global_batch,
                        .seed = in.options.seed ^ (static_cast<uint64_t>(stream) << kStreamBits),
                        .shuffle = in.shuffle});
}

// Of the whole global batch, from the data that every rank holds.
struct Counts {
  int64_t tokens = 0, label_tokens = 0;
};
Counts count_tokens(const data::Dataset& dataset, std::span<const int64_t> rows) {
  Counts counts;
  for (const int64_t row : rows) {
    const data::Sample& sample = dataset.samples[static_cast<size_t>(row)];
    counts.tokens += sample.size();
    counts.label_tokens += sample.num_labels();
  }
  return counts;
}

}  // namespace

int64_t num_training_steps(const TrainOptions& options, int64_t steps_per_epoch) {
  if (options.max_steps) return *options.max_steps;
  VAX_CHECK(options.epochs.has_value());
  return static_cast<int64_t>(std::ceil(*options.epochs * static_cast<double>(steps_per_epoch)));
}

Trainer::Trainer(const TrainerInputs& inputs) : in_(inputs) {
  for (size_t stream = 0; stream < in_.streams.size(); ++stream)
    samplers_.push_back(sampler_of(in_, stream));
  num_steps_ = num_training_steps(in_.options, samplers_.at(0).steps_per_epoch());
}

std::optional<io::DriftRecord> Trainer::observe_drift(int64_t step) {
  if (!in_.measure_drift) return std::nullopt;
  in_.engine.end_steps();
  in_.engine.mesh().calls->set_phase("drift");
  return in_.measure_drift(step, step == num_steps_);
}

void Trainer::check_batches() {
  for (size_t stream = 0; stream < in_.streams.size(); ++stream) {
    const data::Dataset& dataset = in_.streams[stream].dataset;
    if (dataset.num_without_labels == 0) continue;
    for (int64_t step = 1; step <= num_steps_; ++step)
      if (count_tokens(dataset, samplers_[stream].rows_of_step(step).rows).label_tokens == 0)
        throw DataError(cat("step ", step,
                            ": no row of the global batch has a label left (prompts fill "
                            "data.max_length = ",
                            in_.max_length, ")"));
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
    in_.engine.mesh().calls->set_phase("checkpoint");
    stopped = run.after_step && run.after_step(step);
  }
  in_.engine.end_steps();
  return step;
}

io::StepRecord Trainer::run_step(int64_t step) {
  const Stopwatch watch;
  Mesh& mesh = in_.engine.mesh();
  mesh.calls->set_place(cat("step ", step));
  const double waited_before_s = in_.engine.waited_s();
  const int64_t sent_before_bytes = mesh.sent_bytes();

  io::StepRecord record{.step = step};
  std::vector<std::vector<PackedBatch>> shares;  // by stream
  StepBatch batch{.step = step};
  for (size_t stream = 0; stream < in_.streams.size(); ++stream) {
    const data::Dataset& dataset = in_.streams[stream].dataset;
    const std::vector<int64_t> rows = samplers_[stream].rows_of_step(step).rows;
    const Counts counts = count_tokens(dataset, rows);
    VAX_CHECK(counts.label_tokens > 0, "step ", step, " has no labels");
    if (stream == 0) {
      record.sequences = narrow<int64_t>(rows.size());
      record.tokens = counts.tokens;
      record.label_tokens = counts.label_tokens;
    }
    shares.push_back(data::pack_share(dataset, rows, mesh.world->rank(), mesh.world->size(),
                                      in_.options.micro_batch));
    batch.streams.push_back({.micro_batches = shares.back(), .label_tokens = counts.label_tokens});
  }
  StepOutcome outcome = in_.engine.run(batch);
  const StepNorms norms = update(step, outcome.loss);

  record.epoch = static_cast<double>(step) / static_cast<double>(steps_per_epoch());
  record.loss = outcome.loss;
  record.clean_loss = outcome.clean_loss;
  record.lr = norms.lr;
  record.grad_norm = norms.grad_norm;
  record.pass1_s = outcome.pass1_s;
  record.figures = std::move(outcome.numbers);
  record.layer_figures = std::move(outcome.layers);
  record.comm_bytes = mesh.sent_bytes() - sent_before_bytes;
  record.comm_s = in_.engine.waited_s() - waited_before_s;
  record.memory_bytes = ops::device::is_selected() ? tensor_peak_bytes() : peak_memory_bytes();
  record.step_s = watch.elapsed_s();
  return record;
}

void Trainer::check_finite(int64_t step, double loss, double grad_norm) const {
  if (std::isfinite(loss) && std::isfinite(grad_norm)) return;
  std::string advice = "lower train.lr";
  for (const std::string& option : in_.engine.declaration().steadied_by)
    advice += cat(" or ", option);
  throw DivergenceError(cat("step ", step, ": loss ", loss, ", gradient norm ", grad_norm,
                            ": not finite, stopped before the update; ", advice));
}

Trainer::StepNorms Trainer::update(int64_t step, double loss) {
  const double norm = in_.engine.gradient_norm();
  check_finite(step, loss, norm);
  const double lr = learning_rate(in_.options, step - 1, num_steps_);
  in_.engine.update(lr, clip_scale(norm, in_.options.clip));
  return {.grad_norm = norm, .lr = lr};
}

}  // namespace vax::train
