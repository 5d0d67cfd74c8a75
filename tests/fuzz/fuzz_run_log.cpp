// A run.jsonl is refused with a DataError, or its lines follow each other and can be put into
// arrays.
#include "base/error.h"
#include "io/run_log_reader.h"
#include "memory_file.h"

namespace {

using vax::fuzz::require;

const vax::io::Figures kFigures = {{.name = "hidden_grad_norm", .units = "1", .long_name = "norm"},
                                   {.name = "probe_cosine", .units = "1", .long_name = "cosine"},
                                   {.name = "layer_grad_norm",
                                    .units = "1",
                                    .long_name = "norm",
                                    .kind = vax::io::Figure::Kind::kPerLayer,
                                    .path = "perturbation/grad_norm"}};

// What io/run_file.h requires of records.
struct Shapes {
  size_t num_norms = 0, num_layers = 0, num_batches = 0;

  static void agree(size_t& all, size_t found) {
    if (all == 0) all = found;
    require(found == all && found > 0);
  }
  void operator()(const vax::io::StepRecord& record) {
    const std::vector<double>& norms = record.layer_figures.at(0);
    if (!norms.empty()) agree(num_norms, norms.size());
  }
  void operator()(const vax::io::DriftRecord& record) {
    for (const size_t found :
         {record.l2sq.size(), record.relative.size(), record.cosine.size(), record.cka.size()})
      agree(num_layers, found);
    agree(num_batches, record.tokens.size());
    for (const auto& batches : record.l2sq) agree(num_batches, batches.size());
  }
  void operator()(const auto&) {}
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static vax::fuzz::MemoryFile file;
  file.assign(data, size);
  Shapes shapes;
  int64_t end = 0;
  try {
    const vax::io::RunLogExtent extent =
        vax::io::read_run_log(file.path(), kFigures,
                              [&](const vax::io::RunEvent& event, const vax::io::RunLogLine& line) {
                                require(line.begin == end && line.end > end);
                                end = line.end;
                                std::visit(shapes, event);
                              });
    require(extent.whole_bytes == end && end <= static_cast<int64_t>(size));
    require(extent.is_cut == (end < static_cast<int64_t>(size)));
  } catch (const vax::DataError&) {
  }
  return 0;
}
