#include "data/packing.h"

#include <algorithm>

#include "base/error.h"
#include "base/narrow.h"

namespace vax::data {

Share share_of(int64_t num_rows, int rank, int world_size) {
  VAX_CHECK(num_rows >= 0 && rank >= 0 && rank < world_size, "rank ", rank, " of ", world_size);
  const int64_t whole = num_rows / world_size;
  const int64_t extra = num_rows % world_size;
  return {.begin = rank * whole + std::min<int64_t>(rank, extra),
          .count = whole + (rank < extra ? 1 : 0)};
}

int64_t num_micro_batches(int64_t num_rows, int world_size, std::optional<int64_t> micro_batch) {
  if (micro_batch && *micro_batch < 1)
    throw ConfigError(cat("train.micro_batch: expected at least 1, found ", *micro_batch));
  const int64_t largest = share_of(num_rows, 0, world_size).count;
  return micro_batch ? std::max<int64_t>(1, ceil_div(largest, *micro_batch)) : 1;
}

PackedBatch pack(std::span<const Sample* const> samples, int64_t first_row) {
  PackedBatch batch;
  batch.offsets.push_back(0);
  for (size_t i = 0; i < samples.size(); ++i) {
    const Sample& sample = *samples[i];
    const int64_t begin = batch.num_tokens();
    const auto row = narrow<int32_t>(first_row + static_cast<int64_t>(i));
    batch.ids.insert(batch.ids.end(), sample.ids.begin(), sample.ids.end());
    for (int64_t t = 0; t < sample.size(); ++t) {
      batch.positions.push_back(narrow<int32_t>(t));
      batch.rows.push_back(row);
    }
    batch.offsets.push_back(narrow<int32_t>(batch.num_tokens()));
    for (int64_t t = std::max<int64_t>(sample.label_begin, 1); t < sample.size(); ++t) {
      batch.label_positions.push_back(begin + t - 1);
      batch.targets.push_back(sample.ids[static_cast<size_t>(t)]);
    }
  }
  return batch;
}

std::vector<PackedBatch> pack_share(const Dataset& dataset, std::span<const int64_t> rows, int rank,
                                    int world_size, std::optional<int64_t> micro_batch) {
  const auto num_rows = narrow<int64_t>(rows.size());
  const int64_t num_batches = num_micro_batches(num_rows, world_size, micro_batch);
  const Share share = share_of(num_rows, rank, world_size);
  const int64_t size = micro_batch.value_or(std::max<int64_t>(share.count, 1));
  const int64_t end = share.begin + share.count;
  std::vector<PackedBatch> batches;
  for (int64_t k = 0; k < num_batches; ++k) {
    const int64_t first = std::min(share.begin + k * size, end);
    const int64_t last = std::min(first + size, end);
    std::vector<const Sample*> samples;
    for (int64_t position = first; position < last; ++position) {
      const int64_t row = rows[static_cast<size_t>(position)];
      VAX_CHECK(row >= 0 && row < dataset.size(), "row ", row, " of ", dataset.size());
      samples.push_back(&dataset.samples[static_cast<size_t>(row)]);
    }
    batches.push_back(pack(samples, first));
  }
  return batches;
}

}  // namespace vax::data
