// Private to this folder.
// The arrays of run.h5 (layout in io/run_file.h), each of which grows by the records of one kind.
// Callers hold an Hdf5Lock and pass records whose sizes agree.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/hdf5_dataset.h"
#include "io/run_records.h"

namespace vax::io {

// An array [step, ...] of doubles or integers.
struct GrowingArray {
  std::string name;
  Hdf5Dataset dataset;

  // Whole rows. Numbers that are not finite become NaN, as run.jsonl keeps no more of them.
  void append(int64_t num_rows, std::vector<double> rows) const;
  void append(int64_t num_rows, const std::vector<int64_t>& rows) const;
};

// /metrics/train
class StepTable {
 public:
  StepTable(hid_t file, Figures figures);
  void append(std::span<const StepRecord> records) const;

 private:
  Figures figures_;
  Hdf5Type row_type_;
  Hdf5Group group_;
  Hdf5Dataset table_;
};

// The group of a figure that is one number a layer, which appears with the first step that has it.
class LayerFigureGroup {
 public:
  // `index`: among the figures of this kind.
  LayerFigureGroup(Figure figure, size_t index) : figure_(std::move(figure)), index_(index) {}
  // Takes the steps that have the figure.
  void append(hid_t file, std::span<const StepRecord> records);

 private:
  void create(hid_t file, int64_t num_layers);

  Figure figure_;
  size_t index_;
  Hdf5Group group_;
  GrowingArray step_, values_;
};

// /drift
class DriftGroup {
 public:
  DriftGroup(hid_t file, int64_t num_layers, int64_t num_batches);
  void append(const DriftRecord& record) const;

 private:
  Hdf5Group group_;
  GrowingArray step_, l2sq_, tokens_, relative_, cosine_, cka_, samples_;
};

void write_memory_group(hid_t file, const MemoryRecord& record);

}  // namespace vax::io
