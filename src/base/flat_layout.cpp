#include "base/flat_layout.h"

#include "base/error.h"
#include "base/narrow.h"

namespace vax {

void FlatUnit::add_group(int role, std::vector<FlatMember> members) {
  VAX_CHECK(!members.empty(), "unit ", name);
  FlatGroup group;
  group.role = role;
  group.shape = members.front().shape;
  group.shape[0] = 0;
  group.offset = round_up(count, kGroupAlignment);
  for (FlatMember& member : members) {
    member.count = 1;
    for (const int64_t extent : member.shape) member.count *= extent;
    member.offset = group.offset + group.count;
    group.count += member.count;
    group.shape[0] += member.shape[0];
  }
  group.members = std::move(members);
  count = round_up(group.offset + group.count, kGroupAlignment);
  groups.push_back(std::move(group));
}

int64_t num_parameters(const FlatLayout& layout) {
  int64_t sum = 0;
  for (const FlatUnit& unit : layout)
    for (const FlatGroup& group : unit.groups) sum += group.count;
  return sum;
}

}  // namespace vax
