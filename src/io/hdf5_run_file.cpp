#include <algorithm>
#include <limits>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "base/narrow.h"
#include "io/hdf5_dataset.h"
#include "io/run_file.h"

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
Slot slot_of(double value) { return {.real = value}; }
Slot slot_of(const std::optional<double>& value) { return {.real = value.value_or(kMissing)}; }

hid_t file_type_of(int64_t) { return H5T_STD_I64LE; }
hid_t file_type_of(double) { return H5T_IEEE_F64LE; }
hid_t file_type_of(const std::optional<double>&) { return H5T_IEEE_F64LE; }

// What all step records share: names, types and descriptions of the fields, in order.
struct TableLayout {
  std::vector<std::string> names, units, long_names;
  std::vector<hid_t> types;  // the library's own, not to be closed

  TableLayout() {
    visit_step_fields(StepRecord{}, [this](const char* name, const char* unit,
                                           const char* long_name, const auto& value) {
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

// An array [step, ...] of doubles or integers that grows with each record.
struct GrowingArray {
  std::string name;
  Hdf5Dataset dataset;

  void append(const std::vector<double>& row) const {
    append_rows(dataset, name, H5T_NATIVE_DOUBLE, 1, row.data());
  }
  void append(const std::vector<int64_t>& row) const {
    append_rows(dataset, name, H5T_NATIVE_INT64, 1, row.data());
  }
};

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

// /perturbation
class PerturbationGroup {
 public:
  PerturbationGroup(hid_t file, int64_t num_layers)
      : group_(create_group(file, "perturbation")), step_{"step", create_step_scale(group_.get())} {
    const Hdf5Dataset layer = create_layer_or_batch_scale(group_.get(), "layer", num_layers);
    grad_norm_ =
        create_array(group_, "grad_norm", H5T_IEEE_F64LE, step_.dataset, {{layer, num_layers}});
    describe(grad_norm_.dataset, "1", "norm of the hidden-state gradient of a layer in pass 1");
  }

  void append(const StepRecord& record) {
    grad_norm_.append(record.layer_grad_norm);
    step_.append(std::vector<int64_t>{record.step});
  }

 private:
  Hdf5Group group_;
  GrowingArray step_, grad_norm_;
};

// /drift
class DriftGroup {
 public:
  DriftGroup(hid_t file, int64_t num_layers, int64_t num_batches)
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

  void append(const DriftRecord& record) {
    std::vector<double> l2sq;
    for (const auto& batches : record.l2sq) l2sq.insert(l2sq.end(), batches.begin(), batches.end());
    l2sq_.append(l2sq);
    tokens_.append(record.tokens);
    relative_.append(record.relative);
    cosine_.append(record.cosine);
    cka_.append(record.cka);
    samples_.append(std::vector<int64_t>{record.samples});
    step_.append(std::vector<int64_t>{record.step});
  }

 private:
  Hdf5Group group_;
  GrowingArray step_, l2sq_, tokens_, relative_, cosine_, cka_, samples_;
};

// The sizes that all records of one kind share, set by the first.
struct DriftShape {
  size_t num_layers = 0;
  size_t num_batches = 0;
};

void check_shape(const DriftRecord& record, const DriftShape& shape) {
  const auto check = [&](const char* what, size_t found, size_t expected) {
    VAX_CHECK(found == expected && found > 0, "drift at step ", record.step, ": ", what, " has ",
              found, " entries, expected ", expected);
  };
  check("l2sq", record.l2sq.size(), shape.num_layers);
  check("relative", record.relative.size(), shape.num_layers);
  check("cosine", record.cosine.size(), shape.num_layers);
  check("cka", record.cka.size(), shape.num_layers);
  check("tokens", record.tokens.size(), shape.num_batches);
  for (const auto& batches : record.l2sq) check("l2sq[layer]", batches.size(), shape.num_batches);
}

}  // namespace

struct RunFile::State {
  State(const std::filesystem::path& file_path, const Description& description)
      : path(file_path.string()), file(create_file(file_path)) {
    write_attribute(file.get(), "schema_version", kSchemaVersion);
    write_attribute(file.get(), "config", description.config);
    write_attribute(file.get(), "program_version", description.program_version);
    const TableLayout layout;
    row_type = layout.row_type();
    metrics = create_group(file.get(), "metrics");
    const auto row_bytes = narrow<int64_t>(layout.names.size() * sizeof(Slot));
    train = create_growing(metrics.get(), "train", row_type.get(), {}, rows_per_chunk(row_bytes));
    write_attribute(train.get(), "units", layout.units);
    write_attribute(train.get(), "long_name", layout.long_names);
  }

  void write_steps() {
    std::vector<Slot> rows;
    for (const StepRecord& record : steps)
      visit_step_fields(record, [&](const char*, const char*, const char*, const auto& value) {
        rows.push_back(slot_of(value));
      });
    if (!steps.empty())
      append_rows(train, "metrics/train", row_type.get(), narrow<int64_t>(steps.size()),
                  rows.data());
    for (const StepRecord& record : steps) {
      if (record.layer_grad_norm.empty()) continue;
      const auto num_layers = narrow<int64_t>(record.layer_grad_norm.size());
      if (!perturbation) perturbation.emplace(file.get(), num_layers);
      perturbation->append(record);
    }
    steps.clear();
  }

  void write_drifts() {
    for (const DriftRecord& record : drifts) {
      if (!drift)
        drift.emplace(file.get(), narrow<int64_t>(record.l2sq.size()),
                      narrow<int64_t>(record.tokens.size()));
      drift->append(record);
    }
    drifts.clear();
  }

  void write_memory() {
    if (!memory) return;
    const Hdf5Group group = create_group(file.get(), "memory");
    std::vector<int64_t> planned, measured;
    std::vector<const char*> names;
    for (const MemoryRecord::Part& part : memory->parts) {
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
    write_attribute(group.get(), "process_bytes", memory->process_bytes);
    memory.reset();
  }

  void flush() {
    write_steps();
    write_drifts();
    write_memory();
    VAX_HDF5(H5Fflush(file.get(), H5F_SCOPE_GLOBAL), path);
  }

  std::string path;
  std::vector<StepRecord> steps;
  std::vector<DriftRecord> drifts;
  std::optional<MemoryRecord> memory;  // to be written
  bool has_memory = false;
  std::optional<size_t> perturbation_layers;
  std::optional<DriftShape> drift_shape;
  bool failed = false;
  Hdf5File file;
  Hdf5Type row_type;
  Hdf5Group metrics;
  Hdf5Dataset train;
  std::optional<PerturbationGroup> perturbation;
  std::optional<DriftGroup> drift;
};

RunFile::RunFile(const std::filesystem::path& path, const Description& description) {
  const Hdf5Lock lock;
  state_ = std::make_unique<State>(path, description);
}

RunFile::RunFile(RunFile&&) noexcept = default;
RunFile& RunFile::operator=(RunFile&&) noexcept = default;

RunFile::~RunFile() {
  try {
    close();
  } catch (const std::exception& e) {
    log::error(e.what());
  }
}

void RunFile::append(const StepRecord& record) {
  if (!state_ || state_->failed) return;
  if (!record.layer_grad_norm.empty()) {
    const size_t num_layers = record.layer_grad_norm.size();
    if (!state_->perturbation_layers) state_->perturbation_layers = num_layers;
    VAX_CHECK(num_layers == *state_->perturbation_layers, "layer_grad_norm at step ", record.step,
              " has ", num_layers, " entries, expected ", *state_->perturbation_layers);
  }
  state_->steps.push_back(record);
}

void RunFile::append(const DriftRecord& record) {
  if (!state_ || state_->failed) return;
  if (!state_->drift_shape)
    state_->drift_shape = DriftShape{record.l2sq.size(), record.tokens.size()};
  check_shape(record, *state_->drift_shape);
  state_->drifts.push_back(record);
}

void RunFile::append(const MemoryRecord& record) {
  if (!state_ || state_->failed) return;
  VAX_CHECK(!state_->has_memory, "the run's memory is recorded once");
  state_->has_memory = true;
  state_->memory = record;
}

void RunFile::flush() {
  if (!state_ || state_->failed) return;
  const Hdf5Lock lock;
  // Some arrays may then have a row that others lack; writing on would misalign them.
  state_->failed = true;
  state_->flush();
  state_->failed = false;
}

void RunFile::close() {
  if (!state_) return;
  flush();
  const Hdf5Lock lock;
  const std::unique_ptr<State> state = std::move(state_);
  state->perturbation.reset();
  state->drift.reset();
  state->train.close(state->path);
  state->metrics.close(state->path);
  state->file.close(state->path);
}

}  // namespace vax::io
