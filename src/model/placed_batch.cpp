// Layout of the one buffer: the int64 parts (ids, label positions, targets) first, so that they are
// aligned, then the int32 parts (positions, rows, offsets). One copy to the device moves them all.
#include "model/placed_batch.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/error.h"
#include "base/narrow.h"
#include "ops/device/runtime.h"

namespace vax::model {
namespace {

// Where the parts lie, in int32 words.
struct Parts {
  int64_t ids, label_positions, targets, positions, rows, offsets, end;
};

Parts parts_of(const BatchExtent& extent) {
  Parts parts{};
  parts.ids = 0;
  parts.label_positions = parts.ids + 2 * extent.num_tokens;
  parts.targets = parts.label_positions + 2 * extent.num_labels;
  parts.positions = parts.targets + 2 * extent.num_labels;
  parts.rows = parts.positions + extent.num_tokens;
  parts.offsets = parts.rows + extent.num_tokens;
  parts.end = parts.offsets + extent.num_sequences + 1;
  return parts;
}

// `values`, then `padding` up to `count`.
template <typename T>
void fill(const std::vector<T>& values, int64_t count, T padding, int32_t* words) {
  T* const to = reinterpret_cast<T*>(words);
  std::copy(values.begin(), values.end(), to);
  std::fill(to + values.size(), to + count, padding);
}

// Sequences of padding, none longer than the longest that the extent allows, then empty ones.
void fill_offsets(const std::vector<int32_t>& values, const BatchExtent& extent, int32_t* to) {
  const auto used = std::max<size_t>(values.size(), 1);
  if (values.empty()) to[0] = 0;
  std::copy(values.begin(), values.end(), to);
  for (auto i = static_cast<int64_t>(used); i <= extent.num_sequences; ++i)
    to[i] = narrow<int32_t>(std::min(to[i - 1] + extent.longest, extent.num_tokens));
  VAX_CHECK(to[extent.num_sequences] == extent.num_tokens, "a batch of ", extent.num_sequences,
            " sequences up to ", extent.longest, " tokens has no room for the padding up to ",
            extent.num_tokens);
}

void fill_words(const PackedBatch& batch, const BatchExtent& extent, int32_t* words) {
  const Parts parts = parts_of(extent);
  const BatchExtent needed = extent_of(batch);
  VAX_CHECK(needed.num_tokens <= extent.num_tokens && needed.num_labels <= extent.num_labels &&
                needed.num_sequences <= extent.num_sequences && needed.longest <= extent.longest,
            "a batch of ", needed.num_tokens, " tokens, ", needed.num_sequences,
            " sequences up to ", needed.longest, " and ", needed.num_labels, " labels in room for ",
            extent.num_tokens, ", ", extent.num_sequences, " up to ", extent.longest, " and ",
            extent.num_labels);
  const bool pads_labels = batch.num_labels() < extent.num_labels;
  VAX_CHECK(!pads_labels || batch.num_tokens() < extent.num_tokens,
            "label rows of padding need a token of padding");
  fill<int64_t>(batch.ids, extent.num_tokens, 0, words + parts.ids);
  // Rows of padding all write the same zero gradient to the last token, which is padding too.
  fill<int64_t>(batch.label_positions, extent.num_labels, extent.num_tokens - 1,
                words + parts.label_positions);
  fill<int64_t>(batch.targets, extent.num_labels, -1, words + parts.targets);
  fill<int32_t>(batch.positions, extent.num_tokens, 0, words + parts.positions);
  fill<int32_t>(batch.rows, extent.num_tokens, 0, words + parts.rows);
  fill_offsets(batch.offsets, extent, words + parts.offsets);
}

}  // namespace

void check_batch(const PackedBatch& batch, const Spec& spec) {
  const auto check_range = [](const char* what, int64_t value, int64_t end) {
    VAX_CHECK(value >= 0 && value < end, what, " ", value, " is outside [0, ", end, ")");
  };
  if (const int64_t longest = extent_of(batch).longest; longest > spec.max_positions)
    throw ConfigError(cat("a sequence of ", longest,
                          " tokens is longer than the model's max_position_embeddings = ",
                          spec.max_positions, ": lower data.max_length"));
  for (const int64_t id : batch.ids) check_range("id", id, spec.vocab_size);
  for (const int32_t position : batch.positions)
    check_range("position", position, spec.max_positions);
  for (const int64_t position : batch.label_positions)
    check_range("label position", position, batch.num_tokens());
  for (const int64_t target : batch.targets) check_range("target", target, spec.vocab_size);
}

at::Tensor borrowed(std::span<const int64_t> values, at::Device device) {
  return at::from_blob(const_cast<int64_t*>(values.data()), {std::ssize(values)},
                       at::TensorOptions(at::kLong).device(device));
}

at::Tensor borrowed(std::span<const int32_t> values, at::Device device) {
  return at::from_blob(const_cast<int32_t*>(values.data()), {std::ssize(values)},
                       at::TensorOptions(at::kInt).device(device));
}

BatchExtent extent_of(const PackedBatch& batch) {
  BatchExtent extent{.num_tokens = batch.num_tokens(),
                     .num_sequences = batch.num_sequences(),
                     .num_labels = batch.num_labels()};
  for (size_t s = 1; s < batch.offsets.size(); ++s)
    extent.longest = std::max<int64_t>(extent.longest, batch.offsets[s] - batch.offsets[s - 1]);
  return extent;
}

PlacedBatch::PlacedBatch(const PackedBatch& batch, at::Device device)
    : ids(batch.ids),
      positions(batch.positions),
      rows(batch.rows),
      sequences(batch.offsets, extent_of(batch).longest),
      label_positions(batch.label_positions),
      targets(batch.targets) {
  if (device.is_cpu()) return;
  allocate(extent_of(batch), device);
  load(batch);
}

PlacedBatch::PlacedBatch(const BatchExtent& extent, at::Device device) : sequences({}, 0) {
  allocate(extent, device);
}

void PlacedBatch::allocate(const BatchExtent& extent, at::Device device) {
  extent_ = extent;
  const Parts parts = parts_of(extent);
  words_ = at::empty({parts.end}, at::TensorOptions(at::kInt).device(device));
  int32_t* const words = words_.mutable_data_ptr<int32_t>();
  const auto longs = [words](int64_t begin, int64_t count) {
    return std::span(reinterpret_cast<const int64_t*>(words + begin), static_cast<size_t>(count));
  };
  const auto ints = [words](int64_t begin, int64_t count) {
    return std::span<const int32_t>(words + begin, static_cast<size_t>(count));
  };
  ids = longs(parts.ids, extent.num_tokens);
  positions = ints(parts.positions, extent.num_tokens);
  rows = ints(parts.rows, extent.num_tokens);
  sequences = {ints(parts.offsets, extent.num_sequences + 1), extent.longest};
  label_positions = longs(parts.label_positions, extent.num_labels);
  targets = longs(parts.targets, extent.num_labels);
}

void PlacedBatch::load(const PackedBatch& batch) {
  const at::Tensor host = ops::device::pinned_empty(words_.sizes(), at::kInt);
  fill_words(batch, extent_, host.mutable_data_ptr<int32_t>());
  words_.copy_(host, /*non_blocking=*/true);
}

}  // namespace vax::model
