// One micro-batch: sequences laid end to end without padding. Token t of sequence s stands at
// offsets[s] + t. Filled by data/, read by model/.
#pragma once

#include <cstdint>
#include <vector>

namespace vax {

struct PackedBatch {
  std::vector<int64_t> ids;        // [tokens]
  std::vector<int32_t> positions;  // [tokens], 0-based within the sequence
  std::vector<int32_t> rows;       // [tokens], index of the sequence in the GLOBAL batch
  std::vector<int32_t> offsets;    // [sequences + 1], offsets[0] = 0, last = tokens
  // Predictions that count: the logits at label_positions[i] (index into ids) must give targets[i].
  std::vector<int64_t> label_positions;
  std::vector<int64_t> targets;

  int64_t num_tokens() const { return static_cast<int64_t>(ids.size()); }
  int64_t num_sequences() const {
    return offsets.empty() ? 0 : static_cast<int64_t>(offsets.size()) - 1;
  }
  int64_t num_labels() const { return static_cast<int64_t>(targets.size()); }
  bool empty() const { return ids.empty(); }
};

}  // namespace vax
