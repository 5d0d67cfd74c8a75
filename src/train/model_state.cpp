#include "train/model_state.h"

#include <filesystem>

#include "base/error.h"
#include "base/stopwatch.h"
#include "model/llama_layout.h"

namespace vax::train {
namespace {

model::LoraSpec lora_of(const ModelRequest& request,
                        const std::optional<io::PeftAdapter>& initial) {
  if (!request.adapter) return {};
  if (initial)
    return model::make_lora_spec(initial->config().r, initial->config().alpha,
                                 initial->config().targets);
  return model::make_lora_spec(request.adapter->r, request.adapter->alpha,
                               request.adapter->targets);
}

dist::ShardedUnitsOptions plane_options(const ShardOptions& shard, bool replicate) {
  return {.residency_gib = shard.residency_gib,
          .prefetch = static_cast<int>(shard.prefetch),
          .replicate = replicate};
}

}  // namespace

at::ScalarType compute_dtype_of(const ModelOptions& options) {
  if (options.dtype == "bf16") return at::kBFloat16;
  VAX_CHECK(options.dtype.empty() || options.dtype == "fp32", options.dtype);
  return at::kFloat;
}

ModelState::ModelState(const ModelRequest& request, Mesh& mesh) {
  const Stopwatch watch;
  const std::filesystem::path directory = request.model.path;
  const model::LlamaConfig config = model::read_llama_config(directory / "config.json");
  const BaseWeights base(directory, model::base_layout(config), request.merge);
  std::optional<io::PeftAdapter> initial;
  if (request.adapter && !request.adapter->init.empty())
    initial.emplace(io::PeftAdapter::open(request.adapter->init));
  const at::ScalarType compute = compute_dtype_of(request.model);
  llama_ = std::make_unique<model::Llama>(config, lora_of(request, initial), request.train_base,
                                          compute);

  // Frozen weights are stored as they are computed with; a replicated plane is a shard group of
  // one.
  const bool frozen_replicated = request.shard.frozen == "replicate";
  dist::ShardedUnitsOptions frozen_options = plane_options(request.shard, false);
  frozen_options.shard_dtype = frozen_options.gather_dtype = compute;
  frozen_ = std::make_unique<Plane>(llama_->frozen_layout(),
                                    frozen_replicated ? *mesh.self : *mesh.frozen, frozen_options);
  // Trainable ones have fp32 masters; replicated means gathered all the time, optimizer state and
  // masters stay spread.
  dist::ShardedUnitsOptions trainable_options =
      plane_options(request.shard, request.shard.trainable == "replicate");
  trainable_options.gather_dtype = request.train_base ? compute : at::kFloat;
  trainable_ =
      std::make_unique<Plane>(llama_->trainable_layout(), *mesh.trainable, trainable_options);
  std::optional<dist::Nesting> nesting;
  if (config.tie_word_embeddings) nesting = {.outer = llama_->head_unit(), .inner = 0};
  weights_ = std::make_unique<ShardedWeights>(*frozen_, *trainable_, nesting);

  if (request.train_base) {
    load_base(*trainable_, base);
  } else {
    load_base(*frozen_, base);
    if (initial)
      load_lora(*trainable_, *initial, request.adapter->init);
    else
      init_lora(*trainable_, request.seed);
  }
  load_s_ = watch.elapsed_s();
}

int64_t ModelState::num_parameters() const {
  return vax::num_parameters(model::base_layout(llama_->config()));
}

int64_t ModelState::num_trainable() const {
  return vax::num_parameters(llama_->trainable_layout());
}

}  // namespace vax::train
