#include "train/saver.h"

#include <ATen/ATen.h>

#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/narrow.h"
#include "io/huggingface_writer.h"
#include "io/peft_adapter.h"
#include "ops/device/transfer.h"

namespace vax::train {
namespace {

// Gathers the units of a plane one after another; at most one is held.
class UnitReader {
 public:
  explicit UnitReader(Plane& plane) : plane_(plane) { plane_.units().begin_step({}); }
  UnitReader(const UnitReader&) = delete;
  UnitReader& operator=(const UnitReader&) = delete;

  const at::Tensor& read(int unit) {
    if (unit == unit_) return flat_;
    close();
    unit_ = unit;
    flat_ = plane_.units().acquire(unit);
    return flat_;
  }
  void close() {
    if (unit_ >= 0) plane_.units().release(unit_);
    unit_ = -1;
  }
  // What ranks that write nothing do while the writer reads.
  void read_all() {
    for (int unit = 0; unit < plane_.units().num_units(); ++unit) read(unit);
    close();
  }

 private:
  Plane& plane_;
  int unit_ = -1;
  at::Tensor flat_;
};

template <typename Function>
void for_each_member(const FlatLayout& layout, const Function& function) {
  for (size_t unit = 0; unit < layout.size(); ++unit)
    for (const FlatGroup& group : layout[unit].groups)
      for (const FlatMember& member : group.members) function(narrow<int>(unit), member);
}

}  // namespace

std::string config_json_for(const std::filesystem::path& source_directory, bool bf16) {
  Json config = Json::read(source_directory / "config.json");
  for (const char* key : {"torch_dtype", "dtype"})
    if (config[key].exists()) config = config.with_text(key, bf16 ? "bfloat16" : "float32");
  return config.dump(2) + "\n";
}

void save_adapter(ModelState& state, const std::filesystem::path& directory,
                  const std::string& base_model, double dropout, bool is_writer) {
  Plane& plane = state.trainable();
  UnitReader reader(plane);
  std::vector<at::Tensor> values;
  std::vector<io::AdapterTensor> tensors;
  for_each_member(plane.layout().units(), [&](int unit, const FlatMember& member) {
    const at::Tensor& flat = reader.read(unit);
    if (!is_writer) return;
    ops::device::wait_for(flat);
    values.push_back(
        flat.narrow(0, member.offset, member.count).to(at::kCPU, at::kFloat, false, /*copy=*/true));
    tensors.push_back(
        {.name = member.name,
         .shape = member.shape,
         .data = {values.back().const_data_ptr<float>(), static_cast<size_t>(member.count)}});
  });
  reader.close();
  if (!is_writer) return;
  const model::LoraSpec& lora = state.model().lora();
  io::write_adapter(directory,
                    {.r = lora.r,
                     .alpha = lora.alpha,
                     .dropout = dropout,
                     .targets = model::target_names(state.model().spec(), lora),
                     .base_model = base_model},
                    tensors);
}

void save_model(ModelState& state, const std::filesystem::path& directory,
                const std::filesystem::path& source_directory, bool is_writer) {
  Plane& plane = state.trainable();
  UnitReader reader(plane);
  if (!is_writer) {
    reader.read_all();
    return;
  }
  const bool bf16 = state.model().compute_dtype() == at::kBFloat16;
  std::vector<io::TensorToWrite> tensors;
  for_each_member(plane.layout().units(), [&](int unit, const FlatMember& member) {
    tensors.push_back(
        {.name = member.name,
         .dtype = bf16 ? io::DType::kBF16 : io::DType::kF32,
         .shape = member.shape,
         .source = [&reader, unit, member](const io::ByteSink& sink) {
           const at::Tensor part =
               ops::device::to_host(reader.read(unit).narrow(0, member.offset, member.count));
           sink({static_cast<const std::byte*>(part.const_data_ptr()), part.nbytes()});
         }});
  });
  io::write_huggingface_directory(directory,
                                  {.config_json = config_json_for(source_directory, bf16),
                                   .tensors = tensors,
                                   .tokenizer_dir = source_directory});
  reader.close();
}

}  // namespace vax::train
