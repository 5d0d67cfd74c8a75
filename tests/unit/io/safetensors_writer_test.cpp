// The writer: what it writes the reader accepts, and a failure leaves nothing behind.
#include "io/safetensors_writer.h"

#include <cstring>

#include "base/atomic_file.h"
#include "io/safetensors.h"
#include "io_test_support.h"

namespace vax::io {
namespace {

using testing::list_directory;
using testing::ScratchDirectory;

const std::vector<float> kNumbers = {1.0f, -2.5f, 3e-40f, 4.0f, 5.0f, 6.0f};

TensorToWrite numbers(const std::string& name) {
  return tensor_in_memory(name, DType::kF32, {2, 3}, kNumbers.data());
}

TEST(SafetensorsWriter, RoundTrip) {
  const ScratchDirectory scratch;
  const std::vector<uint16_t> halves = {1, 2, 3};
  const std::vector<TensorToWrite> tensors = {
      tensor_in_memory("odd", DType::kBF16, {3}, halves.data()), numbers("x.weight"),
      tensor_in_memory("empty", DType::kF32, {0, 4}, nullptr)};
  write_safetensors(scratch / "m.safetensors", tensors, {{"format", "pt"}, {"note", "\"quoted\""}});

  const SafetensorsFile file = SafetensorsFile::open(scratch / "m.safetensors");
  EXPECT_EQ(file.metadata().at("note"), "\"quoted\"");
  std::vector<float> values(6);
  file.read_elements(*file.find("x.weight"), 0, 6, values.data(), TargetType::kFloat32);
  EXPECT_EQ(std::memcmp(values.data(), kNumbers.data(), 24), 0);
  std::vector<uint16_t> read_halves(3);
  file.read_elements(*file.find("odd"), 0, 3, read_halves.data(), TargetType::kBFloat16);
  EXPECT_EQ(read_halves, halves);
  EXPECT_EQ(file.find("empty")->shape, (std::vector<int64_t>{0, 4}));
  EXPECT_EQ(list_directory(scratch.path()), (std::vector<std::string>{"m.safetensors"}));
}

TEST(SafetensorsWriter, DataAndTensorsAreAligned) {
  const ScratchDirectory scratch;
  const std::vector<uint16_t> halves(3);
  const double wide = 1;
  // A name of each length moves the end of the unpadded header through all residues.
  for (size_t length = 1; length <= 8; ++length) {
    const std::vector<TensorToWrite> tensors = {
        tensor_in_memory(std::string(length, 'h'), DType::kBF16, {3}, halves.data()), numbers("x"),
        tensor_in_memory("wide", DType::kF64, {}, &wide)};
    write_safetensors(scratch / "m.safetensors", tensors);
    const SafetensorsFile file = SafetensorsFile::open(scratch / "m.safetensors");
    EXPECT_EQ(file.tensors().front().begin % 8, 0);
    for (const TensorInfo& info : file.tensors())
      EXPECT_EQ(info.begin % dtype_size(info.dtype), 0) << info.name;
  }
}

TEST(SafetensorsWriter, OrderIsGivenOneUnlessTypesDiffer) {
  const std::vector<TensorToWrite> same = {numbers("z"), numbers("a"), numbers("m")};
  EXPECT_EQ(safetensors_order(same), (std::vector<size_t>{0, 1, 2}));
  const uint16_t half = 0;
  const std::vector<TensorToWrite> mixed = {
      numbers("a"), tensor_in_memory("h", DType::kF16, {1}, &half), numbers("b")};
  EXPECT_EQ(safetensors_order(mixed), (std::vector<size_t>{0, 2, 1}));
}

TEST(SafetensorsWriter, SourcesStreamInPieces) {
  const ScratchDirectory scratch;
  TensorToWrite tensor{"s", DType::kF32, {2, 3}, {}};
  tensor.source = [](const ByteSink& sink) {
    for (const float& number : kNumbers) sink(std::as_bytes(std::span(&number, 1)));
  };
  write_safetensors(scratch / "m.safetensors", {{tensor}});
  const SafetensorsFile file = SafetensorsFile::open(scratch / "m.safetensors");
  std::vector<float> values(6);
  file.read_elements(*file.find("s"), 0, 6, values.data(), TargetType::kFloat32);
  EXPECT_EQ(values, kNumbers);
}

TEST(SafetensorsWriter, FailingSourceKeepsTheOldFile) {
  const ScratchDirectory scratch;
  testing::write_text(scratch / "m.safetensors", "old");
  const auto attempt = [&](std::function<void(const ByteSink&)> source) {
    write_safetensors(scratch / "m.safetensors",
                      {{TensorToWrite{"t", DType::kF32, {2, 3}, std::move(source)}}});
  };
  const auto all = std::as_bytes(std::span(kNumbers));
  EXPECT_THROW(attempt([](const ByteSink&) { throw CommError("rank 1 died"); }), CommError);
  EXPECT_THROW(attempt([&](const ByteSink& sink) { sink(all.first(20)); }), std::logic_error);
  EXPECT_THROW(attempt([&](const ByteSink& sink) {
                 sink(all);
                 sink(all.first(1));
               }),
               std::logic_error);
  EXPECT_EQ(read_file(scratch / "m.safetensors"), "old");
  EXPECT_EQ(list_directory(scratch.path()).size(), 1u);
}

TEST(SafetensorsWriter, NamesMustBeDistinctAndLegal) {
  const ScratchDirectory scratch;
  EXPECT_THROW(write_safetensors(scratch / "m", {{numbers("a"), numbers("b"), numbers("a")}}),
               std::logic_error);
  EXPECT_THROW(write_safetensors(scratch / "m", {{numbers("__metadata__")}}), std::logic_error);
  EXPECT_TRUE(list_directory(scratch.path()).empty());
}

TEST(SafetensorsWriter, FullDiskNamesPathAndBytesAndLeavesNothing) {
  const ScratchDirectory scratch;
  const std::vector<std::byte> zeros(1 << 20);
  const TensorToWrite tensor = tensor_in_memory("big", DType::kU8, {1 << 20}, zeros.data());
  const std::string outcome = testing::run_with_file_limit(
      100'000, [&] { write_safetensors(scratch / "m.safetensors", {{tensor}}); });
  EXPECT_TRUE(outcome.starts_with("WriteError: ")) << outcome;
  EXPECT_NE(outcome.find("m.safetensors"), std::string::npos) << outcome;
  EXPECT_EQ(outcome.find(".tmp"), std::string::npos) << outcome;  // the name the user knows
  // 1 MiB and a header of some 100 bytes.
  EXPECT_NE(outcome.find("cannot write 1048"), std::string::npos) << outcome;
  EXPECT_TRUE(list_directory(scratch.path()).empty());
}

}  // namespace
}  // namespace vax::io
