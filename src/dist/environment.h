// The MPI environment of the process: initialises on construction, finalises on destruction. Exactly
// one lives in main(). Program without mpirun: one rank, nothing else differs.
#pragma once

#include <string>

namespace vax::dist {

class Environment {
 public:
  // THROWS CommError when MPI lacks the needed thread level, or when the launcher started several
  // tasks that MPI sees as single ranks (or the reverse): wrong mpirun, or srun without --mpi=pmix.
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
};

// How many tasks the launcher says it started (SLURM_NTASKS inside a step, OMPI_COMM_WORLD_SIZE,
// PMI_SIZE), 0 when the environment says nothing. `get` looks a variable up (null when absent).
int launched_tasks(const char* (*get)(const char*));

}  // namespace vax::dist
