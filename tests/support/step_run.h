// One step of training for tests, on the ranks of any mesh: the model, its gradients, and the
// data's share of a rank.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "data/packing.h"
#include "support/tiny_llama.h"
#include "train/model_state.h"
#include "vaccine/vaccine_method.h"

namespace vax::testing {

// What a step has made, with everything a method needs to make it.
class StepRun {
 public:
  StepRun(const train::ModelRequest& request, train::Mesh mesh)
      : mesh_(std::move(mesh)),
        state_(train::ModelState::load(request, mesh_)),
        gradients_(*mesh_.reduce, state_.trainable().unit_layout(), request.device,
                   mesh_.trainable_node ? &*mesh_.trainable_node : nullptr),
        sink_(state_.trainable(), gradients_) {
    train_.seed = 5;
  }

  train::StepContext context() {
    return {.update = state_.update_model(),
            .probe = state_.probe_model(),
            .gradients = sink_,
            .world = *mesh_.world,
            .train = train_,
            .dropout = state_.model().lora().enabled() ? 0.2 : 0,
            .device_world = mesh_.device_world.get()};
  }
  // Adds to the gradients; the uses that unit_uses() announces must be those that take place.
  train::StepOutcome run(train::StepMethod& method, const train::StepBatch& batch) {
    state_.begin_step(method.unit_uses(batch.step, batch.micro_batches.size()));
    const train::StepOutcome outcome = method.run(batch);
    state_.begin_step({});
    gradients_.finish();
    sum_over_replicas();
    return outcome;
  }
  // What an optimizer does to the copies of its weights, without changing them.
  void touch_weights() {
    state_.trainable().units().begin_update();
    state_.trainable().units().refresh();
    state_.refresh_probe();
  }
  train::StepOutcome run_sft(const train::StepBatch& batch) {
    train::SftMethod method(context());
    return run(method, batch);
  }
  train::StepOutcome run_vaccine(const VaccineOptions& options, const train::StepBatch& batch) {
    vaccine::VaccineMethod method(context(), options);
    return run(method, batch);
  }

  int num_units() { return state_.trainable().units().num_units(); }
  const dist::Partition& partition(int unit) { return state_.trainable().units().partition(unit); }
  at::Tensor& gradient(int unit) { return gradients_.shard(unit); }
  void zero() { gradients_.zero(); }
  TrainOptions& train() { return train_; }
  train::Mesh& mesh() { return mesh_; }
  train::ModelState& state() { return state_; }
  std::vector<at::Tensor> copied_gradients() {
    std::vector<at::Tensor> copies;
    for (int unit = 0; unit < num_units(); ++unit) copies.push_back(gradient(unit).clone());
    return copies;
  }

 private:
  void sum_over_replicas() {
    for (int unit = 0; unit < num_units(); ++unit)
      mesh_.replicas
          ->all_reduce(gradient(unit).data_ptr(), gradient(unit).numel(), dist::DataType::kFloat32,
                       dist::ReduceOp::kSum)
          .wait();
  }

  train::Mesh mesh_;
  train::ModelState state_;
  dist::ShardedGradients gradients_;
  train::ShardedGradientSink sink_;
  TrainOptions train_;
};

// The first rows of the tiny dataset as one global batch.
struct Rows {
  data::Dataset dataset;
  std::vector<int64_t> rows;
  int64_t label_tokens = 0;

  explicit Rows(int64_t num_rows)
      : dataset(tiny_dataset(tiny_config(), num_rows)), rows(static_cast<size_t>(num_rows)) {
    std::iota(rows.begin(), rows.end(), 0);
    for (const data::Sample& sample : dataset.samples) label_tokens += sample.num_labels();
  }
  std::vector<PackedBatch> share(int rank, int size, std::optional<int64_t> micro_batch) const {
    return data::pack_share(dataset, rows, rank, size, micro_batch);
  }
};

// The directories that steps start from: base, tied, adapter. For a test suite's life. COLLECTIVE.
inline std::unique_ptr<SharedDirectory> step_models() {
  return std::make_unique<SharedDirectory>(
      dist::Communicator::world(), [](const std::filesystem::path& path) {
        write_tiny_model(path / "base", tiny_config(), 1);
        write_tiny_model(path / "tied", tiny_config(true), 1);
        write_tiny_adapter(path / "adapter", tiny_config(), tiny_lora(), 2);
      });
}

// Full parameters and a tied head, else LoRA.
inline train::ModelRequest step_request(const SharedDirectory& models, bool full_parameters) {
  train::ModelRequest request;
  request.train_base = full_parameters;
  request.model.path = (models / (full_parameters ? "tied" : "base")).string();
  if (!full_parameters) request.adapter = AdapterOptions{.init = (models / "adapter").string()};
  return request;
}

// `whole` has every element of the gradient that `run` has its shards of; `bound` is relative to
// the largest element of the unit, as cancelled ones keep its absolute error.
inline void expect_shards_of(StepRun& run, StepRun& whole, double bound) {
  for (int unit = 0; unit < run.num_units(); ++unit) {
    const dist::Partition& part = run.partition(unit);
    const at::Tensor actual = run.gradient(unit).narrow(0, 0, part.end - part.begin);
    const at::Tensor expected = whole.gradient(unit).narrow(0, part.begin, part.end - part.begin);
    const double largest = whole.gradient(unit).abs().max().item<double>();
    ASSERT_GT(largest, 1e-6);
    EXPECT_TRUE(at::allclose(actual, expected, 0, bound * largest))
        << "unit " << unit << ": off by "
        << (actual - expected).abs().max().item<double>() / largest;
  }
}

}  // namespace vax::testing
