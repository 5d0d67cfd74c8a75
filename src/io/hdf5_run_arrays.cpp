#include "io/hdf5_run_arrays.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "base/narrow.h"

namespace vax::io {
namespace {

constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();

// Rows that share a chunk: few enough that a short run's file stays small, enough that a long run's
// is read quickly, and well within HDF5's chunk cache of 1 MiB.
int64_t rows_per_chunk(int64_t row_bytes) {
  return std::clamp<int64_t>((int64_t{64} << 10) / row_bytes, 1, 256);
}

// A table row: every field of a step is 8 bytes, int64 or double.
union Slot {
  int64_t integer;
  double real;
};
static_assert(sizeof(Slot) == 8);

Slot slot_of(int64_t value) { return {.integer = value}; }
Slot slot_of(double value) { return {.real = std::isfinite(value) ? value : kMissing}; }
Slot slot_of(const std::optional<double>& value) { return slot_of(value.value_or(kMissing)); }

hid_t file_type_of(int64_t) { return H5T_STD_I64LE; }
hid_t file_type_of(double) { return H5T_IEEE_F64LE; }
hid_t file_type_of(const std::optional<double>&) { return H5T_IEEE_F64LE; }

// What all step records share: names, types and descriptions of the fields, in order.
struct TableLayout {
  std::vector<std::string> names, units, long_names;
  std::vector<hid_t> types;  // the library's own, not to be closed

  explicit TableLayout(const Figures& figures) {
    visit_step_fields(
        empty_step(figures), figures,
        [this](const char* name, const char* unit, const char* long_name, const auto& value) {
          names.emplace_back(name);
          units.emplace_back(unit);
          long_names.emplace_back(long_name);
          types.push_back(file_type_of(value));
        });
  }

