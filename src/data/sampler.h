// The order in which rows are trained on. It is a pure function of (seed, epoch): no state is
// carried, so a resumed run asks for step k and gets what the uninterrupted one had, and neither
// ranks nor micro-batches have any influence.
#pragma once

#include <cstdint>
#include <vector>

namespace vax::data {

struct SamplerOptions {
  int64_t num_rows = 0;      // at least 1
  int64_t global_batch = 1;  // rows of a step, at least 1
  uint64_t seed = 0;
  bool shuffle = true;
};

struct StepRows {
  int64_t epoch = 0;          // 0-based
  std::vector<int64_t> rows;  // of the dataset; fewer than global_batch in an epoch's last step
};

class Sampler {
 public:
  // THROWS ConfigError when num_rows or global_batch is less than 1.
  explicit Sampler(const SamplerOptions& options);

  int64_t steps_per_epoch() const;  // ceil(num_rows / global_batch)

  // Step k (from 0) of an epoch takes rows [k * global_batch, (k + 1) * global_batch) of the
  // epoch's order. REQUIRES step >= 1 (steps count from 1). Keeps the order of the epoch it was
  // last asked for.
  StepRows rows_of_step(int64_t step);

  // All rows in the order of an epoch: file order without shuffle, else a Fisher-Yates permutation
  // drawn from Philox with the counter (position, epoch).
  std::vector<int64_t> epoch_order(int64_t epoch) const;

 private:
  SamplerOptions options_;
  int64_t cached_epoch_ = -1;
  std::vector<int64_t> order_;
};

}  // namespace vax::data
