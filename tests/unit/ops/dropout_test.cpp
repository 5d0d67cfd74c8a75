// Dropout masks against their definition, drawn one by one with the scalar Philox.
#include "ops/dropout.h"

#include <cmath>
#include <stdexcept>
#include <vector>

#include "base/philox.h"
#include "ops_test.h"

namespace vax::ops::test {
namespace {

// Tokens of sequences `rows[i]`, `lengths[i]` long.
struct Places {
  std::vector<int32_t> rows, positions;
  mutable DeviceCopies copies;
  void add(int32_t row, int32_t length) {
    for (int32_t p = 0; p < length; ++p) {
      rows.push_back(row);
      positions.push_back(p);
    }
  }
  DropoutKey key(double p) const {
    return {.p = p,
            .seed = 11,
            .stream = 22,
            .site = 33,
            .rows = copies.of(rows),
            .positions = copies.of(positions)};
  }
  int64_t size() const { return static_cast<int64_t>(rows.size()); }
};

at::Tensor mask_of(const DropoutKey& key, int64_t channels) {
  at::Tensor y = empty({std::ssize(key.rows), channels});
  dropout(at::ones_like(y), key, y);
  return y;
}

// The definition in dropout.h, element by element.
bool kept(const Places& places, const DropoutKey& key, size_t token, uint32_t channel) {
  const PhiloxCounter draw =
      philox4x32({static_cast<uint32_t>(places.rows[token]),
                  static_cast<uint32_t>(places.positions[token]), key.site, channel / 8},
                 philox_key(key.seed, key.stream));
  const uint32_t word = draw[channel % 8 / 2];
  const uint32_t bits = channel % 2 == 0 ? word & 0xffff : word >> 16;
  return bits >= static_cast<uint32_t>(std::lround(key.p * 65536));
}

TEST(DropoutTest, FollowsItsDefinition) {
  Places places;
  places.add(0, 3);
  places.add(1000000, 2);
  for (const double p : {1e-6, 0.1, 0.5, 0.999999}) {
    for (const int64_t channels : {1, 7, 8, 77, 300}) {
      const DropoutKey key = places.key(p);
      const at::Tensor mask = mask_of(key, channels);
      const auto scale = static_cast<float>(1 / (1 - p));
      for (int64_t t = 0; t < places.size(); ++t) {
        for (int64_t c = 0; c < channels; ++c) {
          const float expected =
              kept(places, key, static_cast<size_t>(t), static_cast<uint32_t>(c)) ? scale : 0.0f;
          ASSERT_EQ(mask[t][c].item<float>(), expected) << p << " " << t << " " << c;
        }
      }
    }
  }
}

TEST(DropoutTest, DropsTheAskedShare) {
  Places places;
  places.add(0, 1000);
  for (const double p : {0.1, 0.5}) {
    const at::Tensor mask = mask_of(places.key(p), 512);
    const double dropped = (mask == 0).to(at::kDouble).mean().item<double>();
    // Five standard deviations of a share of 512000 draws, and the rounding of p to 16 bits.
    EXPECT_NEAR(dropped, p, 5 * std::sqrt(p * (1 - p) / 512000) + 1.0 / 65536);
    // Per channel and per token the share may only vary as 1000 and 512 draws do (six deviations).
    const at::Tensor zero = (mask == 0).to(at::kDouble);
    EXPECT_LT((zero.mean(0) - p).abs().max().item<double>(), 6 * std::sqrt(p * (1 - p) / 1000));
    EXPECT_LT((zero.mean(1) - p).abs().max().item<double>(), 6 * std::sqrt(p * (1 - p) / 512));
  }
}

TEST(DropoutTest, MaskDependsOnThePlaceNotOnThePacking) {
  Places both, swapped;
  both.add(4, 3);
  both.add(9, 5);
  swapped.add(9, 5);
  swapped.add(4, 3);
  const at::Tensor one = mask_of(both.key(0.3), 50), other = mask_of(swapped.key(0.3), 50);
  EXPECT_TRUE(same_bits(one.narrow(0, 0, 3), other.narrow(0, 5, 3)));
  EXPECT_TRUE(same_bits(one.narrow(0, 3, 5), other.narrow(0, 0, 5)));
}

TEST(DropoutTest, EveryPartOfTheKeyMatters) {
  Places places, other_row;
  places.add(0, 2);
  other_row.add(1, 2);
  const DropoutKey key = places.key(0.5);
  const at::Tensor mask = mask_of(key, 64);
  EXPECT_FALSE(same_bits(mask[0], mask[1])) << "position";
  EXPECT_FALSE(same_bits(mask, mask_of(other_row.key(0.5), 64))) << "row";
  DropoutKey changed = key;
  changed.seed += 1;
  EXPECT_FALSE(same_bits(mask, mask_of(changed, 64))) << "seed";
  changed = key;
  changed.stream += 1;
  EXPECT_FALSE(same_bits(mask, mask_of(changed, 64))) << "stream";
  changed = key;
  changed.site += 1;
  EXPECT_FALSE(same_bits(mask, mask_of(changed, 64))) << "site";
}

TEST(DropoutTest, WorksInPlaceAndInBf16) {
  Places places;
  places.add(0, 9);
  const at::Tensor x = random({9, 37}, 1, at::kBFloat16);
  const at::Tensor expected = (x.to(at::kFloat) * mask_of(places.key(0.25), 37)).to(at::kBFloat16);
  at::Tensor y = x.clone();
  dropout(y, places.key(0.25), y);
  EXPECT_TRUE(at::equal(y, expected));
}

TEST(DropoutTest, NothingIsDroppedWithoutAProbability) {
  const at::Tensor x = random({3, 10}, 1);
  at::Tensor y = at::zeros_like(x), nothing = empty({0, 10});
  dropout(x, {}, y);  // needs no rows and positions
  EXPECT_TRUE(same_bits(x, y));
  dropout(nothing, Places().key(0.5), nothing);
}

TEST(DropoutTest, RefusesBadKeys) {
  Places places;
  places.add(0, 3);
  at::Tensor x = ones({4, 5});
  EXPECT_THROW(dropout(x, places.key(0.5), x), std::logic_error) << "3 places for 4 tokens";
  places.add(1, 1);
  EXPECT_THROW(dropout(x, places.key(1.0), x), std::logic_error);
  EXPECT_THROW(dropout(x, places.key(-0.1), x), std::logic_error);
}

}  // namespace
}  // namespace vax::ops::test
