// Not a test itself: a program one of whose ranks does not do what the others wait for, while a
// watchdog looks on. tests/fault/watchdog_test.py runs it and checks how it ends.
//   watched_rank MODE DIRECTORY     DIRECTORY: for the records of the ranks
// The rank at fault is the last one. Modes that end with an alarm (exit code 3):
//   absent     it never arrives in an all_gather and sleeps
//   stopped    it stops itself with SIGSTOP
//   elsewhere  it waits in another group
//   differs    it makes another call than the others
//   part       it stops, and the others of its half of the ranks wait in a group of that half
//   memory     it sleeps, the others wait for gradients in the node's memory
//   reading    the same for buffers that it has not read
//   text       it sleeps, the others wait in a call of the communicator itself
//   end        it never leaves the program
// Modes that end well (exit code 0):
//   slow       it arrives in time, several times; all times together exceed the timeout
//   late       it arrives after the timeout, within the grace time
//   continued  the first rank is stopped while it waits, for longer than the timeout
#include <ATen/ATen.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/flat_layout.h"
#include "base/log.h"
#include "dist/comm/communicator.h"
#include "dist/comm/environment.h"
#include "dist/shard/sharded_units.h"
#include "dist/shard/sharding_plan.h"
#include "dist/watch/watchdog.h"

namespace {

using vax::dist::Collectives;
using vax::dist::Communicator;
using vax::dist::DataType;
using vax::dist::ReduceOp;

constexpr double kTimeout_s = 1.5, kGrace_s = 1.5;
constexpr int kUsageExit = 99;

void sleep_s(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}
[[noreturn]] void sleep_for_good() {
  while (true) sleep_s(1);
}

bool at_fault(const Communicator& world) { return world.rank() == world.size() - 1; }

void gather(Collectives& group, int64_t count) {
  std::vector<float> send(static_cast<size_t>(count)), recv(send.size() * group.size());
  group.all_gather(send.data(), recv.data(), count, DataType::kFloat32).wait();
}

void absent(const Communicator& world) {
  const auto group = world.make_collectives("frozen");
  for (int step = 1; step <= 3; ++step) {
    world.calls()->set_place(vax::cat("step ", step));
    world.calls()->set_phase("pass 1");
    if (step == 3 && at_fault(world)) sleep_for_good();
    gather(*group, 1000);
  }
}

void stopped(const Communicator& world) {
  const auto group = world.make_collectives("frozen");
  gather(*group, 1000);
  if (at_fault(world)) ::raise(SIGSTOP);
  gather(*group, 1000);
}

void elsewhere(const Communicator& world) {
  const auto left = world.make_collectives("left"), right = world.make_collectives("right");
  (at_fault(world) ? right : left)->barrier();
}

void differs(const Communicator& world) {
  const auto group = world.make_collectives("world");
  group->barrier();
  double value = 0;
  if (at_fault(world))
    group->barrier();
  else
    group->all_reduce(&value, 1, DataType::kFloat64, ReduceOp::kSum).wait();
}

void part(const Communicator& world) {
  const int half = world.rank() < world.size() / 2 ? 0 : 1;
  const auto everyone = world.make_collectives("world");
  const auto group = world.split(half).make_collectives("half");
  if (at_fault(world)) ::raise(SIGSTOP);
  group->barrier();
  everyone->barrier();
}

// Units of gradients in the node's memory, released one by one; `before` runs ahead of each release
// and `after` behind it, with the number of the unit.
void release_gradients(const Communicator& world, int num_units,
                       const std::function<void(int)>& before,
                       const std::function<void(int)>& after) {
  const Communicator node = world.split_by_node();
  const auto group = node.make_collectives("reduce");
  const vax::FlatLayout layout(static_cast<size_t>(num_units), vax::FlatUnit{.count = 64});
  vax::dist::ShardedGradients gradients(*group, layout, at::kCPU, &node);
  for (int unit = 0; unit < num_units; ++unit) {
    gradients.acquire(unit).flat.zero_();
    before(unit);
    gradients.release(unit);
    after(unit);
  }
  gradients.finish();
}

void memory(const Communicator& world) {
  release_gradients(
      world, 1,
      [&](int) {
        if (at_fault(world)) sleep_for_good();
      },
      [](int) {});
}

// The rank at fault publishes its first buffer before the others do, so that it cannot have read
// theirs; they wait for that when they need the buffer again.
void reading(const Communicator& world) {
  release_gradients(
      world, vax::dist::kNodeGradientBuffers + 1,
      [&](int unit) {
        if (unit == 0 && !at_fault(world)) sleep_s(0.5);
      },
      [&](int unit) {
        if (unit == 0 && at_fault(world)) sleep_for_good();
      });
}

void text(const Communicator& world) {
  if (at_fault(world)) sleep_for_good();
  world.all_gather_text("here");
}

void never_ends(const Communicator& world) {
  if (at_fault(world)) sleep_for_good();
}

void slow(const Communicator& world) {
  const auto group = world.make_collectives("world");
  for (int round = 0; round < 4; ++round) {
    if (at_fault(world)) sleep_s(0.5 * kTimeout_s);
    group->barrier();
  }
}

void late(const Communicator& world) {
  const auto group = world.make_collectives("world");
  if (at_fault(world)) sleep_s(kTimeout_s + 0.4 * kGrace_s);
  group->barrier();
  sleep_s(0.5 * kTimeout_s);  // for the watchdogs to see it
}

// The last rank stops the first one while that waits for it, and lets it go on.
void continued(const Communicator& world) {
  const auto group = world.make_collectives("world");
  int64_t pid = world.rank() == 0 ? ::getpid() : 0;
  group->broadcast(&pid, 1, DataType::kInt64, 0).wait();
  if (at_fault(world)) {
    sleep_s(0.2);  // it waits now
    ::kill(static_cast<pid_t>(pid), SIGSTOP);
    sleep_s(2 * (kTimeout_s + kGrace_s));
    ::kill(static_cast<pid_t>(pid), SIGCONT);
    sleep_s(0.3 * kTimeout_s);
  }
  group->barrier();
}

const std::map<std::string, std::function<void(const Communicator&)>> kModes = {
    {"absent", absent},  {"stopped", stopped}, {"elsewhere", elsewhere}, {"differs", differs},
    {"part", part},      {"memory", memory},   {"reading", reading},     {"text", text},
    {"end", never_ends}, {"slow", slow},       {"late", late},           {"continued", continued},
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 || !kModes.contains(argv[1])) return kUsageExit;
  try {
    const vax::dist::Environment environment(&argc, &argv);
    const Communicator world = Communicator::world();
    vax::dist::Watchdog watchdog(world, {.timeout_s = kTimeout_s, .grace_s = kGrace_s});
    watchdog.set_record_directory(argv[2]);
    kModes.at(argv[1])(world);
  } catch (const std::exception& error) {
    vax::log::error(error.what());
    return 1;
  }
}
