// Views that planes hand out: the shape of every group, the memory of the flat buffer, the order of
// a step. One rank; the gathers themselves are the concern of the MPI tests.
#include "train/sharded_weights.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "model/decoder/decoder.h"
#include "support/tiny_llama.h"

namespace vax::train {
namespace {

// The groups of `unit` are views of `flat`, each where it lies; takes them out of `tensors`.
void take_views(const FlatUnit& unit, const at::Tensor& flat, model::UnitTensors& tensors) {
  for (const FlatGroup& group : unit.groups) {
    at::Tensor& tensor = tensors[static_cast<size_t>(group.role)];
    ASSERT_TRUE(tensor.defined()) << unit.name << ", role " << group.role;
    EXPECT_EQ(tensor.sizes().vec(), group.shape) << unit.name << ", role " << group.role;
    EXPECT_TRUE(tensor.is_contiguous());
    EXPECT_EQ(tensor.const_data_ptr(), static_cast<const std::byte*>(flat.const_data_ptr()) +
                                           static_cast<size_t>(group.offset) * flat.element_size())
        << unit.name << ", role " << group.role;
    tensor.reset();
  }
}

void expect_none(const model::UnitTensors& tensors) {
  for (size_t role = 0; role < tensors.size(); ++role)
    EXPECT_FALSE(tensors[role].defined()) << "role " << role << " belongs to no group";
}

// LoRA on a frozen base, or all of the base trainable.
class ShardedWeightsTest : public ::testing::Test {
 protected:
  void make(bool tied, bool train_base, at::ScalarType gather_dtype) {
    weights_.reset();
    llama_.emplace(testing::tiny_config(tied),
                   train_base ? model::LoraSpec{} : testing::tiny_lora(), train_base, gather_dtype);
    frozen_.emplace(
        llama_->frozen_layout(), *group_,
        dist::ShardedUnitsOptions{.shard_dtype = gather_dtype, .gather_dtype = gather_dtype});
    trainable_.emplace(llama_->trainable_layout(), *group_,
                       dist::ShardedUnitsOptions{.gather_dtype = gather_dtype});
    weights_.emplace(*frozen_, *trainable_);
  }
  // Announces these uses to both planes.
  void begin_step(const std::vector<int>& unit_uses) {
    for (Plane* const plane : {&*frozen_, &*trainable_})
      plane->units().begin_step(plane->layout().events_of(unit_uses, llama_->held_together()));
  }

  std::unique_ptr<dist::Collectives> group_ = dist::make_self_collectives();
  std::optional<model::Decoder> llama_;
  std::optional<Plane> frozen_, trainable_;
  std::optional<ShardedWeights> weights_;
};

TEST_F(ShardedWeightsTest, PlaneSkipsUnitsWithoutParameters) {
  make(false, false, at::kFloat);
  const PlaneLayout& layout = trainable_->layout();
  EXPECT_EQ(layout.num_model_units(), 5);
  EXPECT_EQ(layout.index_of(0), -1);
  EXPECT_EQ(layout.index_of(1), 0);
  EXPECT_EQ(layout.index_of(3), 2);
  EXPECT_EQ(layout.index_of(4), -1);
  EXPECT_EQ(layout.indices_of({4, 3, 0, 1, 3}), (std::vector<int>{2, 0, 2}));
  EXPECT_EQ(trainable_->units().num_units(), 3);
  EXPECT_EQ(layout.counts(), std::vector<int64_t>(3, llama_->trainable_layout()[1].count));
  EXPECT_EQ(frozen_->units().num_units(), 5);
}

TEST_F(ShardedWeightsTest, HandsOutBothPlanesByRole) {
  make(false, false, at::kFloat);
  begin_step(llama_->unit_uses(true));
  for (const int unit : llama_->unit_uses(true)) {
    model::UnitTensors tensors = weights_->acquire(unit);
    take_views(llama_->frozen_layout()[static_cast<size_t>(unit)], frozen_->units().shard(unit),
               tensors);
    if (const int index = trainable_->layout().index_of(unit); index >= 0)
      take_views(llama_->trainable_layout()[static_cast<size_t>(unit)],
                 trainable_->units().shard(index), tensors);
    expect_none(tensors);
    weights_->release(unit);
  }
}

TEST_F(ShardedWeightsTest, SeesNewValuesAfterARefresh) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    make(false, true, dtype);
    for (const float value : {1.0f, 2.0f}) {
      for (int index = 0; index < trainable_->units().num_units(); ++index)
        trainable_->units().shard(index).fill_(value);
      trainable_->units().refresh();
      const at::Tensor& norm = weights_->acquire(4)[model::kFinalNorm];
      EXPECT_EQ(norm.scalar_type(), dtype);
      EXPECT_TRUE(at::equal(norm, at::full({20}, value, dtype)));
      weights_->release(4);
    }
  }
}

