#include "io/run_columns.h"

#include <bit>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace vax::io {
namespace {

double finite(double value) {
  return std::isfinite(value) ? value : std::numeric_limits<double>::quiet_NaN();
}

int64_t bits_of(int64_t value) { return value; }
int64_t bits_of(double value) { return std::bit_cast<int64_t>(finite(value)); }
int64_t bits_of(const std::optional<double>& value) {
  return bits_of(value.value_or(std::numeric_limits<double>::quiet_NaN()));
}

void add(const std::vector<double>& values, std::vector<double>& column) {
  for (const double value : values) column.push_back(finite(value));
}

void check_shape(const DriftRecord& record, const RunColumns::Drift& drift) {
  const size_t num_layers = drift.steps.empty() ? record.l2sq.size() : drift.num_layers;
  const size_t num_batches = drift.steps.empty() ? record.tokens.size() : drift.num_batches;
  const auto check = [&](const char* what, size_t found, size_t expected) {
    VAX_CHECK(found == expected && found > 0, "drift at step ", record.step, ": ", what, " has ",
              found, " entries, expected ", expected);
  };
  check("l2sq", record.l2sq.size(), num_layers);
  check("relative", record.relative.size(), num_layers);
  check("cosine", record.cosine.size(), num_layers);
  check("cka", record.cka.size(), num_layers);
  check("tokens", record.tokens.size(), num_batches);
  for (const auto& batches : record.l2sq) check("l2sq[layer]", batches.size(), num_batches);
}

}  // namespace

RunColumns::RunColumns(Figures declared) : figures(std::move(declared)) {
  check_figures(figures);
  for (const Figure& figure : figures)
    if (figure.kind == Figure::Kind::kPerLayer) layer_columns.push_back({.figure = figure});
}

void RunColumns::append(const StepRecord& record) {
  size_t num_layers = num_figure_layers;
  visit_layer_figures(record, figures, [&](const Figure& figure, const auto& values) {
    if (values.empty()) return;
    if (num_layers == 0) num_layers = values.size();
    VAX_CHECK(values.size() == num_layers, figure.name, " at step ", record.step, " has ",
              values.size(), " entries, expected ", num_layers);
  });
  visit_step_fields(record, figures, [&](const char*, const char*, const char*, const auto& value) {
    step_fields.push_back(bits_of(value));
  });
  ++num_steps;
  num_figure_layers = num_layers;
  for (size_t i = 0; i < layer_columns.size(); ++i) {
    if (record.layer_figures[i].empty()) continue;
    layer_columns[i].steps.push_back(record.step);
    add(record.layer_figures[i], layer_columns[i].values);
  }
}

void RunColumns::append(const DriftRecord& record) {
  check_shape(record, drift);
  drift.num_layers = record.l2sq.size();
  drift.num_batches = record.tokens.size();
  drift.steps.push_back(record.step);
  drift.samples.push_back(record.samples);
  for (const std::vector<double>& batches : record.l2sq) add(batches, drift.l2sq);
  drift.tokens.insert(drift.tokens.end(), record.tokens.begin(), record.tokens.end());
  add(record.relative, drift.relative);
  add(record.cosine, drift.cosine);
  add(record.cka, drift.cka);
}

void RunColumns::append(const MemoryRecord& record) {
  VAX_CHECK(!memory, "the run's memory is recorded once");
  memory = record;
}

void RunColumns::append(const ResumeRecord& record) { config = record.config_text; }

}  // namespace vax::io
