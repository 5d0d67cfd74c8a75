// Collective operations on raw buffers. One front, which checks, counts and records every call; a
// backend behind it moves the bytes (backend.h): on host memory self (one rank) and MPI, on device
// memory (device/device_group.h) self, NCCL and MPI through staging buffers. Every operation is
// COLLECTIVE over the group: every rank calls the same operations in the same order with the same
// counts, and waits for them in the same order. Arguments are checked before anything is sent, so
// that a wrong call fails on every rank and none waits.
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

class Backend;
class Call;
class CallGroup;
struct Operation;

enum class DataType { kFloat32, kFloat64, kBFloat16, kInt32, kInt64, kUInt8 };
enum class ReduceOp { kSum, kMax, kMin };

size_t size_of(DataType type);  // bytes of one element
const char* name_of(DataType type);

// Where a device operation is ordered; ignored by host implementations.
struct Stream {
  void* handle = nullptr;  // cudaStream_t; null: the compute stream that the group was made with
};

// What went through a group since its creation. Bytes are those that this rank's algorithm-free
// lower bound sends: see below.
struct CollectiveStatistics {
  int64_t num_calls = 0;
  int64_t num_bytes = 0;
  // Host time inside wait() and blocking calls: exposed communication. With NCCL the stream waits
  // instead and nothing of that is in here.
  double blocked_s = 0;
};

// Bytes that one rank of a group of `size` must send: of a gather (or reduce-scatter) of `count`
// elements per rank (n-1)/n of the whole buffer, of an all_reduce twice that, of a broadcast the
// buffer (nothing in a group of one).
int64_t gather_bytes(int64_t count, DataType type, int size);
int64_t all_reduce_bytes(int64_t count, DataType type, int size);
int64_t broadcast_bytes(int64_t count, DataType type, int size);

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
    virtual bool blocks_host() const { return true; }  // whether wait() does
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
  friend class Collectives;
  std::unique_ptr<State> state_;
  std::shared_ptr<CollectiveStatistics> statistics_;  // of the group, which may go before
};
static_assert(std::is_nothrow_move_constructible_v<Work>);

struct GroupTraits {
  std::string name;  // of the backend: "self" | "mpi" | "nccl" | "staged"
  int rank = 0, size = 1;
  bool orders_stream = false;   // device memory: waits order the stream; false: they block the host
  bool reduces_on_host = true;  // kBFloat16 is not reduced then, and only floats are scattered
};

class Collectives {
 public:
  // `calls` records the operations; null: nothing does.
  Collectives(std::unique_ptr<Backend> backend, std::shared_ptr<CallGroup> calls);
  ~Collectives();

  int rank() const { return traits_.rank; }
  int size() const { return traits_.size; }
  const std::string& name() const { return traits_.name; }
  bool orders_stream() const { return traits_.orders_stream; }
  // Device memory that operations move faster than other memory, 256-byte aligned, uninitialised;
  // null where there is nothing better than ordinary memory. It keeps what it needs of the group
  // alive. Its release BLOCKS host until the group and the compute stream have used it for the last
  // time. Need not be called by all ranks. THROWS CommError.
  std::shared_ptr<void> allocate(int64_t num_bytes);

  // All THROW std::logic_error for arguments that no rank can serve, CommError.
  // recv has size() * count elements; rank r's part is [r * count, (r + 1) * count). In place when
  // send == recv + rank() * count.
  Work all_gather(const void* send, void* recv, int64_t count, DataType type, Stream stream = {});
  // send has size() * count elements, recv gets this rank's part of the reduction. send and recv
  // must not overlap; send may be overwritten. kFloat32 and kFloat64; NCCL also other types.
  Work reduce_scatter(void* send, void* recv, int64_t count, DataType type, ReduceOp op,
                      Stream stream = {});
  // In place. Bit-identical result on every rank. kBFloat16 with NCCL only. Where a decision hangs
  // on NaN, reduce a flag: kMax and kMin may return the largest or smallest other value.
  Work all_reduce(void* data, int64_t count, DataType type, ReduceOp op, Stream stream = {});
  Work broadcast(void* data, int64_t count, DataType type, int root, Stream stream = {});
  void barrier();  // BLOCKS host

  CollectiveStatistics statistics() const { return *statistics_; }

 private:
  // `elements` of the whole operation, on all ranks together where they have parts of it.
  Work run(const char* name, int64_t elements, int64_t sent_bytes, Operation operation);
  Call record(const char* name, int64_t elements, int64_t num_bytes, int64_t sent_bytes);

  const std::unique_ptr<Backend> backend_;
  const std::shared_ptr<CallGroup> calls_;
  const GroupTraits traits_;
  const std::shared_ptr<CollectiveStatistics> statistics_;
};

// One rank, host memory: operations copy or do nothing.
std::unique_ptr<Collectives> make_self_collectives();

}  // namespace vax::dist
