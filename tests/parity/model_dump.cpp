// Runs the engine's forward and backward on given token ids and writes what it computed to a
// safetensors file, for comparison with PyTorch (model_parity.py, adapter_parity.py):
//   model_dump MODEL_DIRECTORY SEQUENCES.json OUTPUT.safetensors [ADAPTER_DIRECTORY]
// SEQUENCES.json: [{"ids": [...], "label_begin": n, "micro_batch": m}, ...]; tokens from
// label_begin on are labels. Sequences of one micro-batch (0 where nothing is said) stand together;
// gradients are the sum over the micro-batches, tensors by token those of all of them, one after
// another. Without an adapter the base is trained, with one its LoRA factors are. fp32, no dropout,
// loss = the mean over the label tokens. Written: logits [T, V] of all tokens, loss_sum [1], e.L
// and boundary_grad.L [T, D], grad.NAME for every trained parameter.
#include <ATen/ATen.h>

#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/narrow.h"
#include "base/packed_batch.h"
#include "io/peft_adapter.h"
#include "io/safetensors_writer.h"
#include "io/weights.h"
#include "model/decoder/decoder.h"
#include "model/families/built_in.h"
#include "support/memory_weights.h"

namespace {

using vax::cat;
using vax::model::Decoder;
using vax::model::PlacedBatch;
using vax::testing::MemoryGradients;
using vax::testing::MemoryWeights;

struct Arguments {
  std::filesystem::path base, sequences, output;
  std::optional<std::filesystem::path> adapter{};
};

void append(vax::PackedBatch& batch, const std::vector<int64_t>& ids, size_t label_begin,
            int32_t row) {
  const int64_t start = batch.num_tokens();
  for (size_t i = 0; i < ids.size(); ++i) {
    batch.ids.push_back(ids[i]);
    batch.positions.push_back(vax::narrow<int32_t>(i));
    batch.rows.push_back(row);
    if (i == 0 || i < label_begin) continue;
    batch.label_positions.push_back(start + vax::narrow<int64_t>(i) - 1);
    batch.targets.push_back(ids[i]);
  }
  batch.offsets.push_back(vax::narrow<int32_t>(batch.num_tokens()));
}

std::vector<vax::PackedBatch> read_batches(const std::filesystem::path& path) {
  std::vector<vax::PackedBatch> batches;
  int32_t row_number = 0;
  for (const vax::Json& row : vax::Json::read(path).items()) {
    const auto micro_batch = vax::narrow<size_t>(row["micro_batch"].integer_or(0));
    if (micro_batch == batches.size()) batches.push_back({.offsets = {0}});
    VAX_CHECK(micro_batch + 1 == batches.size(), "micro-batches must come in order");
    std::vector<int64_t> ids;
    for (const vax::Json& id : row["ids"].items()) ids.push_back(id.integer());
    append(batches.back(), ids, vax::narrow<size_t>(row["label_begin"].integer()), row_number++);
  }
  return batches;
}

Decoder make_decoder(const std::filesystem::path& base,
                     const std::optional<vax::io::PeftAdapter>& adapter) {
  const vax::model::Spec spec = vax::model::built_in_families().read(base / "config.json");
  vax::model::LoraSpec lora;
  if (adapter)
    lora = vax::model::make_lora_spec(spec, adapter->config().r, adapter->config().alpha,
                                      adapter->config().targets);
  return Decoder(spec, lora, !adapter, at::kFloat);
}

// The shape in the file must be that of the parameter: the test would else compare other elements.
void check_shape(const at::Tensor& parameter, const vax::io::TensorInfo& info) {
  if (parameter.sizes() != at::IntArrayRef(info.shape))
    throw vax::DataError(cat(info.file, ": ", info.name, ": expected shape ", parameter.sizes(),
                             ", found ", vax::io::shape_text(info.shape)));
}

void load_weights(MemoryWeights& weights, const std::filesystem::path& base,
                  const std::optional<vax::io::PeftAdapter>& adapter) {
  constexpr auto kFp32 = vax::io::TargetType::kFloat32;
  std::map<std::string, const vax::io::TensorInfo*> factors;
  if (adapter)
    for (const vax::io::AdapterModule& module : adapter->modules()) {
      factors[vax::io::lora_a_name(module.name)] = module.a;
      factors[vax::io::lora_b_name(module.name)] = module.b;
    }
  const auto directory = vax::io::WeightDirectory::open(base);
  for (const std::string& name : weights.names()) {
    const at::Tensor parameter = weights.parameter(name);
    const auto factor = factors.find(name);
    const bool of_adapter = factor != factors.end();
    const vax::io::TensorInfo& info = of_adapter ? *factor->second : directory.at(name);
    check_shape(parameter, info);
    if (of_adapter)
      adapter->read_elements(info, 0, parameter.numel(), parameter.data_ptr(), kFp32);
    else
      directory.read_elements(info, 0, parameter.numel(), parameter.data_ptr(), kFp32);
  }
}

class Dump {
 public:
  void add(std::string name, const at::Tensor& tensor) {
    kept_.push_back(tensor.to(at::kFloat).contiguous().clone());
    tensors_.push_back(vax::io::tensor_in_memory(std::move(name), vax::io::DType::kF32,
                                                 kept_.back().sizes().vec(),
                                                 kept_.back().data_ptr()));
  }
  void write(const std::filesystem::path& path) const {
    vax::io::write_safetensors(path, tensors_);
  }

