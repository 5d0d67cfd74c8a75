// The base as every rank of every group size reads it, against the whole tensors that were written;
// merged adapters against W + scale B A in fp64; what does not fit is refused before it is read.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "model/decoder/layout.h"
#include "support/tiny_llama.h"
#include "train/base_weights.h"

namespace vax::train {
namespace {

using io::testing::expect_data_error;
using testing::NamedTensors;

constexpr int kMostRanks = 5;

// Members by name, put together from what each rank of `num_ranks` has in its shards after `load`.
NamedTensors load_in_pieces(const FlatLayout& layout, int num_ranks, at::ScalarType dtype,
                            const std::function<void(Plane&)>& load) {
  std::vector<at::Tensor> flats;
  for (const FlatUnit& unit : layout) flats.push_back(at::full({unit.count}, NAN, dtype));
  for (int rank = 0; rank < num_ranks; ++rank) {
    testing::LonelyRank group(rank, num_ranks);
    Plane plane(layout, group, {.shard_dtype = dtype, .gather_dtype = dtype});
    load(plane);
    for (int unit = 0; unit < plane.layout().num_model_units(); ++unit) {
      const int index = plane.layout().index_of(unit);
      if (index < 0) continue;
      const dist::Partition& part = plane.units().partition(index);
      const int64_t own = part.end - part.begin;
      flats[static_cast<size_t>(unit)]
          .narrow(0, part.begin, own)
          .copy_(plane.units().shard(index).narrow(0, 0, own));
    }
  }
  NamedTensors tensors;
  for (size_t unit = 0; unit < layout.size(); ++unit)
    for (const FlatGroup& group : layout[unit].groups)
      for (const FlatMember& member : group.members)
        tensors[member.name] =
            flats[unit].narrow(0, member.offset, member.count).view(member.shape);
  return tensors;
}

void expect_equal(const NamedTensors& actual, const NamedTensors& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [name, tensor] : expected)
    EXPECT_TRUE(at::equal(actual.at(name), tensor)) << name;
}

class BaseWeightsTest : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (scratch_ / name).string(); }

  // Opens a model directory with these tensors, against the layout of config_.
  void open(const NamedTensors& tensors) const {
    testing::write_tiny_model(path("changed"), config_, tensors);
    BaseWeights(path("changed"), layout_, config_.names.ignored, {});
  }
  void open_with_adapter(const model::LoraSpec& spec, const NamedTensors& factors) const {
    testing::write_tiny_model(path("base"), config_, tensors_);
    testing::write_tiny_adapter(path("adapter"), spec, factors);
    BaseWeights(path("base"), layout_, config_.names.ignored, std::vector{path("adapter")});
  }

  io::testing::ScratchDirectory scratch_;
  model::Spec config_ = testing::tiny_config();
  FlatLayout layout_ = model::base_layout(config_);
  NamedTensors tensors_ = testing::tiny_tensors(layout_, 1);
  model::LoraSpec lora_ = testing::tiny_lora();
  FlatLayout lora_layout_ = model::lora_layout(config_, lora_);
};

TEST_F(BaseWeightsTest, PiecesOfEveryGroupSizeMakeTheWhole) {
  testing::write_tiny_model(path("base"), config_, tensors_);
  const BaseWeights base(path("base"), layout_, config_.names.ignored, {});
  NamedTensors rounded = tensors_;
  for (auto& [name, tensor] : rounded) tensor = tensor.to(at::kBFloat16);
  for (int num_ranks = 1; num_ranks <= kMostRanks; ++num_ranks) {
    SCOPED_TRACE(num_ranks);
    const auto load = [&](Plane& plane) { load_base(plane, base); };
    expect_equal(load_in_pieces(layout_, num_ranks, at::kFloat, load), tensors_);
    expect_equal(load_in_pieces(layout_, num_ranks, at::kBFloat16, load), rounded);
  }
}

// W + scale B A in fp64 for the modules of `factors`.
void add_delta(NamedTensors& weights, const NamedTensors& factors, double scale) {
  const std::string prefix = "base_model.model.", suffix = ".lora_A.weight";
  for (const auto& [name, a] : factors) {
    if (!name.ends_with(suffix)) continue;
    const std::string module =
        name.substr(prefix.size(), name.size() - prefix.size() - suffix.size());
    const at::Tensor& b = factors.at(io::lora_b_name(module));
    weights.at(module + ".weight") += scale * at::mm(b.to(at::kDouble), a.to(at::kDouble));
  }
}

