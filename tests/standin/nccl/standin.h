// A stand-in for NCCL and the part of the CUDA runtime that device groups use, for tests without a
// device. Compiled against the real headers and linked in front of the real libraries. "Device
// memory" is host memory of this process; NCCL's data goes between the processes of one host.
//
// It is asynchronous where the real ones are, so that what relies on luck fails:
// - a stream is a thread with a queue; an event that nobody waits for is a race. The legacy default
//   stream (null) is the calling thread itself: what is put there runs at once, and waiting for an
//   event there blocks the caller. So host code that stands for kernels keeps its place in it;
// - communicators become ready some time after ncclCommInitRankConfig has returned ncclInProgress,
//   the first collective of each returns ncclInProgress and is put on its stream later;
// - a collective that has failed, or that other ranks do not join, keeps its stream busy until the
//   communicator is aborted.
// What the real ones leave undefined ends the process with a message: use of freed memory (it is
// unmapped) or of a dead communicator, memory freed while it is registered, a communicator
// destroyed with registrations, asynchronous copies between the device and memory that is not
// pinned. With STANDIN_TELLS_ABORTS in the environment every ncclCommAbort says so on standard
// error. The functions below control the calls of this process. Any thread.
#pragma once

#include <nccl.h>

#include <chrono>
#include <cstdint>
#include <string>

namespace standin {

// What ncclGetVersion says.
void set_version(int version);
// What cudaDeviceGetPCIBusId says; empty (the beginning): STANDIN_BUS_ID of the environment, where
// it is set (all ranks have one device), else another one in every process.
void set_bus_id(const std::string& id);
// A pause of every NCCL operation and asynchronous copy on its stream, before it does anything; at
// first STANDIN_DELAY_US of the environment, or none.
void set_operation_delay(std::chrono::microseconds delay);
// The nth collective that is started from now on (1: the next) fails on its stream with `result`.
void fail_operation(int64_t nth, ncclResult_t result);
// ncclCommInitRankConfig fails later with `result`; ncclSuccess: it works again.
void fail_init(ncclResult_t result);
// ncclMemAlloc fails.
void refuse_memory(bool refuse);

struct Counts {
  int64_t streams = 0, events = 0, allocations = 0;  // that live
  int64_t communicators = 0, registrations = 0;
  int64_t aborted = 0;  // communicators so far
};
Counts counts();

}  // namespace standin
