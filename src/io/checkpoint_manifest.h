// What a checkpoint directory holds, as plain data, and its text form manifest.json.
//
//   step-000120/manifest.json           this, JSON
//               manifest.json.sha256    its hash, as sha256sum writes it
//               index.h5                every parameter and moment whole, by name (virtual
//                                       datasets)
//               rank-00000.h5 ...       the data, one file per rank that has any
//
// A unit (a block, the embedding, the head) is a flat buffer in which its parameters lie at fixed
// offsets; it is cut into slices of equal length over the ranks of a shard group
// (base/flat_layout.h and dist/shard/sharding_plan.h). A slice is one contiguous dataset of one
// file. The manifest says where its bytes are, so that reading needs no HDF5 library: nothing of a
// file is interpreted before its size and hash are verified. Counts and offsets within units are in
// elements, those within files in bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "io/dtype.h"
#include "io/run_records.h"

namespace vax::io {

// A parameter within its unit.
struct CheckpointMember {
  std::string name;  // as in Hugging Face or PEFT files
  std::vector<int64_t> shape;
  int64_t offset = 0;
};

// Where one slice's elements lie.
struct CheckpointSlice {
  int64_t file = 0;          // index into CheckpointManifest::files
  int64_t offset_bytes = 0;  // within that file
};

inline constexpr std::string_view kParameters = "parameters";
inline constexpr std::string_view kExpAvg = "optimizer/exp_avg";
inline constexpr std::string_view kExpAvgSq = "optimizer/exp_avg_sq";

// Of a training method's vector that is shaped like the trainable parameters. REQUIRES a name of
// small letters, digits and underscores.
std::string method_kind(std::string_view name);
bool is_method_kind(std::string_view kind);

// One quantity of all parameters of a unit.
struct CheckpointArray {
  std::string kind;           // kParameters | kExpAvg | kExpAvgSq | a method's
  DType dtype = DType::kF32;  // kF32 | kBF16
  // Slice i has the elements [i * slice_count, min((i + 1) * slice_count, count)) of the unit.
  std::vector<CheckpointSlice> slices;
};

struct CheckpointUnit {
  std::string plane;  // "trainable" | "frozen"
  std::string name;   // unique within its plane
  int64_t count = 0;
  int64_t slice_count = 0;
  std::vector<CheckpointMember> members;  // ascending, not overlapping
  std::vector<CheckpointArray> arrays;
};

struct CheckpointFile {
  std::string name;  // plain file name within the directory
  int64_t num_bytes = 0;
  std::string sha256;
};

// Where in its data, schedule and random streams a run stands. With counter-based random numbers
// and an order of rows that is a function of (seed, epoch) these few numbers are the whole state.
struct CheckpointPosition {
  int64_t step = 0;             // steps done = updates of the optimizer
  int64_t num_steps = 0;        // of the learning-rate schedule
  int64_t steps_per_epoch = 1;  // the next step is number step % steps_per_epoch of its epoch
  uint64_t seed = 0;            // of order, dropout and initial adapter
};

struct CheckpointManifest {
  static constexpr int64_t kSchemaVersion = 1;

  std::string program_version;
  std::string config;  // resolved, text of config.cfg
  std::vector<DataFileRecord> data;
  int64_t world_size = 1;
  CheckpointPosition position;
  // Numbers that the training method carries from step to step, by name; most carry none.
  std::map<std::string, std::vector<double>> method_state;
  std::vector<CheckpointUnit> units;
  std::vector<CheckpointFile> files;  // all but the manifest itself and its hash

  int64_t num_bytes() const;  // of the files
};

// The dataset of a slice within its file: "/trainable/optimizer/exp_avg/model.layers.3".
std::string slice_dataset(const CheckpointUnit& unit, const CheckpointArray& array);

// JSON, keys in a fixed order.
std::string manifest_text(const CheckpointManifest& manifest);

// Treats `text` as hostile: every number is checked against every other (slices tile their unit,
// members lie within it without overlap and agree with their shapes, byte ranges within their files
// without overlap, names unique and plain, schema version known), so that a manifest which is
// returned can be used without further checks. Memory and time stay linear in the text. THROWS
// DataError naming `where`, the member, expected and found.
CheckpointManifest parse_manifest(std::string_view text, const std::string& where);

}  // namespace vax::io
