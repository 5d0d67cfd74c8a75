// Private to this folder: fp32 buffers in shared memory that the ranks of a node fill each for
// themselves and read from each other. Without MPI calls: two counters per buffer and rank say how
// often it was published (filled, to be read) and how often its rank has read the others'.
// Use of one buffer, the same on every rank: wait until all_have_read, fill data(own rank),
// publish, wait until all_have_published, read everyone's, mark_read; then again.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "dist/comm/communicator.h"
#include "dist/shard/shared_memory.h"

namespace vax::dist {

class NodeBuffers {
 public:
  // COLLECTIVE over node. `count` elements per buffer, `num_buffers` per rank. THROWS as
  // SharedMemory.
  NodeBuffers(const Communicator& node, int num_buffers, int64_t count);

  float* data(int rank, int buffer) const;  // [count], 64-byte aligned

  void publish(int buffer);
  bool all_have_published(int buffer) const;  // as often as this rank
  void mark_read(int buffer);
  bool all_have_read(int buffer) const;  // as often as this rank has published

 private:
  uint64_t& counter(int kind, int rank, int buffer) const;
  bool all_reach(int kind, int buffer) const;

  int rank_, size_, num_buffers_;
  int64_t stride_bytes_;  // from one buffer to the next
  SharedMemory memory_;
  std::vector<uint64_t> published_;  // of this rank, per buffer
};

// Pauses between looks at what another rank is going to change: first only long enough for a rank
// that is about to, then asleep, so that ranks that share a core let each other run.
class Backoff {
 public:
  void pause();

 private:
  int num_yields_ = 0;
  std::chrono::microseconds sleep_{10};
};

}  // namespace vax::dist
