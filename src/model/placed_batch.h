// A packed micro-batch where operators can read it: in the memory of the device that computes. On a
// CPU that is the batch itself, elsewhere a copy. Ids, positions and targets are checked here, on
// the host: operators on a device cannot.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "base/packed_batch.h"
#include "model/spec.h"
#include "ops/attention.h"

namespace vax::model {

// THROWS ConfigError for a sequence that is longer than the model's positions, std::logic_error for
// an id, a position, a label position or a target that the model does not have.
void check_batch(const PackedBatch& batch, const Spec& spec);

// A tensor over borrowed memory of `device`.
at::Tensor borrowed(std::span<const int64_t> values, at::Device device);
at::Tensor borrowed(std::span<const int32_t> values, at::Device device);

// How much room a batch takes, at least.
struct BatchExtent {
  int64_t num_tokens = 0, num_sequences = 0, num_labels = 0;
  int64_t longest = 0;  // tokens of a sequence

  bool operator==(const BatchExtent&) const = default;
};
BatchExtent extent_of(const PackedBatch& batch);

// On a CPU a view of the batch, which must outlive the object. Elsewhere a copy; with room for more
// than the batch has, the rest is padding that changes nothing: tokens in sequences of their own,
// without labels, and label rows whose target is -1 (no target). What was captured for one batch
// then serves every other of the same extent. Copies of the object share the memory.
class PlacedBatch {
 public:
  PlacedBatch(const PackedBatch& batch, at::Device device);
  // Nothing is in it before load().
  PlacedBatch(const BatchExtent& extent, at::Device device);

  // Copies a batch into the same memory, in the order of the current stream; the host does not wait
  // and may change the batch at once. THROWS std::logic_error unless the extent has the room; with
  // room for labels that the batch does not use, also for one more token. REQUIRES memory of its
  // own: an extent at first, or a device.
  void load(const PackedBatch& batch);

  // As in PackedBatch.
  std::span<const int64_t> ids;              // [T]
  std::span<const int32_t> positions, rows;  // [T]
  ops::SequenceOffsets sequences;
  std::span<const int64_t> label_positions, targets;  // [N]

  int64_t num_tokens() const { return std::ssize(ids); }
  int64_t num_labels() const { return std::ssize(targets); }
  bool empty() const { return ids.empty(); }

 private:
  void allocate(const BatchExtent& extent, at::Device device);

  BatchExtent extent_;
  at::Tensor words_;  // int32, on the device: everything, one part after another
};

}  // namespace vax::model
