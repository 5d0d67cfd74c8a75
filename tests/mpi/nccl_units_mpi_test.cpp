// Sharded units and gradients in groups of device memory (the stand-in of NCCL, staging buffers)
// against the same over MPI, bit by bit. Tensors are those of the CPU; the compute stream is the
// host itself (stream null of the stand-in), while the groups' own streams are threads that begin
// every operation late: what does not wait for them reads old bytes or overwrites new ones.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <chrono>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/flat_layout.h"
#include "dist/comm/communicator.h"
#include "dist/device/device_group.h"
#include "dist/shard/sharded_units.h"
#include "standin/nccl/standin.h"
#include "support/unit_values.h"

namespace vax::dist {
namespace {

const std::vector<int64_t> kUnitCounts = {230, 1, 0, 240, 211, 2, 239, 97};
constexpr int kNumUnits = 8;

class DeviceUnits : public ::testing::TestWithParam<Transport> {
 protected:
  void SetUp() override { standin::set_operation_delay(std::chrono::microseconds(600)); }
  void TearDown() override { standin::set_operation_delay(std::chrono::microseconds(0)); }
  std::unique_ptr<Collectives> make(const std::string& purpose) const {
    return make_device_collectives(world_, DeviceContext{}, purpose,
                                   {.transport = GetParam(), .staging_bytes = 500});
  }
  const Communicator world_ = Communicator::world();
};
INSTANTIATE_TEST_SUITE_P(, DeviceUnits, ::testing::Values(Transport::kAuto, Transport::kStaged),
                         [](const auto& kind) {
                           return kind.param == Transport::kAuto ? std::string("Nccl")
                                                                 : std::string("Staged");
                         });

const std::vector<UnitEvent>& step_events() {
  static const std::vector<UnitEvent> events = unit_events(
      {0, 1, 2, 3, 4, 5, 6, 7, 0, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6, 7, 0}, Nesting{7, 0});
  return events;
}

// Every gathered unit of two versions of the weights, by schedule and on demand.
std::vector<at::Tensor> all_gathered(Collectives& group, const ShardedUnitsOptions& options) {
  ShardedUnits units(group, kUnitCounts, options);
  std::vector<at::Tensor> seen;
  for (int version = 0; version < 2; ++version) {
    vax::testing::write_unit_values(units, version);
    units.refresh();
    for (const bool scheduled : {true, false}) {
      if (scheduled) units.begin_step(step_events());
      for (const UnitEvent& event : step_events()) {
        if (!event.acquire)
          units.release(event.unit);
        else
          seen.push_back(units.acquire(event.unit).clone());
      }
    }
  }
  // A gather that is dropped: under way when the weights change, and when the object goes.
  units.begin_step(step_events());
  units.acquire(0);
  units.release(0);
  vax::testing::write_unit_values(units, 2);
  units.refresh();
  seen.push_back(units.acquire(3).clone());
  units.release(3);
  units.begin_step(step_events());
  units.acquire(0);
  units.release(0);
  return seen;
}

TEST_P(DeviceUnits, GatherTheSameBytesAsOverMpi) {
  const std::unique_ptr<Collectives> device = make("gather"), host = world_.make_collectives();
  const double one_slot_gib = 240 * 4 / 0x1p30;
  for (const at::ScalarType gathered : {at::kFloat, at::kBFloat16})
    for (const double residency : {0.0, one_slot_gib, 1.0})
      for (const int prefetch : {0, 1, 3}) {
        const ShardedUnitsOptions options{.gather_dtype = gathered,
                                          .residency_gib = residency,
                                          .prefetch = prefetch,
                                          .held_at_once = 2};
        SCOPED_TRACE(
            cat(at::toString(gathered), ", residency ", residency, ", prefetch ", prefetch));
        const std::vector<at::Tensor> actual = all_gathered(*device, options);
        const std::vector<at::Tensor> expected = all_gathered(*host, options);
        ASSERT_EQ(actual.size(), expected.size());
        for (size_t i = 0; i < expected.size(); ++i)
          ASSERT_TRUE(at::equal(actual[i], expected[i])) << "acquire no. " << i;
      }
}

// Readers of a slot hold its next gather back, whichever unit it is for.
TEST_P(DeviceUnits, ViewsInTwoTypesGatherInTwoGroups) {
  const std::unique_ptr<Collectives> one = make("gather"), two = make("gather as bf16");
  ShardedUnits units(*one, kUnitCounts, {});
  ShardedUnits view(*two, units, {.gather_dtype = at::kBFloat16});
  vax::testing::write_unit_values(units, 5);
  units.refresh();
  view.refresh();
  for (int unit = 0; unit < kNumUnits; ++unit) {
    const at::Tensor whole = vax::testing::unit_values(kUnitCounts[unit], unit, 5);
    const at::Tensor a = units.acquire(unit), b = view.acquire(unit);
    EXPECT_TRUE(at::equal(a, whole));
    EXPECT_TRUE(at::equal(b, whole.to(at::kBFloat16)));
    units.release(unit);
    view.release(unit);
  }
}

TEST_P(DeviceUnits, SlotsAndBuffersAreRegisteredWhileTheyLive) {
  const int64_t before = standin::counts().registrations;
  const std::unique_ptr<Collectives> group = make("gather");
  const bool registers = group->name() == "nccl";
  {
    ShardedUnits units(*group, kUnitCounts, {.prefetch = 2});
    EXPECT_EQ(standin::counts().registrations - before, registers ? 1 : 0);
    const int64_t with_units = standin::counts().registrations;
    ShardedGradients gradients(*group, kUnitCounts, at::kCPU);
    EXPECT_EQ(standin::counts().registrations - with_units, registers ? 1 : 0);
  }
  EXPECT_EQ(standin::counts().registrations, before);
}

// Magnitudes over several decades: another order of the additions gives other bits.
at::Tensor addend(int64_t count, int rank, int unit, int micro) {
  const at::Tensor index = at::arange(count, at::kFloat);
  return at::sin(index * (1.7f + static_cast<float>(rank)) + static_cast<float>(micro + unit)) *
         at::exp(index.remainder(17));
}

std::vector<at::Tensor> all_reduced(Collectives& group) {
  ShardedGradients gradients(group, kUnitCounts, at::kCPU);
  std::vector<at::Tensor> shards;
  for (int step = 0; step < 2; ++step) {
    gradients.zero();
    for (int micro = 0; micro < 3; ++micro)
      for (const int unit : {7, 6, 5, 4, 3, 2, 1, 0, 3}) {
        const GradientBuffer buffer = gradients.acquire(unit);
        const at::Tensor values = addend(kUnitCounts[unit], group.rank(), unit, micro + 3 * step);
        at::Tensor flat = buffer.flat;
        // Written twice, as by a kernel that fills and one that adds.
        if (!buffer.accumulate) flat.fill_(std::numeric_limits<float>::quiet_NaN());
        buffer.accumulate ? flat.add_(values) : flat.copy_(values);
        gradients.release(unit);
      }
    gradients.finish();
    for (int unit = 0; unit < kNumUnits; ++unit) shards.push_back(gradients.shard(unit).clone());
  }
  // Under way when the object goes.
  gradients.acquire(0).flat.zero_();
  gradients.release(0);
  return shards;
}

TEST_P(DeviceUnits, GradientsHaveTheSameBitsAsOverMpi) {
  const std::unique_ptr<Collectives> device = make("reduce"), host = world_.make_collectives();
  const std::vector<at::Tensor> actual = all_reduced(*device), expected = all_reduced(*host);
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_TRUE(at::equal(actual[i], expected[i])) << "unit " << i % kNumUnits;
}

// Without better memory than ordinary.
TEST_P(DeviceUnits, DoWithOrdinaryMemory) {
  standin::refuse_memory(true);
  const std::unique_ptr<Collectives> group = make("gather"), host = world_.make_collectives();
  EXPECT_TRUE(at::equal(all_gathered(*group, {.held_at_once = 2})[0],
                        all_gathered(*host, {.held_at_once = 2})[0]));
  standin::refuse_memory(false);
}

TEST(HostGroup, ServesNoTensorsOfADevice) {
  const std::unique_ptr<Collectives> group = Communicator::world().make_collectives();
  const at::Device device(at::kCUDA, 0);
  EXPECT_THROW(ShardedUnits(*group, {4}, {.device = device}), std::logic_error);
  EXPECT_THROW(ShardedGradients(*group, std::vector<int64_t>{4}, device), std::logic_error);
  ShardedUnits units(*group, {4}, {});
  EXPECT_THROW(ShardedUnits(*group, units, {.device = device}), std::logic_error);
}

TEST(NodeShared, IsHostMemoryOnly) {
  const Communicator node = Communicator::world().split_by_node();
  const std::unique_ptr<Collectives> group =
      make_device_collectives(node, DeviceContext{}, "gather");
  const at::Device device(at::kCUDA, 0);
  EXPECT_THROW(ShardedUnits(*group, {4}, {.node = &node, .device = device}), std::logic_error);
  FlatLayout layout(1);
  layout[0].add_group(0, {{.name = "w", .shape = {4}}});
  EXPECT_THROW(ShardedGradients(*group, layout, device, &node), std::logic_error);
}

}  // namespace
}  // namespace vax::dist
