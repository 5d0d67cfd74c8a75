// Collective operations on raw buffers. One interface; on host memory self (one rank) and MPI, on
// device memory (device_group.h) self, NCCL and MPI through staging buffers. Every operation is
// COLLECTIVE over the group: every rank calls the same operations in the same order with the same
// counts, and waits for them in the same order.
//
// Operations return a Work at once. On host memory the buffers belong to the operation until wait()
// has returned. On device memory the operation starts after what its stream holds when it is
// called, and the buffers belong to it until the stream has passed wait(): what is put on the
// stream after that may use them. A Work's destructor waits: a pending operation is never dropped.
// MPI makes progress only inside calls: overlap needs a progress thread (Progress::kThread) or
// test() now and then. One thread at a time per group; one for all device groups of a process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

namespace vax::dist {

enum class DataType { kFloat32, kFloat64, kBFloat16, kInt32, kInt64, kUInt8 };
enum class ReduceOp { kSum, kMax, kMin };

size_t size_of(DataType type);  // bytes of one element
const char* name_of(DataType type);

// Where a device operation is ordered; ignored by host implementations.
struct Stream {
  void* handle = nullptr;  // cudaStream_t; null: the compute stream that the group was made with
};

// Completion of one operation. Move-only; an empty Work is complete.
class Work {
 public:
  struct State {
    virtual ~State() = default;
    virtual bool test() = 0;  // makes progress; true once complete. THROWS CommError
    // Host memory: BLOCKS host until complete. Device memory: BLOCKS the operation's stream until
    // complete; staged operations BLOCK the host until their result is on its way to the device.
    // THROWS CommError.
    virtual void wait() = 0;
  };

  Work() = default;
  explicit Work(std::unique_ptr<State> state) : state_(std::move(state)) {}
  Work(Work&&) noexcept = default;
  Work& operator=(Work&& other);  // waits for what it replaces
  ~Work();                        // waits; an error is logged

  bool test();  // true once complete
  void wait();
  bool pending() const { return state_ != nullptr; }

 private:
  std::unique_ptr<State> state_;
};
static_assert(std::is_nothrow_move_constructible_v<Work>);

// What went through a group since its creation. Bytes are those that this rank's algorithm-free
// lower bound sends: all_gather and reduce_scatter (n-1)/n of the whole buffer, all_reduce twice
// that, broadcast the buffer (nothing in a group of one).
struct CollectiveStatistics {
  int64_t num_calls = 0;
  int64_t num_bytes = 0;
  // Host time inside wait() and blocking calls: exposed communication. With NCCL the stream waits
  // instead and nothing of that is in here.
  double blocked_s = 0;
};

class Collectives {
 public:
  virtual ~Collectives() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual std::string name() const = 0;  // "self" | "mpi" | "nccl" | "staged"

  // True: device memory; waits order the stream. False: waits block the host.
  virtual bool orders_stream() const { return false; }
  // Device memory that operations move faster than other memory, 256-byte aligned, uninitialised;
  // null where there is nothing better than ordinary memory. It keeps what it needs of the group
  // alive. Its release BLOCKS host until the group and the compute stream have used it for the last
  // time. Need not be called by all ranks. THROWS CommError.
  virtual std::shared_ptr<void> allocate(int64_t /*num_bytes*/) { return nullptr; }

  // recv has size() * count elements; rank r's part is [r * count, (r + 1) * count). In place when
  // send == recv + rank() * count.
  virtual Work all_gather(const void* send, void* recv, int64_t count, DataType type,
                          Stream stream = {}) = 0;
  // send has size() * count elements, recv gets this rank's part of the reduction. send and recv
  // must not overlap; send may be overwritten. kFloat32 and kFloat64; NCCL also other types.
  virtual Work reduce_scatter(void* send, void* recv, int64_t count, DataType type, ReduceOp op,
                              Stream stream = {}) = 0;
  // In place. Bit-identical result on every rank. kBFloat16 with NCCL only. Where a decision hangs
  // on NaN, reduce a flag: kMax and kMin may return the largest or smallest other value.
  virtual Work all_reduce(void* data, int64_t count, DataType type, ReduceOp op,
                          Stream stream = {}) = 0;
  virtual Work broadcast(void* data, int64_t count, DataType type, int root,
                         Stream stream = {}) = 0;
  virtual void barrier() = 0;  // BLOCKS host

  virtual CollectiveStatistics statistics() const = 0;
};

// One rank, host memory: operations copy or do nothing.
std::unique_ptr<Collectives> make_self_collectives();

}  // namespace vax::dist
