#include "nccl_member.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <thread>
#include <type_traits>
#include <vector>

#include "internal.h"

namespace standin {
namespace {

// What the real one needs for its bootstrap.
constexpr std::chrono::milliseconds kInit{3};

size_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclUint8:
      return 1;
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclFloat32:
      return 4;
    case ncclInt64:
    case ncclFloat64:
      return 8;
    default:
      die("a data type that the stand-in does not have");
  }
}

struct BFloat16 {
  uint16_t bits;
};

float to_float(BFloat16 value) { return std::bit_cast<float>(uint32_t{value.bits} << 16); }

// To nearest, ties to even; values of tests are finite.
BFloat16 to_bfloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

template <typename T>
T combine(T a, T b, ncclRedOp_t op) {
  if constexpr (std::is_same_v<T, BFloat16>)
    return to_bfloat16(combine(to_float(a), to_float(b), op));
  else
    return op == ncclSum ? static_cast<T>(a + b) : op == ncclMax ? std::max(a, b) : std::min(a, b);
}

template <typename T>
void reduce(const std::vector<const std::byte*>& parts, size_t count, ncclRedOp_t op, void* to) {
  for (size_t i = 0; i < count; ++i) {
    T sum;
    std::memcpy(&sum, parts[0] + i * sizeof(T), sizeof(T));
    for (size_t rank = 1; rank < parts.size(); ++rank) {
      T other;
      std::memcpy(&other, parts[rank] + i * sizeof(T), sizeof(T));
      sum = combine(sum, other, op);
    }
    std::memcpy(static_cast<std::byte*>(to) + i * sizeof(T), &sum, sizeof(T));
  }
}

void reduce(const std::vector<const std::byte*>& parts, const Operation& operation, size_t count,
            void* to) {
  switch (operation.type) {
    case ncclUint8:
      return reduce<uint8_t>(parts, count, operation.op, to);
    case ncclBfloat16:
      return reduce<BFloat16>(parts, count, operation.op, to);
    case ncclInt32:
      return reduce<int32_t>(parts, count, operation.op, to);
    case ncclInt64:
      return reduce<int64_t>(parts, count, operation.op, to);
    case ncclFloat32:
      return reduce<float>(parts, count, operation.op, to);
    default:
      return reduce<double>(parts, count, operation.op, to);
  }
}

}  // namespace

Member::~Member() {
  if (block_ != nullptr) ::munmap(block_, sizeof(Block));
}

void Member::spin_until_aborted() const {
  while (!aborted) std::this_thread::sleep_for(kLook);
}

void Member::init(const std::string& path) {
  std::this_thread::sleep_for(kInit);
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) return fail(ncclSystemError);
  void* const memory = ::mmap(nullptr, sizeof(Block), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  ::close(file);
  if (memory == MAP_FAILED) return fail(ncclSystemError);
  block_ = static_cast<Block*>(memory);
  if (meet()) in_progress = false;
}

bool Member::meet() {
  const int round = block_->round;
  if (block_->arrived.fetch_add(1) + 1 == size_) {
    block_->arrived = 0;
    ++block_->round;
    return true;
  }
  while (block_->round == round) {
    if (aborted) return false;
    std::this_thread::sleep_for(kLook);
  }
  return true;
}

bool Member::is_same_everywhere(const Operation& operation) {
  for (int rank = 0; rank < size_; ++rank) {
    const Block::Rank& other = block_->ranks[rank];
    if (other.kind != operation.kind || other.count != operation.count ||
        other.type != operation.type || other.op != operation.op || other.root != operation.root)
      return false;
  }
  return true;
}

void Member::run(const Operation& operation, ncclResult_t failure) {
  pause();
  if (failure != ncclSuccess) {
    fail(failure);
    return spin_until_aborted();
  }
  Block::Rank& own = block_->ranks[rank_];
  own.kind = operation.kind;
  own.count = operation.count;
  own.type = operation.type;
  own.op = operation.op;
  own.root = operation.root;
  if (!meet()) return;
  const bool same = is_same_everywhere(operation);
  if (!meet()) return;
  if (!same) {
    fail(ncclInvalidUsage);
    return spin_until_aborted();
  }
  exchange(operation);
}

void Member::send(const Operation& operation, const Stretch& stretch) {
  const DeviceCode device;
  const auto* const from = static_cast<const std::byte*>(operation.send);
  for (size_t to = 0; to < num_sent(operation); ++to)
    std::memcpy(data(rank_) + to * stretch.num_bytes,
                from + to * stretch.part_bytes + stretch.offset_bytes, stretch.num_bytes);
}

void Member::receive(const Operation& operation, const Stretch& stretch) {
  const DeviceCode device;
  const size_t own = operation.kind == Kind::kReduceScatter ? static_cast<size_t>(rank_) : 0;
  std::vector<const std::byte*> parts;
  for (int rank = 0; rank < size_; ++rank) parts.push_back(data(rank) + own * stretch.num_bytes);
  auto* const to = static_cast<std::byte*>(operation.recv) + stretch.offset_bytes;
  if (operation.kind == Kind::kAllGather)
    for (size_t rank = 0; rank < parts.size(); ++rank)
      std::memcpy(to + rank * stretch.part_bytes, parts[rank], stretch.num_bytes);
  else if (operation.kind == Kind::kBroadcast)
    std::memcpy(to, parts[static_cast<size_t>(operation.root)], stretch.num_bytes);
  else
    reduce(parts, operation, stretch.count, to);
}

// A reduce_scatter sends a stretch for every rank.
size_t Member::num_sent(const Operation& operation) const {
  return operation.kind == Kind::kReduceScatter ? static_cast<size_t>(size_) : 1;
}

void Member::exchange(const Operation& operation) {
  const size_t element = size_of(operation.type);
  const size_t longest = kStretchBytes / (element * num_sent(operation));
  for (size_t begin = 0; begin < operation.count; begin += longest) {
    const size_t count = std::min(longest, operation.count - begin);
    const Stretch stretch{.count = count,
                          .num_bytes = count * element,
                          .offset_bytes = begin * element,
                          .part_bytes = operation.count * element};
    send(operation, stretch);
    if (!meet()) return;
    receive(operation, stretch);
    if (!meet()) return;
  }
}

}  // namespace standin
