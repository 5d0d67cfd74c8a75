// From the rows of a step to a rank's micro-batches. Contiguous blocks: rank r's rows come before
// rank r + 1's, the first ranks have one more when the batch does not divide. Invariant: every rank
// makes the same number of micro-batches, empty ones at the end if it must, because each of them
// runs collectives.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/packed_batch.h"
#include "data/dataset.h"

namespace vax::data {

// Positions [begin, begin + count) of a global batch.
struct Share {
  int64_t begin = 0;
  int64_t count = 0;
};

// REQUIRES 0 <= rank < world_size.
Share share_of(int64_t num_rows, int rank, int world_size);

// ceil(largest share / micro_batch), at least 1; micro_batch empty = the whole share at once.
// THROWS ConfigError when micro_batch is less than 1.
int64_t num_micro_batches(int64_t num_rows, int world_size, std::optional<int64_t> micro_batch);

// Sequences laid end to end. PackedBatch.rows of samples[i] is first_row + i. Every id from
// label_begin on is a target, predicted at the position before it.
PackedBatch pack(std::span<const Sample* const> samples, int64_t first_row);

// The micro-batches of `rank`, num_micro_batches() of them; `rows` are the dataset rows of the
// whole global batch, and PackedBatch.rows counts positions in it.
std::vector<PackedBatch> pack_share(const Dataset& dataset, std::span<const int64_t> rows, int rank,
                                    int world_size, std::optional<int64_t> micro_batch);

}  // namespace vax::data
