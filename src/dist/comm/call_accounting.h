// Private to this folder: what the implementations of Collectives check and count alike. Arguments
// are checked before anything is sent, so that a wrong call fails on every rank and none waits.
#pragma once

#include <cstdint>

#include "dist/comm/collectives.h"

namespace vax::dist {

// Bytes that one rank of a group of `size` must send; see CollectiveStatistics.
inline int64_t gather_bytes(int64_t count, DataType type, int size) {
  return (size - 1) * count * static_cast<int64_t>(size_of(type));
}
inline int64_t all_reduce_bytes(int64_t count, DataType type, int size) {
  return 2 * (size - 1) * count * static_cast<int64_t>(size_of(type)) / size;
}
inline int64_t broadcast_bytes(int64_t count, DataType type, int size) {
  return size == 1 ? 0 : count * static_cast<int64_t>(size_of(type));
}

// Host implementations: what each operation accepts. THROWS std::logic_error.
void check_count(const char* operation, int64_t count);
void check_host_reduce_scatter(int64_t count, DataType type);
void check_host_all_reduce(int64_t count, DataType type);
void check_broadcast(int64_t count, int root, int size);

}  // namespace vax::dist