TEST_F(BaseWeightsTest, MergesAdaptersInEveryGroupSize) {
  testing::write_tiny_model(path("base"), config_, tensors_);
  const model::LoraSpec second = model::make_lora_spec(config_, 5, 2, {"q_proj", "gate_proj"});
  const NamedTensors factors[] = {testing::tiny_tensors(lora_layout_, 2),
                                  testing::tiny_tensors(model::lora_layout(config_, second), 3)};
  testing::write_tiny_adapter(path("first"), lora_, factors[0]);
  testing::write_tiny_adapter(path("second"), second, factors[1]);
  NamedTensors expected;
  for (const auto& [name, tensor] : tensors_) expected[name] = tensor.to(at::kDouble);
  std::vector<std::string> merge;
  for (size_t adapter = 0; adapter < 2; ++adapter) {
    merge.push_back(path(adapter == 0 ? "first" : "second"));
    add_delta(expected, factors[adapter], adapter == 0 ? 4.0 / 3 : 2.0 / 5);
    const BaseWeights base(path("base"), layout_, config_.names.ignored, merge);
    for (int num_ranks = 1; num_ranks <= kMostRanks; ++num_ranks) {
      SCOPED_TRACE(::testing::Message() << adapter + 1 << " adapters, " << num_ranks << " ranks");
      const auto load = [&](Plane& plane) { load_base(plane, base); };
      const NamedTensors merged = load_in_pieces(layout_, num_ranks, at::kFloat, load);
      const NamedTensors rounded = load_in_pieces(layout_, num_ranks, at::kBFloat16, load);
      for (const auto& [name, tensor] : expected) {
        // At most nine roundings of fp32 (6e-8 each) on numbers below 1.5.
        EXPECT_TRUE(at::allclose(merged.at(name).to(at::kDouble), tensor, 0, 8e-7)) << name;
        // Rounded once: a bf16 sum of a bf16 W and a bf16 delta would differ.
        EXPECT_TRUE(at::equal(rounded.at(name), merged.at(name).to(at::kBFloat16))) << name;
      }
    }
  }
}

TEST_F(BaseWeightsTest, ReadsAnyRangeOfAMergedTensor) {
  testing::write_tiny_model(path("base"), config_, tensors_);
  testing::write_tiny_adapter(path("adapter"), config_, lora_, 2);
  const BaseWeights base(path("base"), layout_, config_.names.ignored,
                         std::vector{path("adapter")});
  const FlatMember& member = layout_[1].groups[1].members[0];
  ASSERT_EQ(member.name, "model.layers.0.self_attn.q_proj.weight");
  at::Tensor whole = at::empty({member.count});
  base.read(member, 0, whole);
  // Within a row, from the last element of one to the first of the next, whole rows, the last one.
  for (const auto& [first, count] : std::vector<std::pair<int64_t, int64_t>>{
           {3, 5}, {19, 2}, {20, 40}, {39, 23}, {member.count - 1, 1}}) {
    at::Tensor part = at::empty({count});
    base.read(member, first, part);
    // B A has its own order of additions for each number of rows: three products of fp32.
    EXPECT_TRUE(at::allclose(part, whole.narrow(0, first, count), 0, 3e-7)) << first;
  }
}

TEST_F(BaseWeightsTest, RefusesADirectoryThatIsNotTheModelOfItsConfig) {
  const std::string q_proj = "model.layers.1.self_attn.q_proj.weight";
  NamedTensors changed = tensors_;
  changed.erase(q_proj);
  expect_data_error([&] { open(changed); }, {path("changed"), q_proj, "missing"});
  changed = tensors_;
  changed[q_proj] = changed[q_proj].t().contiguous();
  expect_data_error([&] { open(changed); }, {"model.safetensors", q_proj, "[24, 20]", "[20, 24]"});
  changed = tensors_;
  changed[q_proj] = at::ones({24, 20}, at::kLong);
  expect_data_error([&] { open(changed); }, {"model.safetensors", q_proj, "F32", "I64"});
  // One layer more than config.json says.
  changed = tensors_;
  changed["model.layers.3.input_layernorm.weight"] = at::ones({20});
  expect_data_error([&] { open(changed); }, {"model.safetensors", "layers.3", "config.json"});
}

TEST_F(BaseWeightsTest, IgnoresWhatTransformersDropsToo) {
  NamedTensors more = tensors_;
  more["model.layers.0.self_attn.rotary_emb.inv_freq"] = at::ones({3});
  EXPECT_NO_THROW(open(more));
  config_ = testing::tiny_config(true);
  layout_ = model::base_layout(config_);
  EXPECT_NO_THROW(open(tensors_)) << "the copy of a tied head";
}

