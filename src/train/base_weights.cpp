#include "train/base_weights.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "base/error.h"
#include "base/narrow.h"
#include "base/philox.h"
#include "model/lora.h"
#include "ops/device/runtime.h"

namespace vax::train {
namespace {

constexpr std::string_view kWeightSuffix = ".weight";

io::TargetType target_of(const at::Tensor& tensor) {
  if (tensor.scalar_type() == at::kBFloat16) return io::TargetType::kBFloat16;
  VAX_CHECK(tensor.scalar_type() == at::kFloat, "weights are fp32 or bf16");
  return io::TargetType::kFloat32;
}

template <typename Function>
void for_each_member(const FlatLayout& layout, const Function& function) {
  for (const FlatUnit& unit : layout)
    for (const FlatGroup& group : unit.groups)
      for (const FlatMember& member : group.members) function(member);
}

// `pattern`: a name, or the end of one behind a "*".
bool matches(const std::string& name, std::string_view pattern) {
  return pattern.starts_with('*') ? name.ends_with(pattern.substr(1)) : name == pattern;
}

void check_shape(const std::string& file, const std::string& name,
                 std::span<const int64_t> expected, std::span<const int64_t> found) {
  if (!std::ranges::equal(expected, found))
    throw DataError(cat(file, ": tensor ", name, ": expected shape ", io::shape_text(expected),
                        " by config.json, found ", io::shape_text(found)));
}

}  // namespace

BaseWeights::BaseWeights(const std::filesystem::path& directory, const FlatLayout& layout,
                         std::span<const std::string> ignored, std::span<const std::string> merge)
    : directory_(io::WeightDirectory::open(directory)) {
  check_tensors(layout, ignored);
  for (const std::string& adapter : merge) add_adapter(layout, adapter);
}

void BaseWeights::check_tensors(const FlatLayout& layout,
                                std::span<const std::string> ignored) const {
  std::set<std::string> wanted;
  for_each_member(layout, [&](const FlatMember& member) {
    const io::TensorInfo& info = directory_.at(member.name);
    check_shape(info.file, member.name, member.shape, info.shape);
    if (!io::is_convertible(info.dtype))
      throw DataError(cat(info.file, ": tensor ", member.name,
                          ": expected F32, BF16, F16 or F64, found ", io::dtype_name(info.dtype)));
    wanted.insert(member.name);
  });
  const auto is_ignored = [&](const std::string& name) {
    return std::ranges::any_of(ignored, [&](const std::string& p) { return matches(name, p); });
  };
  for (const std::string& name : directory_.names())
    if (!wanted.contains(name) && !is_ignored(name))
      throw DataError(cat(directory_.find(name)->file, ": tensor ", name,
                          ": config.json describes a model without it"));
}

void BaseWeights::add_adapter(const FlatLayout& layout, const std::string& directory) {
  adapters_.push_back(std::make_unique<io::PeftAdapter>(io::PeftAdapter::open(directory)));
  const io::PeftAdapter& adapter = *adapters_.back();
  std::map<std::string, const FlatMember*> members;
  for_each_member(layout, [&](const FlatMember& member) { members[member.name] = &member; });
  const double scale = adapter.config().alpha / static_cast<double>(adapter.config().r);
  for (const io::AdapterModule& module : adapter.modules()) {
    const std::string name = module.name + std::string(kWeightSuffix);
    const auto found = members.find(name);
    if (found == members.end() || found->second->shape.size() != 2)
      throw DataError(cat(directory, ": the adapter changes ", module.name,
                          ", which the base model does not have"));
    const int64_t r = adapter.config().r;
    const std::vector<int64_t>& shape = found->second->shape;
    check_shape(module.a->file, module.a->name, std::vector<int64_t>{r, shape[1]}, module.a->shape);
    check_shape(module.b->file, module.b->name, std::vector<int64_t>{shape[0], r}, module.b->shape);
    deltas_[name].push_back({&adapter, &module, scale});
  }
}

void BaseWeights::add_delta(const Delta& delta, const FlatMember& member, int64_t first,
                            at::Tensor& values) const {
  const int64_t columns = member.shape[1], r = delta.adapter->config().r;
  const int64_t count = values.numel();
  const int64_t first_row = first / columns;
  const int64_t num_rows = (first + count - 1) / columns + 1 - first_row;
  const at::Tensor a = at::empty({r, columns}, at::kFloat);
  const at::Tensor b = at::empty({num_rows, r}, at::kFloat);
  delta.adapter->read_elements(*delta.module->a, 0, r * columns, a.data_ptr(),
                               io::TargetType::kFloat32);
  delta.adapter->read_elements(*delta.module->b, first_row * r, num_rows * r, b.data_ptr(),
                               io::TargetType::kFloat32);
  const at::Tensor rows = at::mm(b, a).view({-1});
  values.add_(rows.narrow(0, first - first_row * columns, count), delta.scale);
}

void BaseWeights::read(const FlatMember& member, int64_t first, at::Tensor destination) const {
  const int64_t count = destination.numel();
  const io::TensorInfo& info = directory_.at(member.name);
  const auto deltas = deltas_.find(member.name);
  if (deltas == deltas_.end()) {
    directory_.read_elements(info, first, count, destination.data_ptr(), target_of(destination));
    return;
  }
  at::Tensor values = at::empty({count}, at::kFloat);
  directory_.read_elements(info, first, count, values.data_ptr(), io::TargetType::kFloat32);
  for (const Delta& delta : deltas->second) add_delta(delta, member, first, values);
  destination.copy_(values);
}

namespace {

using Fill = std::function<void(const FlatMember&, int64_t first, at::Tensor)>;

// A stretch in the memory of a device is filled by way of host memory that the device reads fast.
void fill_stretch(const Fill& fill, const FlatMember& member, int64_t first,
                  const at::Tensor& stretch) {
  if (stretch.device().is_cpu()) return fill(member, first, stretch);
  constexpr int64_t kStagedElements = int64_t{16} << 20;
  const int64_t count = stretch.numel();
  const at::Tensor staging =
      ops::device::pinned_empty({std::min(count, kStagedElements)}, stretch.scalar_type());
  for (int64_t begin = 0; begin < count; begin += kStagedElements) {
    const at::Tensor part = staging.narrow(0, 0, std::min(kStagedElements, count - begin));
    fill(member, first + begin, part);
    stretch.narrow(0, begin, part.numel()).copy_(part);
  }
}

}  // namespace

void fill_shards(Plane& plane,
                 const std::function<void(const FlatMember&, int64_t, at::Tensor)>& fill) {
  int index = 0;
  for (const FlatUnit& unit : plane.layout().units()) {
    const dist::Partition& part = plane.units().partition(index);
    at::Tensor& shard = plane.units().shard(index++);
    for (const FlatGroup& group : unit.groups)
      for (const FlatMember& member : group.members) {
        const int64_t begin = std::max(part.begin, member.offset);
        const int64_t end = std::min(part.end, member.offset + member.count);
        if (begin < end)
          fill_stretch(fill, member, begin - member.offset,
                       shard.narrow(0, begin - part.begin, end - begin));
      }
  }
}

void load_base(Plane& plane, const BaseWeights& base) {
  fill_shards(plane, [&](const FlatMember& member, int64_t first, at::Tensor destination) {
    base.read(member, first, std::move(destination));
  });
}

void init_lora(Plane& plane, uint64_t seed) {
  fill_shards(plane, [&](const FlatMember& member, int64_t first, at::Tensor destination) {
    if (!member.name.ends_with("lora_A.weight")) {
      destination.zero_();
      return;
    }
    const float bound = 1.0f / std::sqrt(static_cast<float>(member.shape[1]));
    const PhiloxKey key = philox_key(seed, hash_name(member.name));
    auto* values = destination.data_ptr<float>();
    for (int64_t i = 0; i < destination.numel(); ++i) {
      const auto element = static_cast<uint64_t>(first + i);
      const PhiloxCounter bits = philox4x32(
          {static_cast<uint32_t>(element / 4), static_cast<uint32_t>((element / 4) >> 32), 0, 0},
          key);
      values[i] = bound * (2.0f * uniform_float(bits[element % 4]) - 1.0f);
    }
  });
}

void load_lora(Plane& plane, const io::PeftAdapter& adapter, const std::string& directory) {
  std::map<std::string, const io::TensorInfo*> tensors;
  for (const io::AdapterModule& module : adapter.modules())
    for (const io::TensorInfo* info : {module.a, module.b}) tensors[info->name] = info;
  size_t num_members = 0;
  for_each_member(plane.layout().units(), [&](const FlatMember& member) {
    const auto found = tensors.find(member.name);
    if (found == tensors.end())
      throw DataError(cat(directory, ": the adapter lacks ", member.name));
    check_shape(found->second->file, member.name, member.shape, found->second->shape);
    ++num_members;
  });
  if (num_members != tensors.size())
    throw DataError(cat(directory, ": the adapter has ", tensors.size(),
                        " tensors, the model has room for ", num_members));
  fill_shards(plane, [&](const FlatMember& member, int64_t first, at::Tensor destination) {
    adapter.read_elements(*tensors.at(member.name), first, destination.numel(),
                          destination.data_ptr(), target_of(destination));
  });
}

}  // namespace vax::train
