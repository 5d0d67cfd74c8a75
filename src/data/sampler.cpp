#include "data/sampler.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/narrow.h"
#include "base/philox.h"

namespace vax::data {

Sampler::Sampler(const SamplerOptions& options) : options_(options) {
  if (options_.num_rows < 1) throw ConfigError("the data has no rows, expected at least 1");
  if (options_.global_batch < 1)
    throw ConfigError(
        cat("train.global_batch: expected at least 1, found ", options_.global_batch));
}

int64_t Sampler::steps_per_epoch() const {
  return ceil_div(options_.num_rows, options_.global_batch);
}

StepRows Sampler::rows_of_step(int64_t step) {
  VAX_CHECK(step >= 1, "step ", step);
  const int64_t epoch = (step - 1) / steps_per_epoch();
  if (epoch != cached_epoch_) {
    order_ = epoch_order(epoch);
    cached_epoch_ = epoch;
  }
  const int64_t begin = (step - 1) % steps_per_epoch() * options_.global_batch;
  const int64_t end = std::min(begin + options_.global_batch, options_.num_rows);
  return {.epoch = epoch, .rows = {order_.begin() + begin, order_.begin() + end}};
}

std::vector<int64_t> Sampler::epoch_order(int64_t epoch) const {
  std::vector<int64_t> order(narrow<size_t>(options_.num_rows));
  std::iota(order.begin(), order.end(), int64_t{0});
  if (!options_.shuffle) return order;
  const PhiloxKey key = philox_key(options_.seed, hash_name("data order"));
  const auto epoch_bits = static_cast<uint64_t>(epoch);
  for (size_t i = order.size() - 1; i > 0; --i) {
    const PhiloxCounter words =
        philox4x32({static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32),
                    static_cast<uint32_t>(epoch_bits), static_cast<uint32_t>(epoch_bits >> 32)},
                   key);
    const uint64_t draw = (uint64_t{words[0]} << 32) | words[1];
    // The modulo's bias is below rows / 2^64.
    std::swap(order[i], order[draw % (i + 1)]);
  }
  return order;
}

}  // namespace vax::data
