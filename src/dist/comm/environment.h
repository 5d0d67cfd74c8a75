// The MPI environment of the process: initialises on construction, finalises on destruction.
// Exactly one lives in main(), longer than everything that communicates. Program without mpirun:
// one rank, nothing else differs. Invariant: no rank leaves while others wait for it. MPI_Finalize
// waits for all ranks, so a rank that fails must end the job instead: main() catches inside the
// life of the Environment and calls abort(); the destructor does so itself when an exception passes
// it.
#pragma once

#include <string>

namespace vax::dist {

class Environment {
 public:
  // THROWS CommError when MPI lacks the needed thread level, or when the launcher started several
  // tasks that MPI sees as single ranks (or the reverse): wrong mpirun, or srun without --mpi=pmix.
  // Tells base/log the rank.
  Environment(int* argc, char*** argv);
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
  ~Environment();

  int rank() const { return rank_; }
  int world_size() const { return world_size_; }
  int local_rank() const { return local_rank_; }  // among the ranks of this host
  int local_size() const { return local_size_; }
  const std::string& host() const { return host_; }

  // Ends all ranks with `exit_code`; for main() after an error that others may not know of.
  [[noreturn]] static void abort(int exit_code);

 private:
  int rank_ = 0, world_size_ = 1, local_rank_ = 0, local_size_ = 1;
  std::string host_;
  int exceptions_before_;  // in flight when this was made
};

// Of this machine; "unknown" where it has none.
std::string host_name();

// How many tasks the launcher says it started, 0 when the environment says nothing. mpirun's word
// (OMPI_COMM_WORLD_SIZE, PMI_SIZE) comes first: it may itself run inside a Slurm step. Slurm's
// counts inside a step only (SLURM_STEP_ID): a batch script that calls mpirun sees SLURM_NTASKS
// too. `get` looks a variable up (null when absent).
int launched_tasks(const char* (*get)(const char*));

// THROWS CommError when the launcher started several tasks and MPI sees one rank, or the reverse.
void check_launch(int launched, int world_size);

}  // namespace vax::dist