TEST_F(ShardedWeightsTest, ATiedHeadHoldsTheEmbeddingInsideItself) {
  make(true, true, at::kBFloat16);  // casts of fp32 masters: slots and a schedule
  begin_step(llama_->unit_uses(true));
  for (int unit = 0; unit < llama_->head_unit(); ++unit) {
    weights_->acquire(unit);
    weights_->release(unit);
  }
  EXPECT_FALSE(weights_->acquire(llama_->head_unit())[model::kHead].defined());
  EXPECT_EQ(weights_->acquire(0)[model::kEmbedding].sizes().vec(), (std::vector<int64_t>{37, 20}));
  weights_->release(0);
  weights_->release(llama_->head_unit());
  for (int unit = llama_->num_layers(); unit > 0; --unit) {
    weights_->acquire(unit);
    weights_->release(unit);
  }
  begin_step({});  // all announced uses have taken place
}

TEST_F(ShardedWeightsTest, AnotherOrderThanAnnouncedIsALogicError) {
  make(false, true, at::kBFloat16);
  begin_step({0, 1, 2});
  EXPECT_THROW(weights_->acquire(1), std::logic_error);
}

TEST_F(ShardedWeightsTest, AnUnfinishedStepIsALogicError) {
  make(false, true, at::kBFloat16);
  begin_step({0, 1});
  weights_->acquire(0);
  weights_->release(0);
  EXPECT_THROW(begin_step({}), std::logic_error);
}

TEST_F(ShardedWeightsTest, GradientsAreViewsThatAddUp) {
  make(false, false, at::kFloat);
  dist::ShardedGradients gradients(*group_, trainable_->layout().counts(), at::kCPU);
  ShardedGradientSink sink(*trainable_, gradients);
  for (int micro_batch = 0; micro_batch < 2; ++micro_batch)
    for (const int unit : {4, 3, 2, 1, 0}) {
      model::UnitTensors tensors = sink.acquire(unit).tensors;
      if (const int index = trainable_->layout().index_of(unit); index >= 0) {
        tensors[static_cast<size_t>(model::lora_b_role(model::kDown))].add_(unit);
        take_views(llama_->trainable_layout()[static_cast<size_t>(unit)], gradients.shard(index),
                   tensors);
      }
      expect_none(tensors);  // nor where the weight is frozen
      sink.release(unit);
    }
  gradients.finish();
  for (const int unit : {1, 2, 3}) {
    model::UnitTensors expected;
    const at::Tensor flat = at::zeros({llama_->trainable_layout()[1].count});
    view_groups(llama_->trainable_layout()[static_cast<size_t>(unit)], flat, expected);
    expected[static_cast<size_t>(model::lora_b_role(model::kDown))].fill_(2 * unit);
    EXPECT_TRUE(at::equal(gradients.shard(trainable_->layout().index_of(unit)), flat)) << unit;
  }
}

}  // namespace
}  // namespace vax::train
