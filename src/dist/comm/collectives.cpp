#include "dist/comm/collectives.h"

#include <exception>

#include "base/error.h"
#include "base/log.h"
#include "dist/comm/call_accounting.h"

namespace vax::dist {

size_t size_of(DataType type) {
  switch (type) {
    case DataType::kFloat32:
    case DataType::kInt32:
      return 4;
    case DataType::kFloat64:
    case DataType::kInt64:
      return 8;
    case DataType::kBFloat16:
      return 2;
    case DataType::kUInt8:
      return 1;
  }
  VAX_CHECK(false, "unknown data type ", static_cast<int>(type));
}

const char* name_of(DataType type) {
  switch (type) {
    case DataType::kFloat32:
      return "float32";
    case DataType::kFloat64:
      return "float64";
    case DataType::kBFloat16:
      return "bfloat16";
    case DataType::kInt32:
      return "int32";
    case DataType::kInt64:
      return "int64";
    case DataType::kUInt8:
      return "uint8";
  }
  VAX_CHECK(false, "unknown data type ", static_cast<int>(type));
}

Work& Work::operator=(Work&& other) {
  if (this != &other) {
    wait();
    state_ = std::move(other.state_);
  }
  return *this;
}

// During unwinding too: the buffers die with the caller's frame, so the operation must be over. It
// does come to its end: whatever this rank has started, the others start as well, or fail
// themselves and end the job.
Work::~Work() {
  try {
    wait();
  } catch (const std::exception& error) {
    log::error(cat("a pending collective failed: ", error.what()));
  }
}

bool Work::test() {
  if (state_ && state_->test()) state_.reset();
  return !state_;
}

void Work::wait() {
  // Given up first: after an error there is nothing left to wait for.
  if (const std::unique_ptr<State> state = std::move(state_)) state->wait();
}

void check_count(const char* operation, int64_t count) {
  VAX_CHECK(count >= 0, operation, " of ", count, " elements");
}

void check_host_reduce_scatter(int64_t count, DataType type) {
  check_count("reduce_scatter", count);
  VAX_CHECK(type == DataType::kFloat32 || type == DataType::kFloat64,
            "reduce_scatter on the host takes float32 and float64, not ", name_of(type));
}

void check_host_all_reduce(int64_t count, DataType type) {
  check_count("all_reduce", count);
  VAX_CHECK(type != DataType::kBFloat16, "all_reduce on the host does not take ", name_of(type));
}

void check_broadcast(int64_t count, int root, int size) {
  check_count("broadcast", count);
  VAX_CHECK(root >= 0 && root < size, "broadcast from rank ", root, " of ", size);
}

}  // namespace vax::dist
