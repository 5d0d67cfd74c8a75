// run.h5 read back with the C library, HDF5 errors as exceptions, and what a kill leaves. The view
// that Python has of the same file is in tests/parity/files_parity.py.
#include <hdf5_hl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "base/atomic_file.h"
#include "base/error.h"
#include "hdf5_test_reader.h"
#include "io/hdf5_dataset.h"
#include "io/run_file.h"
#include "io_test_support.h"
#include "sample_records.h"

namespace vax::io {
namespace {

using testing::Reader;
using testing::sample_drift;
using testing::sample_memory;
using testing::sample_step;

class RunFileTest : public ::testing::Test {
 protected:
  RunFile create() {
    return RunFile(path_, testing::sample_figures(), {"[train]\nlr = 0.001\n", "0.1.0"});
  }

  testing::ScratchDirectory scratch_;
  std::filesystem::path path_ = scratch_ / "run.h5";
};

TEST_F(RunFileTest, TableHasOneRowPerStep) {
  RunFile file = create();
  for (int64_t step = 1; step <= 600; ++step) {  // several chunks
    file.append(sample_step(step));
    if (step % 250 == 0) file.flush();
  }
  file.flush();
  const Reader reader(path_);
  EXPECT_EQ(reader.shape("metrics/train"), (std::vector<hsize_t>{600}));
  const std::vector<double> step = reader.column("step");
  const std::vector<double> loss = reader.column("loss");
  const std::vector<double> hidden = reader.column("hidden_grad_norm");
  const std::vector<double> comm_bytes = reader.column("comm_bytes");
  for (size_t i = 0; i < 600; ++i) {
    const StepRecord expected = sample_step(static_cast<int64_t>(i) + 1);
    ASSERT_EQ(step[i], static_cast<double>(i + 1));
    ASSERT_EQ(loss[i], expected.loss);
    ASSERT_EQ(comm_bytes[i], static_cast<double>(expected.comm_bytes));
    if (expected.figures[testing::kHiddenGradNorm])
      ASSERT_EQ(hidden[i], *expected.figures[testing::kHiddenGradNorm]);
    else
      ASSERT_TRUE(std::isnan(hidden[i]));
  }
}

TEST_F(RunFileTest, PerturbationHasOnlyTwoPassSteps) {
  RunFile file = create();
  for (int64_t step = 1; step <= 5; ++step) file.append(sample_step(step));
  file.flush();
  const Reader reader(path_);
  EXPECT_EQ(reader.numbers("perturbation/step"), (std::vector<double>{1, 3, 5}));
  EXPECT_EQ(reader.numbers("perturbation/grad_norm"),
            (std::vector<double>{1, 2, 3, 3, 4, 5, 5, 6, 7}));
  EXPECT_FALSE(reader.has("drift"));
}

TEST_F(RunFileTest, DriftArraysAndTheirScales) {
  RunFile file = create();
  file.append(sample_drift(2));
  file.flush();
  file.append(sample_drift(4));
  file.flush();
  const Reader reader(path_);
  EXPECT_EQ(reader.shape("drift/l2sq"), (std::vector<hsize_t>{2, 3, 2}));
  EXPECT_EQ(reader.numbers("drift/l2sq"), (std::vector<double>{200, 201, 210, 211, 220, 221,  //
                                                               400, 401, 410, 411, 420, 421}));
  EXPECT_EQ(reader.numbers("drift/tokens"), (std::vector<double>{72, 82, 74, 84}));
  EXPECT_EQ(reader.numbers("drift/samples"), (std::vector<double>{10, 10}));
  EXPECT_EQ(reader.numbers("drift/step"), (std::vector<double>{2, 4}));
  EXPECT_EQ(reader.numbers("drift/layer"), (std::vector<double>{0, 1, 2}));
  const Hdf5Dataset l2sq = reader.dataset("drift/l2sq");
  unsigned axis = 0;
  for (const char* scale : {"drift/step", "drift/layer", "drift/batch"})
    EXPECT_GT(H5DSis_attached(l2sq.get(), reader.dataset(scale).get(), axis++), 0) << scale;
}

TEST_F(RunFileTest, MemoryByItsPart) {
  RunFile file = create();
  file.append(sample_step(1));
  file.append(sample_memory());
  file.flush();
  const Reader reader(path_);
  constexpr double kTiB = 0x1p40;
  EXPECT_EQ(reader.numbers("memory/planned_bytes"), (std::vector<double>{kTiB + 1, 0, 5}));
  EXPECT_EQ(reader.numbers("memory/measured_bytes"), (std::vector<double>{kTiB + 2, 3, 4}));
  const Hdf5Dataset part = reader.dataset("memory/part");
  for (const char* name : {"memory/planned_bytes", "memory/measured_bytes"})
    EXPECT_GT(H5DSis_attached(reader.dataset(name).get(), part.get(), 0), 0) << name;
  EXPECT_EQ(reader.column("step"), (std::vector<double>{1}));
}

TEST_F(RunFileTest, MemoryIsRecordedOnce) {
  RunFile file = create();
  file.append(sample_memory());
  EXPECT_THROW(file.append(sample_memory()), std::logic_error);
  file.flush();
  EXPECT_THROW(file.append(sample_memory()), std::logic_error);
  file.append(sample_step(1));  // the file goes on
  file.flush();
  EXPECT_EQ(Reader(path_).column("step"), (std::vector<double>{1}));
}

TEST_F(RunFileTest, ARunWithoutMemoryHasNoGroupOfIt) {
  create().flush();
  EXPECT_FALSE(Reader(path_).has("memory"));
}

TEST_F(RunFileTest, RecordsOfAnotherSizeAreRefused) {
  RunFile file = create();
  file.append(sample_step(1));
  StepRecord step = sample_step(3);
  step.layer_figures[0].pop_back();
  EXPECT_THROW(file.append(step), std::logic_error);
  file.append(sample_drift(1));
  DriftRecord drift = sample_drift(2);
  drift.l2sq[1].pop_back();
  EXPECT_THROW(file.append(drift), std::logic_error);
  drift = sample_drift(2);
  drift.tokens.push_back(1);
  EXPECT_THROW(file.append(drift), std::logic_error);
  drift = sample_drift(2);
  drift.cka.clear();
  EXPECT_THROW(file.append(drift), std::logic_error);
  file.append(sample_drift(3));  // the refused ones left no trace
  file.flush();
  EXPECT_EQ(Reader(path_).numbers("drift/step"), (std::vector<double>{1, 3}));
}

TEST_F(RunFileTest, KilledProcessLosesOnlyWhatWasNotFlushed) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    RunFile file = create();
    file.append(sample_step(1));
    file.append(sample_drift(1));
    file.flush();
    file.append(sample_step(2));
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  const Reader reader(path_);
  EXPECT_EQ(reader.column("step"), (std::vector<double>{1}));
  EXPECT_EQ(reader.numbers("drift/step"), (std::vector<double>{1}));
}

// The child flushes as often as it can, so nearly every kill falls into a flush.
TEST_F(RunFileTest, AKillAtAnyMomentLeavesTheFileOfAFlush) {
  size_t fewest = 1000, most = 0;
  for (int trial = 0; trial < 40; ++trial) {
    std::filesystem::remove(path_);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      RunFile file = create();
      for (int64_t step = 1;; ++step) {
        file.append(sample_step(step));
        file.append(sample_drift(step));
        file.flush();
      }
    }
    while (!std::filesystem::exists(path_)) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::microseconds(1377 * trial));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    const Reader reader(path_);
    const std::vector<double> steps = reader.column("step");
    ASSERT_GE(steps.size(), 1u);
    EXPECT_EQ(steps.back(), static_cast<double>(steps.size()));
    EXPECT_EQ(reader.numbers("drift/step"), steps);
    EXPECT_EQ(reader.numbers("drift/l2sq").back(), 100 * steps.back() + 21);
    fewest = std::min(fewest, steps.size());
    most = std::max(most, steps.size());
  }
  EXPECT_LT(fewest, most);  // the kills came at different moments
}

