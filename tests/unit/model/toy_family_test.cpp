// A family from outside src/ (support/toy_family.h) against an autograd transcription in double on
// the same weights: losses, every gradient of full parameters and of LoRA factors, and G_l at the
// boundary of each block. And what a family states: its config.json, its names, its projections.
#include "support/toy_family.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "base/error.h"
#include "data/packing.h"
#include "model/decoder/decoder.h"
#include "model/families/built_in.h"
#include "support/memory_weights.h"
#include "train/base_weights.h"

namespace vax::testing {
namespace {

using model::MlpKind;

struct Case {
  bool full;
  bool tied;
  MlpKind mlp;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << (c.full ? "full" : "LoRA") << (c.tied ? " tied" : "")
       << (c.mlp == MlpKind::kRelu ? " relu" : " gelu");
}

model::LoraSpec lora_of(const model::Spec& spec, bool full) {
  if (full) return {};
  return model::make_lora_spec(spec, 3, 4, {"query", "value", "out", "up", "down"});
}

// Rows of the tiny dataset in two micro-batches.
std::vector<PackedBatch> make_batches(const model::Spec& spec) {
  const data::Dataset dataset = tiny_dataset(spec, 5);
  return data::pack_share(dataset, std::vector<int64_t>{0, 1, 2, 3, 4}, 0, 1, 3);
}

// The model once more, by names and textbook formulas.
class Transcription {
 public:
  Transcription(const model::Spec& spec, const model::LoraSpec& lora, const MemoryWeights& weights)
      : spec_(spec), lora_scale_(lora.scale()) {
    for (const std::string& name : weights.names())
      leaves_[name] = weights.parameter(name).to(at::kDouble).clone().requires_grad_();
  }

  // Sum of cross entropies; the residual streams at the boundaries are kept, with `shift` added.
  at::Tensor loss_sum(const PackedBatch& batch, double shift) {
    at::Tensor x = leaf("decoder.tokens.weight").index_select(0, at::tensor(batch.ids));
    boundaries_.clear();
    for (int64_t layer = 0; layer < spec_.num_layers; ++layer) {
      const std::string block = cat("decoder.blocks.", layer, ".");
      at::Tensor h = x + attention(block, norm(block + "norm_1", x), batch);
      h = h + shift * static_cast<double>(layer + 1);
      h.retain_grad();
      boundaries_.push_back(h);
      const at::Tensor up = linear(block + "mlp.up", norm(block + "norm_2", h));
      x = h + linear(block + "mlp.down", spec_.mlp == MlpKind::kRelu ? at::relu(up) : at::gelu(up));
    }
    const at::Tensor rows = x.index_select(0, at::tensor(batch.label_positions));
    const at::Tensor head = leaf(spec_.tied_head ? "decoder.tokens.weight" : "answer.weight");
    return at::cross_entropy_loss(norm("decoder.norm", rows).matmul(head.t()),
                                  at::tensor(batch.targets), {}, at::Reduction::Sum);
  }
  const std::vector<at::Tensor>& boundaries() const { return boundaries_; }
  const at::Tensor& leaf(const std::string& name) const { return leaves_.at(name); }

