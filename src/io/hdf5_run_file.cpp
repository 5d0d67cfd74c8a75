#include <filesystem>
#include <optional>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/narrow.h"
#include "io/hdf5_run_arrays.h"
#include "io/run_file.h"

namespace vax::io {
namespace {

namespace fs = std::filesystem;

// Steps that are kept in memory before they go into the arrays.
constexpr size_t kMostPending = 1024;

// The sizes that all drift records share, set by the first.
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

// A new HDF5 file whose name is gone as soon as it is open: nothing is left of it when the process
// is killed. Its bytes are read through `contents`.
struct NamelessFile {
  explicit NamelessFile(const fs::path& temporary)
      : file(create_file(temporary)), contents(PosixFile::open_for_reading(temporary)) {
    fs::remove(temporary);
  }

  Hdf5File file;
  PosixFile contents;
};

}  // namespace

struct RunFile::State {
  State(const fs::path& file_path, const Figures& declared, const Description& description)
      : path(file_path),
        figures(declared),
        config(description.config),
        nameless(temporary_name(file_path)),
        train(id(), declared) {
    check_figures(figures);
    visit_layer_figures(empty_step(figures), figures, [this](const Figure& figure, const auto&) {
      layer_groups.emplace_back(figure, layer_groups.size());
    });
    write_attribute(id(), "schema_version", kSchemaVersion);
    write_attribute(id(), "program_version", description.program_version);
  }

  hid_t id() const { return nameless.file.get(); }

  void write_steps() {
    train.append(steps);
    for (LayerFigureGroup& group : layer_groups) group.append(id(), steps);
    steps.clear();
  }

  void write_drifts() {
    if (!drift && !drifts.empty())
      drift.emplace(id(), narrow<int64_t>(drift_shape->num_layers),
                    narrow<int64_t>(drift_shape->num_batches));
    for (const DriftRecord& record : drifts) drift->append(record);
    drifts.clear();
  }

  void write() {
    if (config) {
      if (VAX_HDF5(H5Aexists(id(), "config"), path.string()) > 0)
        VAX_HDF5(H5Adelete(id(), "config"), path.string());
      write_attribute(id(), "config", *config);
    }
    config.reset();
    write_steps();
    write_drifts();
    if (memory) write_memory_group(id(), *memory);
    memory.reset();
  }

  void publish() {
    publish_file(path, [this](const fs::path& temporary) {
      PosixFile copy = PosixFile::create(temporary, path);
      nameless.contents.copy_to(copy, 0, nameless.contents.size());
      copy.close();
    });
  }

  fs::path path;
  Figures figures;
  std::optional<std::string> config;  // to be written, as are the next three
  std::vector<StepRecord> steps;
  std::vector<DriftRecord> drifts;
  std::optional<MemoryRecord> memory;
  bool has_memory = false;
  std::optional<size_t> num_figure_layers;
  std::optional<DriftShape> drift_shape;
  NamelessFile nameless;
  StepTable train;
  std::vector<LayerFigureGroup> layer_groups;
  std::optional<DriftGroup> drift;
};

RunFile::RunFile(const fs::path& path, const Figures& figures, const Description& description) {
  const Hdf5Lock lock;
  state_ = std::make_unique<State>(path, figures, description);
}

RunFile::RunFile(RunFile&&) noexcept = default;
RunFile& RunFile::operator=(RunFile&&) noexcept = default;

RunFile::~RunFile() {
  const Hdf5Lock lock;
  const Hdf5Silence silence;  // nobody will read the file
  state_.reset();
}

void RunFile::append(const StepRecord& record) {
  if (!state_) return;
  visit_layer_figures(record, state_->figures, [&](const Figure& figure, const auto& values) {
    if (values.empty()) return;
    std::optional<size_t>& expected = state_->num_figure_layers;
    if (!expected) expected = values.size();
    VAX_CHECK(values.size() == *expected, figure.name, " at step ", record.step, " has ",
              values.size(), " entries, expected ", *expected);
  });
  state_->steps.push_back(record);
  if (state_->steps.size() < kMostPending) return;
  const Hdf5Lock lock;
  state_->write();
}

void RunFile::append(const DriftRecord& record) {
  if (!state_) return;
  if (!state_->drift_shape)
    state_->drift_shape = DriftShape{record.l2sq.size(), record.tokens.size()};
  check_shape(record, *state_->drift_shape);
  state_->drifts.push_back(record);
}

void RunFile::append(const MemoryRecord& record) {
  if (!state_) return;
  VAX_CHECK(!state_->has_memory, "the run's memory is recorded once");
  state_->has_memory = true;
  state_->memory = record;
}

void RunFile::append(const ResumeRecord& record) {
  if (state_) state_->config = record.config_text;
}

void RunFile::flush() {
  if (!state_) return;
  const Hdf5Lock lock;
  state_->write();
  VAX_HDF5(H5Fflush(state_->id(), H5F_SCOPE_GLOBAL), state_->path.string());
  state_->publish();
}

void RunFile::close() {
  flush();
  const Hdf5Lock lock;
  state_.reset();
}

}  // namespace vax::io