TEST_F(RunFileTest, CanBeReadWhileItIsOpen) {
  RunFile file = create();
  file.append(sample_step(1));
  file.flush();
  EXPECT_EQ(Reader(path_).column("step").size(), 1u);
  file.append(sample_step(2));
  EXPECT_EQ(Reader(path_).column("step").size(), 1u);
  file.flush();
  EXPECT_EQ(Reader(path_).column("step").size(), 2u);
}

TEST_F(RunFileTest, AppearsWithItsFirstFlush) {
  testing::write_text(path_, "of another run");
  {
    RunFile file = create();
    for (int64_t step = 1; step <= 3000; ++step) file.append(sample_step(step));
    EXPECT_EQ(read_file(path_), "of another run");
    EXPECT_EQ(testing::list_directory(scratch_.path()), (std::vector<std::string>{"run.h5"}));
  }  // given up
  EXPECT_EQ(read_file(path_), "of another run");
  create().flush();
  EXPECT_TRUE(Reader(path_).column("step").empty());
}

TEST_F(RunFileTest, ConfigurationIsTheLastOne) {
  RunFile file = create();
  file.flush();
  EXPECT_EQ(Reader(path_).text_attribute("config"), "[train]\nlr = 0.001\n");
  file.append(testing::sample_resume(1));
  file.flush();
  EXPECT_EQ(Reader(path_).text_attribute("config"), "[train]\nlr = 0.002\n");
  EXPECT_EQ(Reader(path_).text_attribute("program_version"), "0.1.0");
}

