#include <numeric>

#include "base/atomic_file.h"
#include "base/narrow.h"
#include "io/hdf5_dataset.h"
#include "io/run_file.h"

namespace vax::io {
namespace {

// Numbers in memory have the file's layout: the machines are little-endian (io/dtype.cpp asserts
// it).
hid_t type_of(int64_t) { return H5T_STD_I64LE; }
hid_t type_of(double) { return H5T_IEEE_F64LE; }
hid_t type_of(const std::optional<double>&) { return H5T_IEEE_F64LE; }

// A coordinate of arrays: a dataset that is a dimension scale.
struct Axis {
  Axis(const Hdf5Group& group, const std::string& name, std::span<const int64_t> coordinates,
       const std::string& long_name)
      : extent(narrow<int64_t>(coordinates.size())),
        scale(create_filled(group.get(), name, H5T_STD_I64LE, H5T_STD_I64LE, {{extent}},
                            coordinates.data())) {
    make_scale(scale, name);
    describe(scale, "1", long_name);
  }

  int64_t extent;
  Hdf5Dataset scale;
};

Axis step_axis(const Hdf5Group& group, const std::vector<int64_t>& steps) {
  return {group, "step", steps, "training step, 1-based"};
}

Axis index_axis(const Hdf5Group& group, const std::string& name, size_t extent) {
  std::vector<int64_t> indices(extent);
  std::iota(indices.begin(), indices.end(), int64_t{0});
  return {group, name, indices, name + " index, 0-based"};
}

template <typename T>
void write_array(const Hdf5Group& group, const std::string& name, const std::vector<T>& values,
                 std::initializer_list<const Axis*> axes, const std::string& units,
                 const std::string& long_name) {
  std::vector<int64_t> shape;
  for (const Axis* axis : axes) shape.push_back(axis->extent);
  const Hdf5Dataset array =
      create_filled(group.get(), name, type_of(T{}), type_of(T{}), shape, values.data());
  unsigned position = 0;
  for (const Axis* axis : axes) attach_scale(array, axis->scale, position++, name);
  describe(array, units, long_name);
}

void write_steps(hid_t file, const RunColumns& run) {
  std::vector<std::string> names, units, long_names;
  std::vector<hid_t> types;  // the library's own, not to be closed
  visit_step_fields(
      empty_step(run.figures), run.figures,
      [&](const char* name, const char* unit, const char* long_name, const auto& value) {
        names.emplace_back(name);
        units.emplace_back(unit);
        long_names.emplace_back(long_name);
        types.push_back(type_of(value));
      });
  constexpr size_t kFieldBytes = sizeof(int64_t);
  const Hdf5Type row(
      VAX_HDF5(H5Tcreate(H5T_COMPOUND, names.size() * kFieldBytes), "metrics/train"));
  for (size_t i = 0; i < names.size(); ++i)
    VAX_HDF5(H5Tinsert(row.get(), names[i].c_str(), i * kFieldBytes, types[i]), names[i]);
  const Hdf5Group group = create_group(file, "metrics");
  const Hdf5Dataset table = create_filled(group.get(), "train", row.get(), row.get(),
                                          {{run.num_steps}}, run.step_fields.data());
  write_attribute(table.get(), "units", units);
  write_attribute(table.get(), "long_name", long_names);
}

void write_layer_column(hid_t file, const RunColumns::LayerColumn& column, size_t num_layers) {
  if (column.steps.empty()) return;
  const std::string& path = column.figure.path;
  const size_t slash = path.find('/');
  const Hdf5Group group = create_group(file, path.substr(0, slash));
  const Axis step = step_axis(group, column.steps);
  const Axis layer = index_axis(group, "layer", num_layers);
  write_array(group, path.substr(slash + 1), column.values, {&step, &layer}, column.figure.units,
              column.figure.long_name);
}

void write_drift(hid_t file, const RunColumns::Drift& drift) {
  if (drift.steps.empty()) return;
  const Hdf5Group group = create_group(file, "drift");
  const Axis step = step_axis(group, drift.steps);
  const Axis layer = index_axis(group, "layer", drift.num_layers);
  const Axis batch = index_axis(group, "batch", drift.num_batches);
  write_array(group, "l2sq", drift.l2sq, {&step, &layer, &batch}, "1",
              "squared L2 distance of the attention outputs to the reference, sum over tokens");
  write_array(group, "tokens", drift.tokens, {&step, &batch}, "1",
              "tokens of the batch without padding");
  write_array(group, "relative", drift.relative, {&step, &layer}, "1",
              "L2 distance over the reference's norm");
  write_array(group, "cosine", drift.cosine, {&step, &layer}, "1", "cosine to the reference");
  write_array(group, "cka", drift.cka, {&step, &layer}, "1", "linear CKA with the reference");
  write_array(group, "samples", drift.samples, {&step}, "1", "samples that were measured");
}

void write_memory(hid_t file, const MemoryRecord& record) {
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
        create_filled(group.get(), name, H5T_STD_I64LE, H5T_STD_I64LE, shape, values.data());
    attach_scale(dataset, part, 0, name);
    describe(dataset, "byte", long_name);
  };
  add("planned_bytes", planned, "of the fullest rank, as planned before the run");
  add("measured_bytes", measured, "of the fullest rank, at the most");
  write_attribute(group.get(), "process_bytes", record.process_bytes);
}

}  // namespace

void RunFile::flush() const {
  const std::vector<std::byte> bytes = file_image(path_.string(), [this](hid_t file) {
    write_attribute(file, "schema_version", kSchemaVersion);
    write_attribute(file, "program_version", columns_.program_version);
    write_attribute(file, "config", columns_.config);
    write_steps(file, columns_);
    for (const RunColumns::LayerColumn& column : columns_.layer_columns)
      write_layer_column(file, column, columns_.num_figure_layers);
    write_drift(file, columns_.drift);
    if (columns_.memory) write_memory(file, *columns_.memory);
  });
  publish_file(path_, [&](const std::filesystem::path& temporary) {
    PosixFile file = PosixFile::create(temporary, path_);
    file.write(bytes);
    file.close();
  });
}

}  // namespace vax::io
