#include "train/step_passes.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/narrow.h"
#include "base/philox.h"
#include "ops/dropout.h"

namespace vax::train {
namespace {

// Extents are rounded up to these, so that few graphs serve many batches. What padding costs is a
// few percent of a step that is small enough to gain from graphs.
constexpr int64_t kTokenMultiple = 128, kLabelMultiple = 128, kLongestMultiple = 64;

// With room for one more token than the batch has: see PlacedBatch::load().
model::BatchExtent rounded(model::BatchExtent extent, int64_t num_positions) {
  const int64_t tokens = round_up(extent.num_tokens + 1, kTokenMultiple);
  extent.num_labels = round_up(extent.num_labels, kLabelMultiple);
  extent.longest = std::min(round_up(std::max<int64_t>(extent.longest, 1), kLongestMultiple),
                            std::max(num_positions, extent.longest));
  // However the tokens come to be spread, as many sequences of padding as there may ever be.
  extent.num_sequences += ceil_div(kTokenMultiple, extent.longest) + 1;
  extent.num_tokens = tokens;
  return extent;
}

}  // namespace

// One small tensor, so that one copy brings everything: 1 / N as two words, then the keys.
struct StepPasses::Numbers {
  static constexpr int64_t kScaleWords = 2, kKeyWords = 2;
  at::Tensor words;

  explicit Numbers(at::Device device)
      : words(
            at::empty({kScaleWords + 2 * kKeyWords}, at::TensorOptions(at::kInt).device(device))) {}
  void load(const StepBatch& batch, uint64_t seed) {
    const at::Tensor host = ops::device::pinned_empty(words.sizes(), at::kInt);
    auto* to = host.mutable_data_ptr<int32_t>();
    const double scale = 1.0 / static_cast<double>(batch.label_tokens);
    std::memcpy(to, &scale, sizeof(scale));
    for (uint64_t pass = 0; pass < 2; ++pass) {
      const PhiloxKey key =
          philox_key(seed, ops::dropout_stream(static_cast<uint64_t>(batch.step), pass));
      std::memcpy(to + kScaleWords + kKeyWords * pass, key.data(), sizeof(key));
    }
    words.copy_(host, /*non_blocking=*/true);
  }
  at::Tensor scale() const {
    return at::from_blob(
        words.mutable_data_ptr<int32_t>(), {}, [keep = words](void*) {},
        words.options().dtype(at::kDouble));
  }
  const uint32_t* key(int64_t pass) const {
    return reinterpret_cast<const uint32_t*>(words.const_data_ptr<int32_t>() + kScaleWords +
                                             kKeyWords * pass);
  }
};

struct StepPasses::Captured {
  PlacedStep placed;
  bool has_run = false;
  std::unique_ptr<ops::device::Graph> graph;
};

model::PassOptions update_pass_options(const StepContext& context, const PlacedStep& step) {
  return {.loss_scale = step.loss_scale,
          .dropout = context.dropout,
          .seed = context.train.seed,
          .dropout_stream = step.dropout_streams[0],
          .dropout_key = step.dropout_keys[0],
          .recompute = context.train.recompute != Recompute::kNone};
}

StepPasses::StepPasses(const StepContext& context) : context_(context) {}

int64_t StepPasses::num_captured() const {
  return std::ranges::count_if(captured_,
                               [](const auto& entry) { return entry.second->graph != nullptr; });
}

PlacedStep StepPasses::numbers_of(const StepBatch& batch) const {
  PlacedStep placed;
  for (uint64_t pass = 0; pass < 2; ++pass)
    placed.dropout_streams[pass] = ops::dropout_stream(static_cast<uint64_t>(batch.step), pass);
  if (!numbers_) {
    placed.loss_scale =
        at::scalar_tensor(1.0 / static_cast<double>(batch.label_tokens), at::kDouble);
    return placed;
  }
  placed.loss_scale = numbers_->scale();
  placed.dropout_keys = {numbers_->key(0), numbers_->key(1)};
  return placed;
}

void StepPasses::run_placed(const StepBatch& batch,
                            const std::function<void(const PlacedStep&)>& work) {
  PlacedStep step = numbers_of(batch);
  for (const PackedBatch& micro_batch : batch.micro_batches)
    step.micro_batches.emplace_back(micro_batch, context_.update.model.device());
  work(step);
}

StepPasses::Captured& StepPasses::captured(const StepBatch& batch, int kind) {
  std::vector<model::BatchExtent> extents;
  Key key = {kind};
  for (const PackedBatch& micro_batch : batch.micro_batches) {
    const model::BatchExtent e =
        rounded(model::extent_of(micro_batch), context_.update.model.max_positions());
    extents.push_back(e);
    key.insert(key.end(), {e.num_tokens, e.num_sequences, e.num_labels, e.longest});
  }
  std::shared_ptr<Captured>& found = captured_[key];
  if (!found) {
    found = std::make_shared<Captured>();
    found->placed = numbers_of(batch);
    for (const model::BatchExtent& extent : extents)
      found->placed.micro_batches.emplace_back(extent, context_.update.model.device());
  }
  for (size_t i = 0; i < extents.size(); ++i)
    found->placed.micro_batches[i].load(batch.micro_batches[i]);
  return *found;
}

// A replay writes the gradients without asking for them: says that they are written.
void StepPasses::note_gradients() {
  for (int unit = 0; unit < context_.update.model.num_units(); ++unit) {
    context_.gradients.acquire(unit);
    context_.gradients.release(unit);
  }
}

void StepPasses::run(const StepBatch& batch, int kind,
                     const std::function<void(const PlacedStep&)>& work) {
  for (const PackedBatch& micro_batch : batch.micro_batches)
    model::check_batch(micro_batch, context_.update.model.spec());
  if (ops::device::is_selected()) {
    if (!numbers_) numbers_ = std::make_shared<Numbers>(context_.update.model.device());
    numbers_->load(batch, context_.train.seed);
  }
  if (!context_.use_graphs) return run_placed(batch, work);
  Captured& entry = captured(batch, kind);
  // The first time as it is: libraries set themselves up on their first calls, which cannot be
  // captured.
  const bool is_first = !std::exchange(entry.has_run, true);
  if (is_first || (!entry.graph && num_captured() == kMostGraphs)) return work(entry.placed);
  if (!entry.graph)
    entry.graph = ops::device::capture([placed = &entry.placed, work] { work(*placed); });
  entry.graph->replay();
  note_gradients();
}

}  // namespace vax::train