  // Rows in memory have the file's layout: the machines are little-endian (io/dtype.cpp asserts
  // it).
  Hdf5Type row_type() const {
    Hdf5Type row(VAX_HDF5(H5Tcreate(H5T_COMPOUND, names.size() * sizeof(Slot)), "metrics/train"));
    for (size_t i = 0; i < names.size(); ++i)
      VAX_HDF5(H5Tinsert(row.get(), names[i].c_str(), i * sizeof(Slot), types[i]), names[i]);
    return row;
  }
};

Hdf5Dataset create_layer_or_batch_scale(hid_t group, const std::string& name, int64_t extent) {
  std::vector<int64_t> indices(static_cast<size_t>(extent));
  for (size_t i = 0; i < indices.size(); ++i) indices[i] = static_cast<int64_t>(i);
  Hdf5Dataset scale =
      create_filled(group, name, H5T_STD_I64LE, H5T_NATIVE_INT64, {{extent}}, indices.data());
  make_scale(scale, name);
  describe(scale, "1", name + " index, 0-based");
  return scale;
}

Hdf5Dataset create_step_scale(hid_t group) {
  Hdf5Dataset scale = create_growing(group, "step", H5T_STD_I64LE, {}, rows_per_chunk(8));
  make_scale(scale, "step");
  describe(scale, "1", "training step, 1-based");
  return scale;
}

struct Axis {
  const Hdf5Dataset& scale;
  int64_t extent;
};

// `axes`: those after the first, which is `step`.
GrowingArray create_array(const Hdf5Group& group, const std::string& name, hid_t file_type,
                          const Hdf5Dataset& step, std::initializer_list<Axis> axes) {
  std::vector<int64_t> row_shape;
  int64_t row_bytes = 8;  // int64 or double
  for (const Axis& axis : axes) {
    row_shape.push_back(axis.extent);
    row_bytes *= axis.extent;
  }
  GrowingArray array{
      name, create_growing(group.get(), name, file_type, row_shape, rows_per_chunk(row_bytes))};
  attach_scale(array.dataset, step, 0, name);
  unsigned position = 1;
  for (const Axis& axis : axes) attach_scale(array.dataset, axis.scale, position++, name);
  return array;
}

}  // namespace

void GrowingArray::append(int64_t num_rows, std::vector<double> rows) const {
  std::ranges::replace_if(
      rows, [](double value) { return !std::isfinite(value); }, kMissing);
  append_rows(dataset, name, H5T_NATIVE_DOUBLE, num_rows, rows.data());
}

void GrowingArray::append(int64_t num_rows, const std::vector<int64_t>& rows) const {
  append_rows(dataset, name, H5T_NATIVE_INT64, num_rows, rows.data());
}

StepTable::StepTable(hid_t file, Figures figures) : figures_(std::move(figures)) {
  const TableLayout layout(figures_);
  row_type_ = layout.row_type();
  group_ = create_group(file, "metrics");
  const auto row_bytes = narrow<int64_t>(layout.names.size() * sizeof(Slot));
  table_ = create_growing(group_.get(), "train", row_type_.get(), {}, rows_per_chunk(row_bytes));
  write_attribute(table_.get(), "units", layout.units);
  write_attribute(table_.get(), "long_name", layout.long_names);
}

void StepTable::append(std::span<const StepRecord> records) const {
  if (records.empty()) return;
  std::vector<Slot> rows;
  for (const StepRecord& record : records)
    visit_step_fields(record, figures_,
                      [&](const char*, const char*, const char*, const auto& value) {
                        rows.push_back(slot_of(value));
                      });
  append_rows(table_, "metrics/train", row_type_.get(), narrow<int64_t>(records.size()),
              rows.data());
}

void LayerFigureGroup::create(hid_t file, int64_t num_layers) {
  const size_t slash = figure_.path.find('/');
  group_ = create_group(file, figure_.path.substr(0, slash));
  step_ = {"step", create_step_scale(group_.get())};
  const Hdf5Dataset layer = create_layer_or_batch_scale(group_.get(), "layer", num_layers);
  values_ = create_array(group_, figure_.path.substr(slash + 1), H5T_IEEE_F64LE, step_.dataset,
                         {{layer, num_layers}});
  describe(values_.dataset, figure_.units, figure_.long_name);
}

void LayerFigureGroup::append(hid_t file, std::span<const StepRecord> records) {
  std::vector<int64_t> steps;
  std::vector<double> values;
  for (const StepRecord& record : records) {
    const std::vector<double>& found = record.layer_figures[index_];
    if (found.empty()) continue;
    steps.push_back(record.step);
    values.insert(values.end(), found.begin(), found.end());
  }
  const auto num_rows = narrow<int64_t>(steps.size());
  if (num_rows == 0) return;
  if (!group_) create(file, narrow<int64_t>(values.size()) / num_rows);
  values_.append(num_rows, std::move(values));
  step_.append(num_rows, steps);
}

DriftGroup::DriftGroup(hid_t file, int64_t num_layers, int64_t num_batches)
    : group_(create_group(file, "drift")), step_{"step", create_step_scale(group_.get())} {
  const Hdf5Dataset layer_scale = create_layer_or_batch_scale(group_.get(), "layer", num_layers);
  const Hdf5Dataset batch_scale = create_layer_or_batch_scale(group_.get(), "batch", num_batches);
  const Axis layer{layer_scale, num_layers};
  const Axis batch{batch_scale, num_batches};
  const auto add = [&](const char* name, hid_t type, std::initializer_list<Axis> axes,
                       const char* long_name) {
    GrowingArray array = create_array(group_, name, type, step_.dataset, axes);
    describe(array.dataset, "1", long_name);
    return array;
  };
  l2sq_ = add("l2sq", H5T_IEEE_F64LE, {layer, batch},
              "squared L2 distance of the attention outputs to the reference, sum over tokens");
  tokens_ = add("tokens", H5T_STD_I64LE, {batch}, "tokens of the batch without padding");
  relative_ = add("relative", H5T_IEEE_F64LE, {layer}, "L2 distance over the reference's norm");
  cosine_ = add("cosine", H5T_IEEE_F64LE, {layer}, "cosine to the reference");
  cka_ = add("cka", H5T_IEEE_F64LE, {layer}, "linear CKA with the reference");
  samples_ = add("samples", H5T_STD_I64LE, {}, "samples that were measured");
}

void DriftGroup::append(const DriftRecord& record) const {
  std::vector<double> l2sq;
  for (const auto& batches : record.l2sq) l2sq.insert(l2sq.end(), batches.begin(), batches.end());
  l2sq_.append(1, std::move(l2sq));
  tokens_.append(1, record.tokens);
  relative_.append(1, record.relative);
  cosine_.append(1, record.cosine);
  cka_.append(1, record.cka);
  samples_.append(1, std::vector<int64_t>{record.samples});
  step_.append(1, std::vector<int64_t>{record.step});
}

void write_memory_group(hid_t file, const MemoryRecord& record) {
  const Hdf5Group group = create_group(file, "memory");
  std::vector<int64_t> planned, measured;
  std::vector<const char*> names;
  for (const MemoryRecord::Part& part : record.parts) {
    names.push_back(part.name.c_str());
    planned.push_back(part.planned_bytes);
    measured.push_back(part.measured_bytes);
  }
  const std::vector<int64_t> shape = {narrow<int64_t>(names.size())};
  const Hdf5Type text = text_type();
  const Hdf5Dataset part =
      create_filled(group.get(), "part", text.get(), text.get(), shape, names.data());
  make_scale(part, "part");
  describe(part, "1", "what the memory is for");
  const auto add = [&](const char* name, const std::vector<int64_t>& values,
                       const char* long_name) {
    const Hdf5Dataset dataset =
        create_filled(group.get(), name, H5T_STD_I64LE, H5T_NATIVE_INT64, shape, values.data());
    attach_scale(dataset, part, 0, name);
    describe(dataset, "byte", long_name);
  };
  add("planned_bytes", planned, "of the fullest rank, as planned before the run");
  add("measured_bytes", measured, "of the fullest rank, at the most");
  write_attribute(group.get(), "process_bytes", record.process_bytes);
}

}  // namespace vax::io