 private:
  std::vector<at::Tensor> kept_;
  std::vector<vax::io::TensorToWrite> tensors_;
};

void dump(const Arguments& arguments) {
  std::optional<vax::io::PeftAdapter> adapter;
  if (arguments.adapter) adapter = vax::io::PeftAdapter::open(*arguments.adapter);
  const Decoder decoder = make_decoder(arguments.base, adapter);
  const std::vector<vax::PackedBatch> batches = read_batches(arguments.sequences);
  int64_t num_labels = 0;
  for (const vax::PackedBatch& batch : batches) num_labels += batch.num_labels();

  MemoryWeights weights(decoder, 0, 0);
  load_weights(weights, arguments.base, adapter);
  MemoryGradients gradients(decoder);

  std::map<std::string, std::vector<at::Tensor>> by_token;  // parts of the micro-batches
  vax::model::PassOptions options;
  options.loss_scale = at::scalar_tensor(1 / static_cast<double>(num_labels), at::kDouble);
  options.forward_boundary = [&](int layer, const at::Tensor& e_TD, at::Tensor&) {
    by_token[cat("e.", layer)].push_back(e_TD.clone());
  };
  options.backward_boundary = [&](int layer, const at::Tensor& grad_TD) {
    by_token[cat("boundary_grad.", layer)].push_back(grad_TD.clone());
  };
  at::Tensor loss_sum = at::zeros({1}, at::kDouble);
  for (const vax::PackedBatch& batch : batches)
    decoder.forward_backward(PlacedBatch(batch, decoder.device()), weights, &gradients, options,
                             loss_sum);
  for (const vax::PackedBatch& batch : batches)
    by_token["logits"].push_back(decoder.logits(batch, weights));

  Dump result;
  result.add("loss_sum", loss_sum);
  for (const auto& [name, parts] : by_token) result.add(name, at::cat(parts));
  for (const std::string& name : gradients.names())
    result.add("grad." + name, gradients.gradient(name));
  result.write(arguments.output);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) {
    std::fputs(
        "usage: model_dump MODEL_DIRECTORY SEQUENCES.json OUTPUT.safetensors "
        "[ADAPTER_DIRECTORY]\n",
        stderr);
    return 2;
  }
  try {
    Arguments arguments{.base = argv[1], .sequences = argv[2], .output = argv[3]};
    if (argc == 5) arguments.adapter = argv[4];
    dump(arguments);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "model_dump: %s\n", e.what());
    return 1;
  }
}
