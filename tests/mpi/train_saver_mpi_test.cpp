// What was loaded, saved and loaded again is the same, for any number of ranks.
#include "train/saver.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "model/decoder/layout.h"
#include "support/tiny_llama.h"

namespace vax::train {
namespace {

using testing::NamedTensors;

class SaverTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = std::make_unique<testing::SharedDirectory>(
        dist::Communicator::world(), [](const std::filesystem::path& path) {
          for (const bool tied : {false, true})
            testing::write_tiny_model(path / (tied ? "tied" : "base"), testing::tiny_config(tied),
                                      1);
          testing::write_tiny_adapter(path / "adapter", testing::tiny_config(),
                                      testing::tiny_lora(), 2);
          io::testing::write_text(path / "base" / "tokenizer_config.json", "{}");
        });
  }
  static void TearDownTestSuite() { directory_.reset(); }

  static std::string path(const std::string& name) { return (*directory_ / name).string(); }
  bool is_writer() const { return world_.rank() == 0; }

  std::unique_ptr<ModelState> load(const ModelRequest& request) {
    return ModelState::load(request, testing::read_tiny_spec(request.model.path), mesh_);
  }
  static ModelRequest lora_request(const std::string& adapter) {
    ModelRequest request;
    request.model.path = path("base");
    request.adapter = AdapterOptions{.init = adapter};
    return request;
  }
  static ModelRequest base_request(const std::string& model, ModelDtype dtype) {
    ModelRequest request;
    request.model = {.path = model, .dtype = dtype};
    request.train_base = true;
    return request;
  }

  // After the writer has written, `state` loads the result and has the same shards, bit for bit.
  static void expect_same_shards(ModelState& state, ModelState& loaded) {
    dist::ShardedUnits &a = state.trainable().units(), &b = loaded.trainable().units();
    ASSERT_EQ(a.num_units(), b.num_units());
    for (int unit = 0; unit < a.num_units(); ++unit)
      EXPECT_TRUE(at::equal(a.shard(unit), b.shard(unit))) << "unit " << unit;
  }

  dist::Communicator world_ = dist::Communicator::world();
  Mesh mesh_ = make_mesh(world_, world_.split_by_node(), {}, false);
  static inline std::unique_ptr<testing::SharedDirectory> directory_;
};

TEST_F(SaverTest, AdapterComesBack) {
  for (const Placement placement : {Placement::kFull, Placement::kReplicate}) {
    const std::string saved = path(cat("saved-adapter-", word_of(placement)));
    ModelRequest request = lora_request(path("adapter"));
    request.shard.trainable = placement;
    const std::unique_ptr<ModelState> state = load(request);
    save_adapter(*state, saved, "some/base", 0.25, is_writer());
    mesh_.world->barrier();
    const std::unique_ptr<ModelState> loaded = load(lora_request(saved));
    expect_same_shards(*state, *loaded);

    const io::AdapterConfig config = io::read_adapter_config(saved);
    EXPECT_EQ(config.r, 3);
    EXPECT_EQ(config.alpha, 4);
    EXPECT_EQ(config.dropout, 0.25);
    EXPECT_EQ(config.base_model, "some/base");
    EXPECT_EQ(config.targets,
              (std::vector<std::string>{"q_proj", "v_proj", "o_proj", "down_proj"}));
    // Against the file that was loaded, so that a fault of the loader cannot hide one here.
    const io::PeftAdapter adapter = io::PeftAdapter::open(saved);
    const NamedTensors factors =
        testing::tiny_tensors(model::lora_layout(testing::tiny_config(), testing::tiny_lora()), 2);
    EXPECT_EQ(2 * adapter.modules().size(), factors.size());
    for (const io::AdapterModule& module : adapter.modules())
      for (const io::TensorInfo* info : {module.a, module.b}) {
        at::Tensor values = at::empty(info->shape, at::kFloat);
        adapter.read_elements(*info, 0, values.numel(), values.data_ptr(),
                              io::TargetType::kFloat32);
        EXPECT_TRUE(at::equal(values, factors.at(info->name))) << info->name;
      }
  }
}

TEST_F(SaverTest, ModelComesBack) {
  for (const char* model : {"base", "tied"}) {
    const std::string saved = path(std::string("saved-") + model);
    const std::unique_ptr<ModelState> state = load(base_request(path(model), ModelDtype::kFp32));
    save_model(*state, saved, path(model), is_writer());
    mesh_.world->barrier();
    const std::unique_ptr<ModelState> loaded = load(base_request(saved, ModelDtype::kFp32));
    expect_same_shards(*state, *loaded);
    EXPECT_EQ(Json::read(std::filesystem::path(saved) / "config.json").dump(),
              Json::read(std::filesystem::path(path(model)) / "config.json").dump());
  }
  EXPECT_TRUE(
      std::filesystem::exists(std::filesystem::path(path("saved-base")) / "tokenizer_config.json"));
}

TEST_F(SaverTest, ModelIsWrittenInItsComputeType) {
  const std::string saved = path("saved-bf16");
  const std::unique_ptr<ModelState> state = load(base_request(path("base"), ModelDtype::kBf16));
  save_model(*state, saved, path("base"), is_writer());
  mesh_.world->barrier();
  EXPECT_EQ(Json::read(std::filesystem::path(saved) / "config.json")["torch_dtype"].text(),
            "bfloat16");
  const io::WeightDirectory weights = io::WeightDirectory::open(saved);
  const NamedTensors tensors = testing::tiny_tensors(model::base_layout(testing::tiny_config()), 1);
  EXPECT_EQ(weights.names().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const io::TensorInfo& info = weights.at(name);
    EXPECT_EQ(info.dtype, io::DType::kBF16);
    at::Tensor values = at::empty(info.shape, at::kBFloat16);
    weights.read_elements(info, 0, values.numel(), values.data_ptr(), io::TargetType::kBFloat16);
    EXPECT_TRUE(at::equal(values, tensor.to(at::kBFloat16))) << name;
  }
}

// A save between steps: training goes on with the same weights and schedule.
TEST_F(SaverTest, TheModelCanBeUsedAfterwards) {
  const std::unique_ptr<ModelState> state = load(lora_request(path("adapter")));
  save_adapter(*state, path("saved-between"), "", 0, is_writer());
  save_adapter(*state, path("saved-between"), "", 0, is_writer());
  state->begin_forward();
  for (const int unit : state->model().unit_uses(false)) {
    EXPECT_EQ(state->weights().acquire(unit)[model::kQkv].defined(), unit >= 1 && unit <= 3);
    state->weights().release(unit);
  }
  state->begin_step({});
}

}  // namespace
}  // namespace vax::train
