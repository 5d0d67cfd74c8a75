// How the parameters of one unit (a block, the embedding, the head) lie in one flat buffer. Model
// code makes the layout, sharding cuts it into equal slices, loading and saving follow the names.
// Invariant: members of a group lie back to back, so that a group (q, k, v) is one matrix for one
// GEMM; only groups are aligned. Offsets and counts are in elements.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace vax {

// One tensor of the checkpoint, under its name there.
struct FlatMember {
  std::string name;
  std::vector<int64_t> shape;
  int64_t offset = 0;  // from the start of the unit
  int64_t count = 0;
  bool decay = true;  // weight decay applies (matrices; not norms, not biases)
};

// One tensor that operators see: its members concatenated along dim 0.
struct FlatGroup {
  int role = 0;  // index that model code gives a meaning to (model::Role)
  std::vector<int64_t> shape;
  int64_t offset = 0;
  int64_t count = 0;
  std::vector<FlatMember> members;
};

struct FlatUnit {
  std::string name;
  std::vector<FlatGroup> groups;
  int64_t count = 0;  // elements, alignment included

  // Appends a group of tensors with equal trailing dimensions. REQUIRES at least one member.
  void add_group(int role, std::vector<FlatMember> members);
};

// All units of a model in the order of the chain.
using FlatLayout = std::vector<FlatUnit>;

inline constexpr int64_t kGroupAlignment = 16;  // elements; 64 bytes of fp32

int64_t num_parameters(const FlatLayout& layout);  // without alignment

}  // namespace vax
