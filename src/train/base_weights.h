// The base model's weights as a training run starts from them: a Hugging Face directory, with
// adapters merged into it in order. Any range of any parameter can be had on its own, so each rank
// reads only its bytes, and host memory beyond the shards stays at one tensor's range.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/flat_layout.h"
#include "io/peft_adapter.h"
#include "io/weights.h"
#include "model/spec.h"
#include "train/sharded_weights.h"

namespace vax::train {

class BaseWeights {
 public:
  // Opens and validates everything before anything is allocated: every parameter of `layout` is in
  // the directory with its shape, nothing else is but what `ignored` allows (ModuleNames::ignored),
  // and every adapter fits. THROWS DataError naming file, tensor, expected and found.
  BaseWeights(const std::filesystem::path& directory, const FlatLayout& layout,
              std::span<const std::string> ignored, std::span<const std::string> merge);

  // The elements of `member` from `first` on, as many as `destination` (fp32 or bf16) has. With
  // merged adapters the sum W + sum over adapters scale B A is formed in fp32 and rounded once.
  void read(const FlatMember& member, int64_t first, at::Tensor destination) const;

 private:
  struct Delta {
    const io::PeftAdapter* adapter;
    const io::AdapterModule* module;
    double scale;
  };
  void check_tensors(const FlatLayout& layout, std::span<const std::string> ignored) const;
  void add_adapter(const FlatLayout& layout, const std::string& directory);
  void add_delta(const Delta& delta, const FlatMember& member, int64_t first,
                 at::Tensor& values) const;

  io::WeightDirectory directory_;
  std::vector<std::unique_ptr<io::PeftAdapter>> adapters_;
  std::map<std::string, std::vector<Delta>> deltas_;  // by parameter name
};

// Calls `fill(member, first, destination)` for each stretch of this rank's shards that belongs to a
// member: destination is the stretch (or a piece of it, on the host), `first` its first element
// within the member. REQUIRES an update of the plane's units: the caller begins it and refreshes
// them afterwards. So do the functions below; none of them communicates.
void fill_shards(Plane& plane,
                 const std::function<void(const FlatMember&, int64_t first, at::Tensor)>& fill);

// This rank's shards of the plane from the base.
void load_base(Plane& plane, const BaseWeights& base);

// LoRA factors as PEFT initialises them: A uniform in +-1/sqrt(in), B zero; a function of seed and
// name only, so the same for every sharding.
void init_lora(Plane& plane, uint64_t seed);
// LoRA factors from an adapter. THROWS DataError when it lacks a tensor or a shape differs.
void load_lora(Plane& plane, const io::PeftAdapter& adapter, const std::string& directory);

}  // namespace vax::train