TEST_F(BaseWeightsTest, RefusesAnAdapterThatDoesNotFit) {
  const NamedTensors factors = testing::tiny_tensors(lora_layout_, 2);
  const std::string module = "model.layers.0.self_attn.q_proj";
  const std::string a = io::lora_a_name(module), b = io::lora_b_name(module);
  EXPECT_NO_THROW(open_with_adapter(lora_, factors));

  NamedTensors changed = factors;
  changed[a] = at::ones({3, 21});
  expect_data_error([&] { open_with_adapter(lora_, changed); },
                    {"adapter_model.safetensors", a, "[3, 20]", "[3, 21]"});
  changed = factors;
  changed[b] = at::ones({25, 3});
  expect_data_error([&] { open_with_adapter(lora_, changed); },
                    {"adapter_model.safetensors", b, "[24, 3]", "[25, 3]"});
  changed = factors;
  const std::string unknown = "model.layers.3.self_attn.q_proj";
  changed[io::lora_a_name(unknown)] = factors.at(a);
  changed[io::lora_b_name(unknown)] = factors.at(b);
  expect_data_error([&] { open_with_adapter(lora_, changed); }, {path("adapter"), unknown});
}

TEST_F(BaseWeightsTest, FreshFactorsAreTheSameForEveryGroupSize) {
  const auto init = [](uint64_t seed) { return [seed](Plane& plane) { init_lora(plane, seed); }; };
  const NamedTensors whole = load_in_pieces(lora_layout_, 1, at::kFloat, init(7));
  const NamedTensors other = load_in_pieces(lora_layout_, 1, at::kFloat, init(8));
  for (const auto& [name, tensor] : whole) {
    if (name.ends_with("lora_B.weight")) {
      EXPECT_TRUE(at::equal(tensor, at::zeros_like(tensor))) << name;
      continue;
    }
    const double bound = 1 / std::sqrt(static_cast<double>(tensor.size(1)));
    // One rounding of fp32 above; of 60 uniform numbers the largest is below 0.8 with 1e-6.
    EXPECT_LE(tensor.abs().max().item<double>(), bound * (1 + 1e-6)) << name;
    EXPECT_GT(tensor.abs().max().item<double>(), 0.8 * bound) << name;
    EXPECT_LT(std::abs(tensor.mean().item<double>()), 0.4 * bound) << name;  // 5 standard errors
    EXPECT_FALSE(at::equal(tensor, other.at(name))) << name;
  }
  for (int num_ranks = 2; num_ranks <= kMostRanks; ++num_ranks)
    expect_equal(load_in_pieces(lora_layout_, num_ranks, at::kFloat, init(7)), whole);
}

TEST_F(BaseWeightsTest, LoadedFactorsAreTheFilesForEveryGroupSize) {
  const NamedTensors factors = testing::tiny_tensors(lora_layout_, 2);
  testing::write_tiny_adapter(path("adapter"), lora_, factors);
  const io::PeftAdapter adapter = io::PeftAdapter::open(path("adapter"));
  for (int num_ranks = 1; num_ranks <= kMostRanks; ++num_ranks)
    expect_equal(load_in_pieces(lora_layout_, num_ranks, at::kFloat,
                                [&](Plane& plane) { load_lora(plane, adapter, path("adapter")); }),
                 factors);
}

TEST_F(BaseWeightsTest, RefusesFactorsThatTheModelHasNoRoomFor) {
  const auto load = [this](const model::LoraSpec& of_file, const model::LoraSpec& of_model) {
    testing::write_tiny_adapter(path("adapter"), config_, of_file, 2);
    const io::PeftAdapter adapter = io::PeftAdapter::open(path("adapter"));
    testing::LonelyRank group(0, 2);
    Plane plane(model::lora_layout(config_, of_model), group, {});
    load_lora(plane, adapter, path("adapter"));
  };
  const model::LoraSpec q_only = model::make_lora_spec(config_, 3, 4, {"q_proj"});
  const model::LoraSpec wider = model::make_lora_spec(config_, 5, 4, {"q_proj"});
  expect_data_error([&] { load(q_only, lora_); }, {path("adapter"), "lacks", "v_proj.lora_A"});
  expect_data_error([&] { load(lora_, q_only); }, {path("adapter"), "24 tensors", "6"});
  expect_data_error([&] { load(wider, q_only); }, {"q_proj.lora_A", "[3, 20]", "[5, 20]"});
}

}  // namespace
}  // namespace vax::train