TEST_F(RunFileTest, WhatIsNotFiniteIsNaN) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  RunFile file = create();
  StepRecord step = sample_step(1);
  step.loss = kInfinity;
  step.layer_figures[0][1] = -kInfinity;
  file.append(step);
  DriftRecord drift = sample_drift(1);
  drift.cosine[2] = kInfinity;
  file.append(drift);
  file.flush();
  const Reader reader(path_);
  EXPECT_TRUE(std::isnan(reader.column("loss").at(0)));
  EXPECT_TRUE(std::isnan(reader.numbers("perturbation/grad_norm").at(1)));
  EXPECT_TRUE(std::isnan(reader.numbers("drift/cosine").at(2)));
}

TEST_F(RunFileTest, FullDiskIsAWriteErrorAndLeavesTheFileOfTheLastFlush) {
  {
    RunFile file = create();
    file.append(sample_step(1));
    file.flush();
  }
  const std::string outcome = testing::run_with_file_limit(60'000, [&] {
    RunFile file = create();
    for (int64_t step = 1; step <= 1000; ++step) file.append(sample_step(step));
    file.flush();
  });
  EXPECT_TRUE(outcome.starts_with("WriteError: ")) << outcome;
  EXPECT_NE(outcome.find("File too large"), std::string::npos) << outcome;
  EXPECT_EQ(Reader(path_).column("step"), (std::vector<double>{1}));
  EXPECT_EQ(testing::list_directory(scratch_.path()), (std::vector<std::string>{"run.h5"}));
}

TEST(Hdf5Error, NamesTheObjectThePlaceAndTheLibrarysReason) {
  const testing::ScratchDirectory scratch;
  testing::write_text(scratch / "not.h5", "this is text");
  testing::expect_data_error([&] { Reader(scratch / "not.h5"); },
                             {"not.h5", "H5Fopen", "hdf5_test_reader.h", "signature"});
}

TEST(Hdf5Error, UncreatableFileIsAnError) {
  EXPECT_THROW(RunFile("no/such/dir/run.h5", {}, {"", ""}).flush(), WriteError);
}

TEST(Hdf5Handle, MovesAndCloses) {
  const Hdf5Lock lock;
  Hdf5Space first(H5Screate(H5S_SCALAR));
  const hid_t id = first.get();
  Hdf5Space second = std::move(first);
  EXPECT_FALSE(first);
  EXPECT_EQ(second.get(), id);
  second.close("space");
  EXPECT_FALSE(second);
  EXPECT_EQ(H5Iis_valid(id), 0);
}

TEST(Hdf5Type, BF16ConvertsToFp32ByItsBits) {
  const Hdf5Lock lock;
  const Hdf5Type type = bf16_type();
  EXPECT_EQ(H5Tget_size(type.get()), 2u);
  // 1.0, -2.5, 2^127, the smallest subnormal, infinity
  uint32_t buffer[5] = {};
  const uint16_t bits[5] = {0x3f80, 0xc020, 0x7f00, 0x0001, 0x7f80};
  std::copy(bits, bits + 5, reinterpret_cast<uint16_t*>(buffer));
  VAX_HDF5(H5Tconvert(type.get(), H5T_NATIVE_FLOAT, 5, buffer, nullptr, H5P_DEFAULT), "bf16");
  for (int i = 0; i < 5; ++i) EXPECT_EQ(buffer[i], static_cast<uint32_t>(bits[i]) << 16) << i;
}

}  // namespace
}  // namespace vax::io
