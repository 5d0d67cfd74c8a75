// The numbers of a run as run.h5 has them (layout in io/run_file.h), by column in memory. Numbers
// that are not finite are NaN here, as run.jsonl keeps no more of them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "io/run_records.h"

namespace vax::io {

struct RunColumns {
  // A figure that is one number a layer: only the steps that have it.
  struct LayerColumn {
    Figure figure;
    std::vector<int64_t> steps;
    std::vector<double> values;  // [step, layer]
  };
  struct Drift {
    size_t num_layers = 0, num_batches = 0;     // of all records, set by the first
    std::vector<int64_t> steps, samples;        // [step]
    std::vector<double> l2sq;                   // [step, layer, batch]
    std::vector<int64_t> tokens;                // [step, batch]
    std::vector<double> relative, cosine, cka;  // [step, layer]
  };

  explicit RunColumns(Figures declared);

  // std::logic_error where a record's sizes differ from those of the records before it; it then
  // leaves no trace.
  void append(const StepRecord& record);
  void append(const DriftRecord& record);
  void append(const MemoryRecord& record);  // once
  // Replaces the configuration.
  void append(const ResumeRecord& record);

  std::string config;  // text of config.cfg
  std::string program_version;
  Figures figures;
  int64_t num_steps = 0;
  // [step, field] in the order of visit_step_fields(): integers, and doubles by their bits.
  std::vector<int64_t> step_fields;
  size_t num_figure_layers = 0;  // of all such figures, set by the first record that has one
  std::vector<LayerColumn> layer_columns;
  Drift drift;
  std::optional<MemoryRecord> memory;
};

}  // namespace vax::io
