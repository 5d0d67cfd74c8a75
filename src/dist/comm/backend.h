// Private to dist: how bytes move. Collectives is the front that everybody calls; a backend is what
// stands behind it: self, mpi, staged or nccl, one pair of files each. The front has checked the
// arguments, counted the operation and started its record; a backend does none of that.
#pragma once

#include <cstdint>
#include <memory>

#include "dist/comm/call_log.h"
#include "dist/comm/collectives.h"

namespace vax::dist {

struct Operation {
  enum class Kind { kAllGather, kReduceScatter, kAllReduce, kBroadcast };

  Kind kind;
  const void* send;
  void* recv;     // kAllReduce, kBroadcast: equal to send
  int64_t count;  // of one rank's part; kAllReduce, kBroadcast: of the buffer
  DataType type;
  Stream stream;
  ReduceOp op = ReduceOp::kSum;
  int root = 0;
  // The record: done when it is destroyed, at the latest with the operation.
  Call call;
};

// Works may outlive the backend: they share what they need of it.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual GroupTraits traits() const = 0;
  // Called before the record of an operation starts: until then this rank has not arrived. Finds
  // failures of what is under way; BLOCKS host where that is too much, and returns for how many
  // seconds. THROWS CommError.
  virtual double make_room() { return 0; }
  // COLLECTIVE. THROWS CommError.
  virtual Work start(Operation operation) = 0;
  // COLLECTIVE. BLOCKS host. THROWS CommError.
  virtual void barrier(Call call) = 0;
  virtual std::shared_ptr<void> allocate(int64_t /*num_bytes*/) { return nullptr; }
};

}  // namespace vax::dist
