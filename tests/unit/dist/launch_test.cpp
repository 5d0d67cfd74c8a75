// What the launcher's variables say about the number of tasks, and when that contradicts MPI.
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "base/error.h"
#include "dist/comm/environment.h"

namespace vax::dist {
namespace {

std::map<std::string, std::string> variables;

int tasks(std::map<std::string, std::string> environment) {
  variables = std::move(environment);
  return launched_tasks([](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

TEST(LaunchedTasks, SaysNothingWithoutALauncher) { EXPECT_EQ(tasks({}), 0); }

TEST(LaunchedTasks, BelievesMpirun) {
  EXPECT_EQ(tasks({{"OMPI_COMM_WORLD_SIZE", "4"}}), 4);
  EXPECT_EQ(tasks({{"PMI_SIZE", "3"}}), 3);
}

TEST(LaunchedTasks, CountsTheTasksOfASlurmStep) {
  EXPECT_EQ(tasks({{"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "2"}, {"SLURM_NTASKS", "8"}}),
            2);
  EXPECT_EQ(tasks({{"SLURM_STEP_ID", "3"}, {"SLURM_NTASKS", "8"}}), 8);
}

// A batch script or interactive shell sees the job's variables, and SLURM_PROCID = 0 too.
TEST(LaunchedTasks, IgnoresSlurmOutsideASrunStep) {
  EXPECT_EQ(tasks({{"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}}), 0);
  EXPECT_EQ(tasks({{"SLURM_STEP_ID", "4294967291"}, {"SLURM_NTASKS", "8"}}), 0);  // batch
  EXPECT_EQ(tasks({{"SLURM_STEP_ID", "4294967290"}, {"SLURM_STEP_NUM_TASKS", "8"}}), 0);
}

TEST(LaunchedTasks, BelievesMpirunInsideASlurmStep) {
  EXPECT_EQ(
      tasks({{"OMPI_COMM_WORLD_SIZE", "4"}, {"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}}),
      4);
}

TEST(LaunchedTasks, DoesNotCountOneComponentOfAHeterogeneousStep) {
  EXPECT_EQ(tasks({{"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_HET_SIZE", "2"}}),
            0);
}

TEST(LaunchedTasks, IgnoresWhatIsNotANumber) {
  EXPECT_EQ(tasks({{"OMPI_COMM_WORLD_SIZE", "four"}, {"PMI_SIZE", "2"}}), 2);
  EXPECT_EQ(tasks({{"OMPI_COMM_WORLD_SIZE", ""}}), 0);
  EXPECT_EQ(tasks({{"OMPI_COMM_WORLD_SIZE", "-1"}}), 0);
}

TEST(CheckLaunch, RefusesTasksThatMpiSeesAsSingleRanks) {
  EXPECT_THROW(check_launch(4, 1), CommError);
  EXPECT_THROW(check_launch(1, 4), CommError);
}

TEST(CheckLaunch, AcceptsWhatAgreesOrIsUnknown) {
  EXPECT_NO_THROW(check_launch(0, 1));
  EXPECT_NO_THROW(check_launch(0, 4));
  EXPECT_NO_THROW(check_launch(1, 1));
  EXPECT_NO_THROW(check_launch(4, 4));
}

}  // namespace
}  // namespace vax::dist
