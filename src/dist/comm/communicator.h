// Owns an MPI communicator (error handler MPI_ERRORS_RETURN, so that failures become CommError).
// Move-only. Every call on it and on what is made from it is recorded (call_log.h); that anybody
// reads the records (watch/watchdog.h) is not its affair. MPI headers stay in the .cpp files of
// this folder.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "base/wire.h"
#include "dist/comm/call_log.h"
#include "dist/comm/collectives.h"

namespace vax::dist {

class DeviceRegistry;
class MessageChannel;

inline constexpr int64_t kMaxElementsPerCall = int64_t{1} << 27;  // 1 GiB of float64

// Who moves pending operations on while the ranks compute. MPI makes progress only inside calls.
enum class Progress {
  kPoll,    // the caller, whenever it tests, waits or starts something
  kThread,  // a thread of this process, asleep while nothing is under way
};

class Communicator {
 public:
  // COLLECTIVE over all ranks: a duplicate of MPI_COMM_WORLD. REQUIRES a live Environment.
  // `progress`: of the collectives of this communicator and of those made from it, which share one
  // thread; every rank may choose for itself.
  static Communicator world(Progress progress = Progress::kPoll);

  Communicator(Communicator&&) noexcept;
  Communicator& operator=(Communicator&&) noexcept;
  ~Communicator();

  int rank() const;
  int size() const;

  // What this communicator, those made from it and their collectives do. Never null.
  const std::shared_ptr<CallLog>& calls() const;
  // The device groups that are made from it, for other rooms of dist. Never null.
  const std::shared_ptr<DeviceRegistry>& devices() const;

  // COLLECTIVE. Ranks with equal color (>= 0) form a group, ordered by this communicator's rank.
  Communicator split(int color) const;
  // COLLECTIVE. The ranks that share a host.
  Communicator split_by_node() const;
  Communicator duplicate() const;  // COLLECTIVE

  // The collectives of this group; independent of this object's life (they own a duplicate), so
  // that traffic of different users never mixes. A group of one rank gets make_self_collectives().
  // COLLECTIVE. `max_elements_per_call` bounds what one MPI call moves (its counts are int, and
  // libraries compute bytes in int); longer operations are cut. Tests set it small. `purpose` names
  // the group in calls(). THROWS CommError.
  std::unique_ptr<Collectives> make_collectives(
      const std::string& purpose, int64_t max_elements_per_call = kMaxElementsPerCall) const;
  std::unique_ptr<Collectives> make_collectives(
      int64_t max_elements_per_call = kMaxElementsPerCall) const {
    return make_collectives("collectives", max_elements_per_call);
  }
  // A group with these ranks for waits that are not MPI's. COLLECTIVE in effect. Null with one
  // rank.
  std::shared_ptr<CallGroup> make_call_group(const std::string& purpose) const;
  // COLLECTIVE. Messages between the ranks that nobody waits for; for other rooms of dist. Nothing
  // of it is recorded. `purpose` names it in warnings.
  std::unique_ptr<MessageChannel> make_message_channel(const std::string& purpose) const;

  // COLLECTIVE. Every rank's text, in rank order, on every rank; any bytes, below 2 GiB in all.
  std::vector<std::string> all_gather_text(const std::string& text) const;
  // COLLECTIVE. `text` of `root` on every rank.
  std::string broadcast_text(std::string text, int root) const;
  // COLLECTIVE. The same of a value that can travel (base/wire.h).
  template <typename T>
  std::vector<T> all_gather_values(const T& value) const {
    std::vector<T> values;
    for (const std::string& bytes : all_gather_text(to_wire(value)))
      values.push_back(from_wire<T>(bytes));
    return values;
  }
  template <typename T>
  T broadcast_value(const T& value, int root) const {
    return from_wire<T>(broadcast_text(rank() == root ? to_wire(value) : "", root));
  }

 private:
  struct Process;
  struct Handle;
  explicit Communicator(std::unique_ptr<Handle> handle);
  std::unique_ptr<Handle> handle_;
};
static_assert(std::is_nothrow_move_constructible_v<Communicator>);
static_assert(std::is_nothrow_move_assignable_v<Communicator>);

}  // namespace vax::dist
