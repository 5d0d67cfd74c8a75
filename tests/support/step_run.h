// Steps of training for tests, on the ranks of any mesh: the engine of the program on a small
// model, and the data's share of a rank.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "data/packing.h"
#include "support/tiny_llama.h"
#include "train/training_engine.h"
#include "vaccine/vaccine_method.h"

namespace vax::testing {

inline train::MethodMaker sft_maker() {
  return {.declaration = {}, .make = [](const train::MethodContext& context) {
            return std::make_unique<vaccine::SftMethod>(context);
          }};
}
inline train::MethodMaker vaccine_maker(const VaccineOptions& options) {
  return {.declaration = {}, .make = [options](const train::MethodContext& context) {
            return std::make_unique<vaccine::VaccineMethod>(options, context);
          }};
}

// Of a two-pass step: the norms of the layers' hidden-state gradients; empty for one pass.
inline const std::vector<double>& layer_norms(const train::StepOutcome& outcome) {
  return outcome.layers.at(0);
}
inline std::optional<double> probe_cosine(const train::StepOutcome& outcome) {
  return outcome.numbers.at(2);
}

inline model::Spec spec_of(const train::ModelRequest& request) {
  return read_tiny_spec(request.model.path);
}

class StepRun {
 public:
  StepRun(const train::ModelRequest& request, train::Mesh mesh,
          const train::EngineSettings& settings = {})
      : engine_(make_engine(request, std::move(mesh), settings)) {}

  // What the step has made of the gradient is in gradient().
  train::StepOutcome run(const train::MethodMaker& method, const train::StepBatch& batch) {
    engine_->add_method(method);
    return engine_->run(batch);
  }
  train::StepOutcome run_sft(const train::StepBatch& batch) { return run(sft_maker(), batch); }
  train::StepOutcome run_vaccine(const VaccineOptions& options, const train::StepBatch& batch) {
    return run(vaccine_maker(options), batch);
  }
  // What an optimizer does to the copies of its weights, without changing them.
  void touch_weights() {
    state().trainable().units().begin_update();
    state().trainable().units().refresh();
    state().refresh_probe();
  }

  train::TrainingEngine& engine() { return *engine_; }
  train::Mesh& mesh() { return engine_->mesh(); }
  train::ModelState& state() { return engine_->state(); }
  int num_units() { return state().trainable().units().num_units(); }
  const dist::Partition& partition(int unit) { return state().trainable().units().partition(unit); }
  const at::Tensor& gradient(int unit) { return engine_->gradient().at(static_cast<size_t>(unit)); }
  std::vector<at::Tensor> copied_gradients() {
    std::vector<at::Tensor> copies;
    for (int unit = 0; unit < num_units(); ++unit) copies.push_back(gradient(unit).clone());
    return copies;
  }

 private:
  static std::unique_ptr<train::TrainingEngine> make_engine(const train::ModelRequest& request,
                                                            train::Mesh mesh,
                                                            train::EngineSettings settings) {
    auto state = train::ModelState::load(request, spec_of(request), mesh);
    settings.dropout = state->model().lora().enabled() ? 0.2 : 0;
    settings.train.seed = 5;
    return std::make_unique<train::TrainingEngine>(std::move(mesh), std::move(state), settings);
  }

  std::unique_ptr<train::TrainingEngine> engine_;
};

// A step of one stream.
inline train::StepBatch one_stream(int64_t step, std::span<const PackedBatch> micro_batches,
                                   int64_t label_tokens) {
  return {.step = step,
          .streams = {{.micro_batches = micro_batches, .label_tokens = label_tokens}}};
}

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
inline void expect_shards_of(StepRun& run, const std::vector<at::Tensor>& whole, double bound) {
  for (int unit = 0; unit < run.num_units(); ++unit) {
    const dist::Partition& part = run.partition(unit);
    const at::Tensor& all = whole[static_cast<size_t>(unit)];
    const at::Tensor actual = run.gradient(unit).narrow(0, 0, part.end - part.begin);
    const at::Tensor expected = all.narrow(0, part.begin, part.end - part.begin);
    const double largest = all.abs().max().item<double>();
    ASSERT_GT(largest, 1e-6);
    EXPECT_TRUE(at::allclose(actual, expected, 0, bound * largest))
        << "unit " << unit << ": off by "
        << (actual - expected).abs().max().item<double>() / largest;
  }
}

}  // namespace vax::testing
