#include "train/pass_engine.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/narrow.h"
#include "base/philox.h"
#include "ops/device/transfer.h"
#include "ops/dropout.h"

namespace vax::train {
namespace {

// Extents are rounded up to these, so that few graphs serve many batches. What padding costs is a
// few percent of a step that is small enough to gain from graphs.
constexpr int64_t kTokenMultiple = 128, kLabelMultiple = 128, kLongestMultiple = 64;

// Which masks of a stream: those that its passes share, and others.
constexpr uint64_t kMasks = 2;

// The stream of random numbers for masks. The run's data has step and kind of mask alone, so that
// masks do not depend on what other streams a method reads.
uint64_t mask_stream(int64_t step, size_t stream, uint64_t kind) {
  constexpr int kStreamBits = 56;
  return ops::dropout_stream(static_cast<uint64_t>(step), kind) +
         (static_cast<uint64_t>(stream) << kStreamBits);
}

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

// One small tensor, so that one copy brings everything: for each stream 1 / N as two words, then
// its keys.
struct PassEngine::Numbers {
  static constexpr int64_t kScaleWords = 2, kKeyWords = 2;
  static constexpr int64_t kStreamWords = kScaleWords + kMasks * kKeyWords;
  at::Tensor words;

  Numbers(size_t num_streams, at::Device device)
      : words(at::empty({static_cast<int64_t>(num_streams) * kStreamWords},
                        at::TensorOptions(at::kInt).device(device))) {}
  void load(const StepBatch& batch, uint64_t seed) {
    const at::Tensor host = ops::device::pinned_empty(words.sizes(), at::kInt);
    auto* to = host.mutable_data_ptr<int32_t>();
    for (size_t stream = 0; stream < batch.streams.size(); ++stream) {
      const double scale = 1.0 / static_cast<double>(batch.streams[stream].label_tokens);
      std::memcpy(to, &scale, sizeof(scale));
      to += kScaleWords;
      for (uint64_t kind = 0; kind < kMasks; ++kind, to += kKeyWords) {
        const PhiloxKey key = philox_key(seed, mask_stream(batch.step, stream, kind));
        std::memcpy(to, key.data(), sizeof(key));
      }
    }
    words.copy_(host, /*non_blocking=*/true);
  }
  at::Tensor scale(size_t stream) const {
    return at::from_blob(
        words.mutable_data_ptr<int32_t>() + static_cast<int64_t>(stream) * kStreamWords, {},
        [keep = words](void*) {}, words.options().dtype(at::kDouble));
  }
  const uint32_t* key(size_t stream, uint64_t kind) const {
    return reinterpret_cast<const uint32_t*>(words.const_data_ptr<int32_t>() +
                                             static_cast<int64_t>(stream) * kStreamWords +
                                             kScaleWords + kKeyWords * static_cast<int64_t>(kind));
  }
};

struct PassEngine::Captured {
  PlacedStep placed;
  bool has_run = false, adds_gradients = false;
  std::unique_ptr<ops::device::Graph> graph;
};

bool recomputes(const TrainOptions& options, bool weight_gradients) {
  return options.recompute == Recompute::kAll ||
         (options.recompute == Recompute::kPass2 && weight_gradients);
}

PassEngine::PassEngine(const PassInputs& inputs) : inputs_(inputs) {}

at::TensorOptions PassEngine::sum_options() const {
  return at::TensorOptions(at::kDouble).device(inputs_.update.model.device());
}

void PassEngine::set_phase(const char* phase) const {
  if (inputs_.calls != nullptr) inputs_.calls->set_phase(phase);
}

const PlacedStream& PassEngine::placed(int stream) const {
  VAX_CHECK(running_ != nullptr, "a pass outside of Engine::passes()");
  return running_->at(static_cast<size_t>(stream));
}

int64_t PassEngine::num_captured() const {
  return std::ranges::count_if(captured_,
                               [](const auto& entry) { return entry.second->graph != nullptr; });
}

PlacedStep PassEngine::numbers_of_step() const {
  PlacedStep placed(batch_.streams.size());
  for (size_t stream = 0; stream < placed.size(); ++stream) {
    PlacedStream& to = placed[stream];
    for (uint64_t kind = 0; kind < kMasks; ++kind)
      to.dropout_streams[kind] = mask_stream(batch_.step, stream, kind);
    if (!numbers_) {
      to.loss_scale = at::scalar_tensor(
          1.0 / static_cast<double>(batch_.streams[stream].label_tokens), at::kDouble);
      continue;
    }
    to.loss_scale = numbers_->scale(stream);
    to.dropout_keys = {numbers_->key(stream, 0), numbers_->key(stream, 1)};
  }
  return placed;
}

void PassEngine::begin(const StepBatch& batch) {
  const model::Model& model = inputs_.update.model;
  for (const StreamBatch& stream : batch.streams)
    for (const PackedBatch& micro_batch : stream.micro_batches)
      model::check_batch(micro_batch, model.spec());
  batch_ = batch;
  if (ops::device::is_selected()) {
    if (!numbers_) numbers_ = std::make_shared<Numbers>(batch.streams.size(), model.device());
    numbers_->load(batch, inputs_.train.seed);
  }
  if (inputs_.use_graphs) return;
  placed_ = numbers_of_step();
  for (size_t stream = 0; stream < placed_.size(); ++stream)
    for (const PackedBatch& micro_batch : batch.streams[stream].micro_batches)
      placed_[stream].micro_batches.emplace_back(micro_batch, model.device());
}

PassEngine::Captured& PassEngine::captured(int kind) {
  const model::Model& model = inputs_.update.model;
  std::vector<std::vector<model::BatchExtent>> extents;
  Key key = {owner_, kind};
  for (const StreamBatch& stream : batch_.streams) {
    extents.emplace_back();
    key.push_back(std::ssize(stream.micro_batches));
    for (const PackedBatch& micro_batch : stream.micro_batches) {
      const model::BatchExtent e = rounded(model::extent_of(micro_batch), model.max_positions());
      extents.back().push_back(e);
      key.insert(key.end(), {e.num_tokens, e.num_sequences, e.num_labels, e.longest});
    }
  }
  std::shared_ptr<Captured>& found = captured_[key];
  if (!found) {
    found = std::make_shared<Captured>();
    found->placed = numbers_of_step();
    for (size_t stream = 0; stream < extents.size(); ++stream)
      for (const model::BatchExtent& extent : extents[stream])
        found->placed[stream].micro_batches.emplace_back(extent, model.device());
  }
  for (size_t stream = 0; stream < extents.size(); ++stream)
    for (size_t i = 0; i < extents[stream].size(); ++i)
      found->placed[stream].micro_batches[i].load(batch_.streams[stream].micro_batches[i]);
  return *found;
}

void PassEngine::run_on(const PlacedStep& placed, const std::function<void()>& work) {
  running_ = &placed;
  adds_gradients_ = false;
  work();
  running_ = nullptr;
}

// A replay writes the gradients without asking for them: says that they are written.
void PassEngine::note_gradients() {
  for (int unit = 0; unit < inputs_.update.model.num_units(); ++unit) {
    inputs_.gradients.acquire(unit);
    inputs_.gradients.release(unit);
  }
}

void PassEngine::passes(int kind, const std::function<void()>& work) {
  if (!inputs_.use_graphs) return run_on(placed_, work);
  Captured& entry = captured(kind);
  // The first time as it is: libraries set themselves up on their first calls, which cannot be
  // captured.
  const bool is_first = !std::exchange(entry.has_run, true);
  if (is_first || (!entry.graph && num_captured() == kMostGraphs)) {
    run_on(entry.placed, work);
    entry.adds_gradients = adds_gradients_;
    return;
  }
  if (!entry.graph)
    entry.graph =
        ops::device::capture([this, placed = &entry.placed, work] { run_on(*placed, work); });
  entry.graph->replay();
  if (entry.adds_gradients) note_gradients();
}

void PassEngine::pass(const MicroBatches& micro_batches, const PassSpec& spec) {
  const PlacedStream& stream = placed(micro_batches.stream);
  const PassModel& on = spec.weights == PassWeights::kProbe ? inputs_.probe : inputs_.update;
  const size_t masks = spec.own_masks ? 1 : 0;
  set_phase(spec.name);
  adds_gradients_ = adds_gradients_ || spec.weight_gradients;
  model::PassOptions options{
      .loss_scale = spec.factor == 1 ? stream.loss_scale : stream.loss_scale * spec.factor,
      .dropout = inputs_.dropout,
      .seed = inputs_.train.seed,
      .dropout_stream = stream.dropout_streams[masks],
      .dropout_key = stream.dropout_keys[masks],
      .recompute = recomputes(inputs_.train, spec.weight_gradients),
      .stop_at_first_boundary = !spec.weight_gradients};
  at::Tensor loss_sum = spec.loss_sum.defined() ? spec.loss_sum : at::zeros({}, sum_options());
  model::GradientSink* const gradients = spec.weight_gradients ? &inputs_.gradients : nullptr;
  for (size_t i = 0; i < micro_batches.count; ++i) {
    if (spec.forward_boundary)
      options.forward_boundary = [&spec, i](int layer, const at::Tensor& e_TD, at::Tensor& h_TD) {
        spec.forward_boundary(i, layer, e_TD, h_TD);
      };
    if (spec.backward_boundary)
      options.backward_boundary = [&spec, i](int layer, const at::Tensor& grad_TD) {
        spec.backward_boundary(i, layer, grad_TD);
      };
    on.model.forward_backward(stream.micro_batches.at(micro_batches.first + i), on.weights,
                              gradients, options, loss_sum);
  }
}

std::vector<double> PassEngine::sum_over_ranks(const at::Tensor& sums, int64_t num_agreed) {
  ops::device::wait_for(sums);
  const at::Tensor host =
      sums.to(at::kCPU, /*non_blocking=*/false, /*copy=*/true).reshape({sums.numel()});
  auto* const values = host.mutable_data_ptr<double>();
  inputs_.world
      .all_reduce(values + num_agreed, host.numel() - num_agreed, dist::DataType::kFloat64,
                  dist::ReduceOp::kSum)
      .wait();
  return {values, values + host.numel()};
}

}  // namespace vax::train
