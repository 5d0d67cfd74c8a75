// Private to this folder: what one process has once for all communicators that come from one world.
// Shared by all of them and by their groups, so that it lives as long as anything that uses it.
#pragma once

#include <memory>

#include "dist/comm/call_log.h"
#include "dist/comm/device_registry.h"
#include "dist/comm/progress_thread.h"
#include "dist/watch/watchdog.h"

namespace vax::dist {

struct ProcessServices {
  std::shared_ptr<CallLog> calls;
  std::shared_ptr<DeviceRegistry> devices;   // the watchdog uses it too
  std::unique_ptr<ProgressThread> progress;  // null with Progress::kPoll
  std::unique_ptr<Watchdog> watchdog;        // null without a timeout, or with one rank
};

}  // namespace vax::dist