 private:
  at::Tensor norm(const std::string& name, const at::Tensor& x) const {
    return at::layer_norm(x, {spec_.hidden_size}, leaf(name + ".weight"), leaf(name + ".bias"),
                          1e-5);
  }
  at::Tensor linear(const std::string& name, const at::Tensor& x) const {
    at::Tensor y = x.matmul(leaf(name + ".weight").t());
    if (leaves_.contains(name + ".bias")) y = y + leaf(name + ".bias");
    const std::string factor = "base_model.model." + name;
    if (leaves_.contains(factor + ".lora_A.weight"))
      y = y + lora_scale_ * x.matmul(leaf(factor + ".lora_A.weight").t())
                                .matmul(leaf(factor + ".lora_B.weight").t());
    return y;
  }
  // x [T, heads, K]: pairs (i, i + K / 2) turned by position * 10000^(-2 i / K).
  at::Tensor rotated(const at::Tensor& x, const at::Tensor& positions) const {
    const int64_t half = spec_.head_dim / 2;
    const at::Tensor exponents = at::arange(half, at::kDouble) * (-1.0 / static_cast<double>(half));
    const at::Tensor angles =
        (positions.unsqueeze(1) * at::pow(10000.0, exponents).unsqueeze(0)).unsqueeze(1);
    const at::Tensor a = x.narrow(2, 0, half), b = x.narrow(2, half, half);
    return at::cat({a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()}, 2);
  }
  at::Tensor attention(const std::string& block, const at::Tensor& x,
                       const PackedBatch& batch) const {
    const at::Tensor positions = at::tensor(batch.positions).to(at::kDouble);
    const auto heads = [&](const char* name, int64_t count) {
      return linear(block + "attention." + name, x).view({-1, count, spec_.head_dim});
    };
    const int64_t shared = spec_.num_heads / spec_.num_kv_heads;
    const at::Tensor q = rotated(heads("query", spec_.num_heads), positions);
    const at::Tensor k =
        rotated(heads("key", spec_.num_kv_heads), positions).repeat_interleave(shared, 1);
    const at::Tensor v = heads("value", spec_.num_kv_heads).repeat_interleave(shared, 1);
    std::vector<at::Tensor> outputs;
    for (size_t s = 1; s < batch.offsets.size(); ++s) {
      const int64_t begin = batch.offsets[s - 1], length = batch.offsets[s] - begin;
      const auto part = [&](const at::Tensor& t) {
        return t.narrow(0, begin, length).transpose(0, 1);  // [H, n, K]
      };
      const at::Tensor future = at::ones({length, length}, at::kBool).triu(1);
      const at::Tensor scores =
          (part(q).matmul(part(k).transpose(1, 2)) / std::sqrt(static_cast<double>(spec_.head_dim)))
              .masked_fill(future, -INFINITY);
      outputs.push_back(scores.softmax(2).matmul(part(v)).transpose(0, 1).flatten(1));
    }
    return linear(block + "attention.out", at::cat(outputs));
  }

