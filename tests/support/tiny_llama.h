// A Llama of a few thousand parameters for tests: its configuration, weights that are a function of
// seed and parameter name, model and adapter directories on disk, samples, and the groups that
// stand in for a parallel run. No two widths of the model are equal, so that swapped dimensions
// show; queries share keys; there are biases, which are not decayed.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/flat_layout.h"
#include "data/dataset.h"
#include "dist/comm/collectives.h"
#include "dist/comm/communicator.h"
#include "model/lora.h"
#include "model/spec.h"
#include "train/mesh.h"
#include "unit/io/io_test_support.h"

namespace vax::testing {

using NamedTensors = std::map<std::string, at::Tensor>;  // by checkpoint name, fp32

// 3 layers; D 20, 4 query heads and 2 key heads of 6, F 28, V 37.
model::Spec tiny_config(bool tied = false);
// Four of the seven linear layers, r 3, alpha 4: a scale that is no power of two.
model::LoraSpec tiny_lora();

// Weights of norms 1 + 0.1 N(0, 1), everything else 0.2 N(0, 1).
NamedTensors tiny_tensors(const FlatLayout& layout, uint64_t seed);

// A model directory of any family.
void write_model(const std::filesystem::path& directory, const std::string& config_json,
                 const NamedTensors& tensors);
// A tiny Llama with these tensors, or with those of base_layout(config).
void write_tiny_model(const std::filesystem::path& directory, const model::Spec& config,
                      const NamedTensors& tensors);
void write_tiny_model(const std::filesystem::path& directory, const model::Spec& config,
                      uint64_t seed);
// Of a model directory, as the program reads it.
model::Spec read_tiny_spec(const std::filesystem::path& directory);
// A PEFT directory with these factors, or with those of lora_layout(config, spec).
void write_tiny_adapter(const std::filesystem::path& directory, const model::LoraSpec& spec,
                        const NamedTensors& tensors);
void write_tiny_adapter(const std::filesystem::path& directory, const model::Spec& config,
                        const model::LoraSpec& spec, uint64_t seed);

// Rows of 3 to 9 ids; one of them has no label.
data::Dataset tiny_dataset(const model::Spec& config, int64_t num_rows);

// Every group of a run on one rank, without MPI.
train::Mesh make_self_mesh();

// A place in a group whose other ranks do not exist, for what only cuts and never communicates:
// every operation THROWS std::logic_error.
struct LonelyRank : dist::Collectives {
  LonelyRank(int rank, int size);
};

// A scratch directory that all ranks of an MPI test read. Rank 0 makes it, runs `fill` on it, and
// removes it at the end: hold it for the whole suite, since only the agreement at the end of a test
// (mpi_main.cpp) says that no rank reads any more. COLLECTIVE over `world`.
class SharedDirectory {
 public:
  SharedDirectory(const dist::Communicator& world,
                  const std::function<void(const std::filesystem::path&)>& fill);
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::optional<io::testing::ScratchDirectory> owned_;  // rank 0
  std::filesystem::path path_;
};

}  // namespace vax::testing
