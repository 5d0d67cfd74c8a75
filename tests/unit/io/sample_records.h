// Records of every event whose every number differs, for the tests of both run files and
// for the files that tests/parity/files_parity.py reads.
#pragma once

#include <cmath>
#include <string>

#include "io/run_records.h"

namespace vax::io::testing {

inline StartRecord sample_start() {
  return {.version = "0.1.0",
          .world_size = 4,
          .config_json = R"({"train":{"lr":0.001,"method":"vaccine"}})",
          .data = {{"align", "data/a.json", "abc", 12}, {"harmful", "data/h.json", "def", 3}},
          .model_path = "models/m",
          .model_parameters = 13'000'000'000,
          .model_trainable = 31'293'440,
          .config_text = "[train]\nlr = 0.001\n"};
}

inline constexpr int64_t kSampleLayers = 3;
inline constexpr int64_t kSampleBatches = 2;

// Figures of both kinds, as those of Vaccine.
inline Figures sample_figures() {
  return {{.name = "hidden_grad_norm",
           .units = "1",
           .long_name = "norm over all layers",
           .after = "grad_norm"},
          {.name = "rho", .units = "1", .long_name = "norm bound", .after = "grad_norm"},
          {.name = "probe_cosine", .units = "1", .long_name = "cosine", .after = "comm_bytes"},
          {.name = "layer_grad_norm",
           .units = "1",
           .long_name = "norm of a layer",
           .kind = Figure::Kind::kPerLayer,
           .path = "perturbation/grad_norm"}};
}
// Where they are in a record.
inline constexpr size_t kHiddenGradNorm = 0, kRho = 1, kProbeCosine = 2;  // figures
inline constexpr size_t kLayerGradNorm = 0;                               // layer_figures

// Odd steps have two passes, even ones one. Every third step, the first too, has its probe checked.
inline StepRecord sample_step(int64_t step) {
  const auto x = static_cast<double>(step);
  StepRecord r = empty_step(sample_figures());
  r.step = step;
  r.epoch = x / 7;
  r.loss = 1 / x;
  r.clean_loss = r.loss + 0.1;
  r.lr = 1e-3 * x;
  r.grad_norm = x + 0.25;
  r.sequences = 5;
  r.tokens = 500 + step;
  r.label_tokens = 400 + step;
  r.step_s = 0.125;
  r.pass1_s = 0.0625;
  r.comm_s = 0.03125;
  r.comm_bytes = (int64_t{1} << 33) + step;
  r.memory_bytes = (int64_t{1} << 40) + step;
  r.figures[kRho] = 2;
  if (step % 2 == 1) {
    std::vector<double>& norms = r.layer_figures[kLayerGradNorm];
    double sum = 0;
    for (int64_t layer = 0; layer < kSampleLayers; ++layer) {
      norms.push_back(x + static_cast<double>(layer));
      sum += norms.back() * norms.back();
    }
    r.figures[kHiddenGradNorm] = std::sqrt(sum);
  }
  if (step % 3 == 1) r.figures[kProbeCosine] = 1 - x / 64;
  return r;
}

// l2sq = 100 step + 10 layer + batch.
inline DriftRecord sample_drift(int64_t step) {
  DriftRecord r;
  r.step = step;
  r.samples = 10;
  r.tokens = {70 + step, 80 + step};
  for (int64_t layer = 0; layer < kSampleLayers; ++layer) {
    const auto base = static_cast<double>(100 * step + 10 * layer);
    r.l2sq.push_back({base, base + 1});
    r.relative.push_back(base + 0.1);
    r.cosine.push_back(base + 0.2);
    r.cka.push_back(base + 0.3);
  }
  return r;
}

inline CheckpointRecord sample_checkpoint(int64_t step) {
  return {.step = step,
          .path = "checkpoints/step-" + std::to_string(step),
          .bytes = (int64_t{1} << 35) + step,
          .stall_s = 1.0 / static_cast<double>(step)};
}

inline ResumeRecord sample_resume(int64_t step) {
  return {.step = step,
          .path = "checkpoints/step-" + std::to_string(step),
          .rejected = {{"checkpoints/step-9", "rank-00001.h5: hash differs"}, {"b", "\"c\""}},
          .world_size = 2,
          .config_text = "[train]\nlr = 0.002\n"};
}

inline MemoryRecord sample_memory() {
  return {.parts = {{.name = "weights",
                     .planned_bytes = (int64_t{1} << 40) + 1,
                     .measured_bytes = (int64_t{1} << 40) + 2},
                    {.name = "slots", .planned_bytes = 0, .measured_bytes = 3},
                    {.name = "activations", .planned_bytes = 5, .measured_bytes = 4}},
          .process_bytes = (int64_t{1} << 41) + 6};
}

}  // namespace vax::io::testing