  const model::Spec& spec_;
  double lora_scale_;
  std::map<std::string, at::Tensor> leaves_;
  std::vector<at::Tensor> boundaries_;
};

// fp32 through three layers and sums of a few dozen terms, relative to the largest element.
constexpr double kTolerance = 2e-5;

void expect_close(const at::Tensor& actual, const at::Tensor& expected, const std::string& what) {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  const double largest = expected.abs().max().item<double>();
  ASSERT_GT(largest, 1e-7) << what;
  EXPECT_LE((actual.to(at::kDouble) - expected).abs().max().item<double>(), kTolerance * largest)
      << what;
}

class ToyFamily : public ::testing::TestWithParam<Case> {};

TEST_P(ToyFamily, MatchesAutograd) {
  const auto [full, tied, mlp] = GetParam();
  constexpr double kShift = 0.01, kLossScale = 1.0 / 7;
  const model::Spec spec = toy_spec(tied, mlp);
  const model::LoraSpec lora = lora_of(spec, full);
  const auto toy = model::make_model(spec, lora, full, at::kFloat);
  MemoryWeights weights(*toy, 1, 0.2);
  for (const bool recompute : {false, true}) {
    SCOPED_TRACE(recompute);
    MemoryGradients gradients(*toy);
    Transcription transcription(spec, lora, weights);
    std::vector<at::Tensor> found(static_cast<size_t>(spec.num_layers));
    model::PassOptions options{.loss_scale = at::scalar_tensor(kLossScale, at::kDouble),
                               .recompute = recompute};
    options.forward_boundary = [&](int layer, const at::Tensor&, at::Tensor& h_TD) {
      h_TD.add_(kShift * (layer + 1));
    };
    options.backward_boundary = [&](int layer, const at::Tensor& grad_TD) {
      found[static_cast<size_t>(layer)] = grad_TD.clone();
    };
    for (const PackedBatch& batch : make_batches(spec)) {
      at::Tensor loss_sum = at::zeros({}, at::kDouble);
      toy->forward_backward(model::PlacedBatch(batch, at::kCPU), weights, &gradients, options,
                            loss_sum);
      const at::Tensor expected = transcription.loss_sum(batch, kShift);
      (expected * kLossScale).backward();
      expect_close(loss_sum, expected.detach(), "loss");
      for (size_t layer = 0; layer < found.size(); ++layer)
        expect_close(found[layer], transcription.boundaries()[layer].grad(), cat("G_", layer));
    }
    ASSERT_FALSE(gradients.names().empty());
    for (const std::string& name : gradients.names())
      expect_close(gradients.gradient(name), transcription.leaf(name).grad(), name);
    EXPECT_EQ(weights.num_held(), 0);
    EXPECT_EQ(gradients.num_held(), 0);
  }
}

// A cache gives what the whole sequence gives.
TEST_P(ToyFamily, DecodesWhatTheWholeSequenceGives) {
  const auto [full, tied, mlp] = GetParam();
  const model::Spec spec = toy_spec(tied, mlp);
  const model::Decoder toy(spec, lora_of(spec, full), full, at::kFloat);
  MemoryWeights weights(toy, 2, 0.2);
  PackedBatch prompts{.ids = {5, 6, 7, 8, 9},
                      .positions = {0, 1, 2, 0, 1},
                      .rows = {0, 0, 0, 1, 1},
                      .offsets = {0, 3, 5}};
  PackedBatch next{.ids = {11, 12}, .positions = {3, 2}, .rows = {0, 1}, .offsets = {0, 1, 2}};
  PackedBatch whole{.ids = {5, 6, 7, 11, 8, 9, 12},
                    .positions = {0, 1, 2, 3, 0, 1, 2},
                    .rows = {0, 0, 0, 0, 1, 1, 1},
                    .offsets = {0, 4, 7}};
  const at::Tensor expected = toy.logits(whole, weights);
  const auto cache = toy.make_cache(3, 6);
  const std::vector<int32_t> slots = {2, 0};
  expect_close(toy.decode(prompts, slots, *cache, weights),
               expected.index_select(0, at::tensor({2, 5})).to(at::kDouble), "prompts");
  expect_close(toy.decode(next, slots, *cache, weights),
               expected.index_select(0, at::tensor({3, 6})).to(at::kDouble), "new tokens");
}

INSTANTIATE_TEST_SUITE_P(Models, ToyFamily,
                         ::testing::Values(Case{true, false, MlpKind::kGelu},
                                           Case{true, true, MlpKind::kRelu},
                                           Case{false, false, MlpKind::kRelu},
                                           Case{false, true, MlpKind::kGelu}));

model::Families both_families() {
  model::Families families = model::built_in_families();
  families.add(toy_family());
  return families;
}

TEST(Families, KnowWhatWasAdded) {
  const model::Families families = both_families();
  EXPECT_EQ(families.find("toy").model_type, "toy");
  EXPECT_EQ(families.first().model_type, "llama");
  try {
    families.find("opt");
    FAIL() << "no error";
  } catch (const ConfigError& e) {
    EXPECT_STREQ(e.what(), "model_type: expected \"llama\" or \"toy\", found \"opt\"");
  }
  try {
    families.parse(R"({"model_type": "opt"})", "config.json");
    FAIL() << "no error";
  } catch (const DataError& e) {
    EXPECT_STREQ(e.what(),
                 "config.json: \"model_type\": expected \"llama\" or \"toy\", found \"opt\"");
  }
  model::Families twice = families;
  EXPECT_THROW(twice.add(toy_family()), std::logic_error);
}

TEST(Families, ADirectoryIsReadByTheFamilyOfItsModelType) {
  const io::testing::ScratchDirectory scratch;
  const model::Spec spec = toy_spec(true, MlpKind::kRelu);
  write_toy_model(scratch.path() / "toy", spec, 1);
  const model::Spec read = both_families().read(scratch.path() / "toy" / "config.json");
  EXPECT_EQ(read.mlp, MlpKind::kRelu);
  EXPECT_TRUE(read.tied_head);
  const auto toy = model::make_model(read, {}, true, at::kFloat);
  EXPECT_EQ(num_parameters(toy->base_layout()),
            num_parameters(model::make_model(spec, {}, true, at::kFloat)->base_layout()));
  EXPECT_NO_THROW(
      train::BaseWeights(scratch.path() / "toy", toy->base_layout(), read.names.ignored, {}));
}

TEST(Families, ProjectionsHaveTheFamilysNames) {
  const model::Spec spec = toy_spec();
  EXPECT_EQ(model::target_names(spec, model::make_lora_spec(spec, 2, 1, {})),
            (std::vector<std::string>{"query", "key", "value", "out", "up", "down"}));
  for (const std::string target : {"gate_proj", ""}) {
    try {
      model::make_lora_spec(spec, 2, 1, {target});
      FAIL() << "no error";
    } catch (const ConfigError& e) {
      EXPECT_EQ(std::string(e.what()), cat("adapter.targets: no linear layer is called '", target,
                                           "'; a Toy block has query, key, value, out, up, down"));
    }
  }
}

}  // namespace
}  // namespace vax::testing
