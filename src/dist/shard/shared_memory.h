// Private to this folder: one block of memory per node, mapped by every rank of a node
// communicator.
//
// The block is an anonymous file (memfd_create) that rank 0 makes and the others open through
// /proc/PID/fd. Why not the alternatives: MPI_Win_allocate_shared of Open MPI 4.1 keeps its blocks
// in files below /tmp or /dev/shm, and a POSIX shared memory object lies in /dev/shm; containers
// often limit both to 64 MiB, pages are taken when first written, and a full file system is then a
// SIGBUS in the middle of a step. An anonymous file counts against memory alone, has no name that
// could be left behind, and goes with its last mapping, however the processes end.
//
// Invariants that are easy to break:
// - all pages are there when the constructor returns: a later write cannot fail;
// - what one rank has written another may read only after a barrier() in between.
// Each rank commits an equal part of the pages, so that they spread over the node's memory banks.
#pragma once

#include <cstdint>
#include <memory>

#include "dist/comm/collectives.h"
#include "dist/comm/communicator.h"

namespace vax::dist {

class SharedMemory {
 public:
  // Zero-filled, 64-byte aligned; one physical copy. A node of one rank gets plain memory.
  // COLLECTIVE over `node`, all of whose ranks run on one host; equal `num_bytes` >= 0 everywhere.
  // THROWS on all ranks or none: ConfigError when the node lacks the memory (with the bytes that
  // are needed and available), CommError when the ranks cannot open each other's files.
  SharedMemory(const Communicator& node, int64_t num_bytes);
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  ~SharedMemory();  // not collective: the pages go when the last rank has unmapped them

  void* data() const { return data_; }
  int64_t num_bytes() const { return num_bytes_; }
  // COLLECTIVE over node. BLOCKS host. What any rank has written before it, all can read after it.
  void barrier();

 private:
  std::unique_ptr<Collectives> ranks_;
  int64_t num_bytes_ = 0;
  int64_t mapped_bytes_ = 0;
  void* data_ = nullptr;
};

}  // namespace vax::dist
