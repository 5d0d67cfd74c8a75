#include "app/program.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <malloc.h>

#include <algorithm>
#include <csignal>
#include <iostream>
#include <map>
#include <thread>

#include "app/compute_device.h"
#include "app/help.h"
#include "app/resolve.h"
#include "app/resolved_config.h"
#include "app/runtime_options.h"
#include "app/validate.h"
#include "base/error.h"
#include "base/log.h"
#include "ops/device/runtime.h"
#include "train/checkpointer.h"
#include "train/device_waiter.h"
#include "train/tensor_memory.h"
#include "train/trainer.h"

namespace vax::app {
namespace {

// Activations come and go with every micro-batch. Left to itself the allocator returns them to the
// system each time and pays for fresh zeroed pages at the next.
void keep_freed_memory() {
  ::mallopt(M_MMAP_THRESHOLD, 1 << 30);
  ::mallopt(M_TRIM_THRESHOLD, -1);
  ::mallopt(M_TOP_PAD, 64 << 20);
}

void set_threads(const Options& options, const dist::Environment& environment) {
  const auto cores = static_cast<int64_t>(std::max(1U, std::thread::hardware_concurrency()));
  const int64_t share = std::max<int64_t>(1, cores / environment.local_size());
  at::set_num_threads(static_cast<int>(options.get<RuntimeOptions>().threads.value_or(share)));
}

// Ranks that were started with different options would part ways in the middle of a collective.
void compare_configurations(const dist::Communicator& world, const CommandLine& command_line) {
  const std::vector<std::string> hashes =
      world.all_gather_text(config_hash(*command_line.table, command_line.options));
  for (size_t rank = 1; rank < hashes.size(); ++rank)
    if (hashes[rank] != hashes[0])
      throw AgreedError(
          cat("the resolved configuration of rank ", rank, " differs from that of rank 0 (hash ",
              hashes[rank], " and ", hashes[0], "): start all ranks with the same options"),
          kBadInput);
}

using Command = ExitCode (*)(const Session&);

// A subcommand that ends well in one way only.
template <void (*Run)(const Session&)>
ExitCode completed(const Session& session) {
  Run(session);
  return kDone;
}

const std::map<std::string, Command>& commands() {
  static const std::map<std::string, Command> table = {{"init", completed<run_init>},
                                                       {"align", run_training},
                                                       {"finetune", run_training},
                                                       {"plan", completed<run_plan>},
                                                       {"eval", completed<run_eval>},
                                                       {"drift", completed<run_drift>},
                                                       {"generate", completed<run_generate>},
                                                       {"tokenize", completed<run_tokenize>},
                                                       {"export", completed<run_export>},
                                                       {"rebuild", completed<run_rebuild>}};
  return table;
}

}  // namespace

bool print_information(int argc, const char* const* argv, const Catalogue& catalogue) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const bool wants_help = arguments.empty() || std::ranges::count(arguments, "--help") > 0 ||
                          std::ranges::count(arguments, "-h") > 0;
  const bool wants_version = arguments.size() == 1 && arguments[0] == "--version";
  if (!wants_help && !wants_version) return false;
  if (arguments.empty()) {
    std::cout << program_help();
    return true;
  }
  const OptionTable table = make_option_table(catalogue);
  const CommandLine command_line = parse(table, argc, argv);
  if (command_line.request == CommandLine::Request::kVersion)
    std::cout << version_text();
  else if (command_line.options.subcommand.empty())
    std::cout << program_help();
  else
    std::cout << subcommand_help(table, command_line.options.subcommand);
  return true;
}

ExitCode run_program(int argc, const char* const* argv, const Catalogue& catalogue,
                     const dist::Environment& environment) {
  const OptionTable table = make_option_table(catalogue);
  const dist::Communicator start = dist::Communicator::world();
  CommandLine command_line;
  together(start, [&] {
    command_line = parse(table, argc, argv);
    resolve(command_line);
    choose_device(command_line.options);
    check_world_size(command_line.options, environment.world_size());
    check_paths(command_line.options);
  });
  const Options& options = command_line.options;
  compare_configurations(start, command_line);
  keep_freed_memory();
  train::count_tensor_memory();
  set_threads(options, environment);
  const dist::Communicator world = dist::Communicator::world(
      options.get<RuntimeOptions>().progress == Progress::kThread ? dist::Progress::kThread
                                                                  : dist::Progress::kPoll);
  dist::Watchdog watchdog(world, {.timeout_s = options.get<RuntimeOptions>().timeout_s});
  ComputeDevice device;
  together(world, [&] { device = select_device(options, environment.local_rank()); });
  if (world.rank() == 0 && device.context)
    log::info(cat("computing on ", ops::device::name(device.context->index)));
  const train::DeviceWaiter waiter(world, device.context ? &*device.context : nullptr);
  const Session session{command_line, options, environment, world, watchdog, device, catalogue};
  try {
    return commands().at(options.subcommand)(session);
  } catch (const train::DivergenceError& e) {
    throw AgreedError(e.what(), kUnexpected);
  } catch (const train::CheckpointFailed& e) {
    throw AgreedError(e.what(), kUnexpected);
  }
}

int program_main(int argc, char** argv, const Catalogue& catalogue) {
  // A file-size limit shall be a failed write with a message, not a death; nor shall the reader of
  // the log (`| tee log`) take a run with it when it goes.
  std::signal(SIGXFSZ, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  try {
    if (print_information(argc, argv, catalogue)) return kDone;
    dist::Environment environment(&argc, &argv);
    log::set_rank(environment.rank(), environment.world_size());
    const c10::InferenceMode no_autograd;
    try {
      return run_program(argc, argv, catalogue, environment);
    } catch (const AgreedError& e) {
      if (environment.rank() == 0) log::error(e.what());
      return e.code();
    } catch (const std::exception& e) {
      log::error(e.what());
      if (environment.world_size() > 1) dist::Environment::abort(exit_code_of(e));
      return exit_code_of(e);
    }
  } catch (const std::exception& e) {
    log::error(e.what());
    return exit_code_of(e);
  }
}

}  // namespace vax::app
