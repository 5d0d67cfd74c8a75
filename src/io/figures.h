// What a training method measures in a step beside the fields that every step has (StepRecord in
// io/run_records.h): the method declares it, the files of a run have a key, a column or an array
// for it, and io/ knows no figure by name.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace vax::io {

struct Figure {
  enum class Kind {
    kNumber,    // one number a step: a key of run.jsonl's step lines, a column of /metrics/train
    kPerLayer,  // one number a layer: a list in run.jsonl, an array [step, layer] of run.h5
  };

  std::string name;   // in run.jsonl, of a number also in run.h5
  std::string units;  // "1" = dimensionless
  std::string long_name;
  Kind kind = Kind::kNumber;
  // Of a number: the field of StepRecord that it stands behind in both files.
  std::string after = "memory_bytes";
  // One per layer: its place in run.h5, "group/name". The group is this figure's own; its scale
  // `step` has the steps in which the figure was measured.
  std::string path = {};
  // Of a number: how the progress line calls it; empty: it does not show it.
  std::string label = {};
};

using Figures = std::vector<Figure>;

size_t count_figures(const Figures& figures, Figure::Kind kind);

// std::logic_error where a name or a group is taken already or `after` names no field.
void check_figures(const Figures& figures);

}  // namespace vax::io
