// What a subcommand runs in: its options, the ranks, and a way to fail together.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>

#include "app/catalogue.h"
#include "app/command_line.h"
#include "app/compute_device.h"
#include "dist/comm/communicator.h"
#include "dist/comm/environment.h"
#include "dist/watch/watchdog.h"

namespace vax::app {

enum ExitCode : int {
  kDone = 0,
  kUnexpected = 1,
  kBadInput = 2,    // configuration or file
  kCommFailed = 3,  // a rank or a collective
  kStopped = 75,    // on request, after a complete checkpoint: start again to go on
};

// An error that every rank knows of: rank 0 reports it, all ranks end in order.
class AgreedError : public std::runtime_error {
 public:
  AgreedError(const std::string& what, ExitCode code) : std::runtime_error(what), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

struct Session {
  const CommandLine& command_line;
  const Options& options;  // resolved
  const dist::Environment& environment;
  const dist::Communicator& world;
  dist::Watchdog& watchdog;
  const ComputeDevice& device;
  const Catalogue& catalogue;

  const OptionTable& table() const { return *command_line.table; }
  bool is_root() const { return world.rank() == 0; }
};

// Runs `body`, which must not communicate, on every rank; when it fails on any, all ranks throw an
// AgreedError with the distinct messages. COLLECTIVE. What reads files or checks options goes
// through here, so that bad input ends all ranks with one message and none is left waiting.
void together(const dist::Communicator& world, const std::function<void()>& body);

// The exit code that stands for an exception; its message goes to the log.
ExitCode exit_code_of(const std::exception& error);

// The subcommands; those that can end well in more than one way say how. COLLECTIVE. THROW what
// their parts throw.
void run_init(const Session& session);
ExitCode run_training(const Session& session);  // align, finetune: kDone or kStopped
void run_plan(const Session& session);
void run_eval(const Session& session);
void run_drift(const Session& session);
void run_generate(const Session& session);
void run_tokenize(const Session& session);
void run_export(const Session& session);
void run_rebuild(const Session& session);

}  // namespace vax::app
