// Batches as operators read them: what a copy with room for more holds, and what is refused on the
// host because a device could not.
#include "model/placed_batch.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>
#include <stdexcept>
#include <vector>

#include "base/error.h"

namespace vax::model {
namespace {

Spec spec() { return {.vocab_size = 50, .max_positions = 8}; }

// Two sequences, every token but the last of each with a label: also the very first.
PackedBatch batch() {
  return {.ids = {7, 8, 9, 40, 41},
          .positions = {0, 1, 2, 0, 1},
          .rows = {3, 3, 3, 5, 5},
          .offsets = {0, 3, 5},
          .label_positions = {0, 1, 3},
          .targets = {8, 9, 41}};
}

template <typename T>
std::vector<T> values(std::span<const T> span) {
  return {span.begin(), span.end()};
}

TEST(PlacedBatch, OnAHostIsTheBatchItself) {
  const PackedBatch packed = batch();
  const PlacedBatch placed(packed, at::kCPU);
  EXPECT_EQ(placed.ids.data(), packed.ids.data());
  EXPECT_EQ(placed.targets.data(), packed.targets.data());
  EXPECT_EQ(placed.sequences.longest, 3);
}

TEST(PlacedBatch, HoldsWhatItWasMadeFor) {
  const PackedBatch packed = batch();
  PlacedBatch placed(extent_of(packed), at::kCPU);
  placed.load(packed);
  EXPECT_EQ(values(placed.ids), packed.ids);
  EXPECT_EQ(values(placed.positions), packed.positions);
  EXPECT_EQ(values(placed.rows), packed.rows);
  EXPECT_EQ(values(placed.sequences.offsets), packed.offsets);
  EXPECT_EQ(values(placed.label_positions), packed.label_positions);
  EXPECT_EQ(values(placed.targets), packed.targets);
}

TEST(PlacedBatch, PadsWithTokensAndLabelsThatChangeNothing) {
  PlacedBatch placed({.num_tokens = 12, .num_sequences = 6, .num_labels = 5, .longest = 4},
                     at::kCPU);
  // What the one before has left is overwritten.
  PackedBatch before = batch();
  before.ids.assign(5, 49);
  placed.load(before);
  placed.load(batch());
  EXPECT_EQ(values(placed.ids), (std::vector<int64_t>{7, 8, 9, 40, 41, 0, 0, 0, 0, 0, 0, 0}));
  // Padding is in sequences of its own, none longer than the longest, then empty ones.
  EXPECT_EQ(values(placed.sequences.offsets), (std::vector<int32_t>{0, 3, 5, 9, 12, 12, 12}));
  EXPECT_EQ(values(placed.positions), (std::vector<int32_t>{0, 1, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0}));
  // Label rows of padding write their zero gradient to a token of padding, not to one that counts.
  EXPECT_EQ(values(placed.label_positions), (std::vector<int64_t>{0, 1, 3, 11, 11}));
  EXPECT_EQ(values(placed.targets), (std::vector<int64_t>{8, 9, 41, -1, -1}));
}

TEST(PlacedBatch, RefusesWhatItHasNoRoomFor) {
  const auto load = [](const BatchExtent& extent) { PlacedBatch(extent, at::kCPU).load(batch()); };
  const BatchExtent exact = extent_of(batch());
  BatchExtent more_labels = exact, no_sequences = exact;
  more_labels.num_labels += 1;
  EXPECT_THROW(load(more_labels), std::logic_error) << "no token of padding for them";
  no_sequences.num_tokens += 4;
  EXPECT_THROW(load(no_sequences), std::logic_error) << "no sequence for the padding";
  BatchExtent fewer_tokens = exact, fewer_labels = exact, fewer_sequences = exact;
  fewer_tokens.num_tokens -= 1;
  EXPECT_THROW(load(fewer_tokens), std::logic_error);
  fewer_labels.num_labels -= 1;
  EXPECT_THROW(load(fewer_labels), std::logic_error);
  fewer_sequences.num_sequences -= 1;
  EXPECT_THROW(load(fewer_sequences), std::logic_error);
}

TEST(CheckBatch, RefusesWhatTheModelDoesNotHave) {
  EXPECT_NO_THROW(check_batch(batch(), spec()));
  EXPECT_NO_THROW(check_batch({}, spec()));
  const auto with = [](auto change) {
    PackedBatch changed = batch();
    change(changed);
    return changed;
  };
  for (const PackedBatch& bad :
       {with([](PackedBatch& b) { b.ids[4] = 50; }), with([](PackedBatch& b) { b.ids[0] = -1; }),
        with([](PackedBatch& b) { b.positions[2] = 8; }),
        with([](PackedBatch& b) { b.label_positions[1] = 5; }),
        with([](PackedBatch& b) { b.targets[0] = -1; })})
    EXPECT_THROW(check_batch(bad, spec()), std::logic_error);
  Spec shorter = spec();
  shorter.max_positions = 2;
  EXPECT_THROW(check_batch(batch(), shorter), ConfigError);
}

}  // namespace
}  // namespace vax::model
