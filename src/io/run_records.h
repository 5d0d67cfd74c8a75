// What a training run reports, as plain data: one record per event of run.jsonl. Field names are
// those of the files, times in seconds, sizes in bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/figures.h"

namespace vax::io {

struct DataFileRecord {
  std::string role;  // "align", "harmful", ...
  std::string path;
  std::string sha256;
  int64_t rows = 0;
};

struct StartRecord {
  std::string version;
  int64_t world_size = 1;
  std::string config_json;  // the resolved configuration: text of a JSON object
  std::vector<DataFileRecord> data;
  std::string model_path;
  int64_t model_parameters = 0;
  int64_t model_trainable = 0;
  std::string config_text;  // the same configuration as the text of config.cfg
};

// What every method has, and the method's own figures.
struct StepRecord {
  int64_t step = 0;  // 1-based
  double epoch = 0;
  double loss = 0;        // of the pass that made the update
  double clean_loss = 0;  // of pass 1; equals loss in a one-pass step
  double lr = 0;          // of this update
  double grad_norm = 0;   // before clipping
  int64_t sequences = 0;
  int64_t tokens = 0;        // without padding
  int64_t label_tokens = 0;  // predicted ones
  double step_s = 0;
  double pass1_s = 0;
  double comm_s = 0;         // exposed
  int64_t comm_bytes = 0;    // sent by rank 0
  int64_t memory_bytes = 0;  // peak so far
  // Those of each kind in the order of the declaration. Empty: not measured in this step.
  std::vector<std::optional<double>> figures;
  std::vector<std::vector<double>> layer_figures;  // [figure][layer]
};

// The drift of e_l, the output of the attention module of layer l, since the start of the run.
struct DriftRecord {
  int64_t step = 0;
  int64_t samples = 0;
  std::vector<std::vector<double>> l2sq;  // [layer][batch], sum over tokens ||e_l - e_l_ref||^2
  std::vector<int64_t> tokens;            // [batch]
  std::vector<double> relative;           // [layer], ||e_l - e_l_ref|| / ||e_l_ref||
  std::vector<double> cosine;             // [layer]
  std::vector<double> cka;                // [layer], linear CKA
};

struct CheckpointRecord {
  int64_t step = 0;  // after which it was taken; later steps may have been recorded before it
  std::string path;
  int64_t bytes = 0;   // all its files
  double stall_s = 0;  // what training waited for it
};

struct RejectedCheckpoint {
  std::string path, reason;
};

// The run goes on in another process.
struct ResumeRecord {
  int64_t step = 0;  // of the checkpoint: the next one is step + 1
  std::string path;
  std::vector<RejectedCheckpoint> rejected;  // newer ones that did not verify
  int64_t world_size = 1;
  std::string config_text;  // text of config.cfg from here on
};

// Memory of the fullest rank by what it is for.
struct MemoryRecord {
  struct Part {
    std::string name;  // "weights", "activations", ...
    int64_t planned_bytes = 0;
    int64_t measured_bytes = 0;
  };
  std::vector<Part> parts;
  int64_t process_bytes = 0;  // peak resident, libraries and data included
};

struct EndRecord {
  std::string status;  // "done", "stopped", ...
  int64_t steps = 0;
  double seconds = 0;
};

// A record with room for every figure.
inline StepRecord empty_step(const Figures& figures) {
  StepRecord record;
  record.figures.resize(count_figures(figures, Figure::Kind::kNumber));
  record.layer_figures.resize(count_figures(figures, Figure::Kind::kPerLayer));
  return record;
}

// Calls visit(name, units, long_name, value) for everything of a step that is one number, in the
// order of both files: the one place that lists the fields. `Record` is StepRecord, const or not.
template <typename Record, typename Visit>
void visit_step_fields(Record&& r, const Figures& figures, Visit&& visit) {
  VAX_CHECK(r.figures.size() == count_figures(figures, Figure::Kind::kNumber), "step ", r.step,
            " has ", r.figures.size(), " figures");
  const auto field = [&](const char* name, const char* units, const char* long_name, auto& value) {
    visit(name, units, long_name, value);
    size_t next = 0;
    for (const Figure& figure : figures) {
      if (figure.kind != Figure::Kind::kNumber) continue;
      auto& found = r.figures[next++];
      if (figure.after == name)
        visit(figure.name.c_str(), figure.units.c_str(), figure.long_name.c_str(), found);
    }
  };
  field("step", "1", "training step, 1-based", r.step);
  field("epoch", "1", "epochs done", r.epoch);
  field("loss", "nat", "mean cross entropy of the pass that made the update", r.loss);
  field("clean_loss", "nat", "mean cross entropy of the unperturbed pass", r.clean_loss);
  field("lr", "1", "learning rate of this update", r.lr);
  field("grad_norm", "1", "gradient norm before clipping", r.grad_norm);
  field("sequences", "1", "sequences of the global batch", r.sequences);
  field("tokens", "1", "tokens of the global batch without padding", r.tokens);
  field("label_tokens", "1", "predicted tokens of the global batch", r.label_tokens);
  field("step_s", "s", "time of the step", r.step_s);
  field("pass1_s", "s", "time of pass 1", r.pass1_s);
  field("comm_s", "s", "time spent waiting for communication", r.comm_s);
  field("comm_bytes", "byte", "sent by rank 0", r.comm_bytes);
  field("memory_bytes", "byte", "peak memory so far", r.memory_bytes);
}

// Calls visit(figure, values) for the figures that are one number a layer.
template <typename Record, typename Visit>
void visit_layer_figures(Record&& r, const Figures& figures, Visit&& visit) {
  VAX_CHECK(r.layer_figures.size() == count_figures(figures, Figure::Kind::kPerLayer), "step ",
            r.step, " has ", r.layer_figures.size(), " figures by layer");
  size_t next = 0;
  for (const Figure& figure : figures)
    if (figure.kind == Figure::Kind::kPerLayer) visit(figure, r.layer_figures[next++]);
}

}  // namespace vax::io
