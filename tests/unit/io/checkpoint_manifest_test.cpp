// The manifest as text: round trip, every rule of parse_manifest() by a text that breaks it, and
// random mutations.
#include "io/checkpoint_manifest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "base/error.h"
#include "io_test_support.h"
#include "sample_checkpoint.h"

namespace vax::io {
namespace {

using nlohmann::json;
using testing::expect_data_error;

// Three ranks' files of 4096 bytes, slices back to back from byte 512 on.
CheckpointManifest valid_manifest() {
  CheckpointManifest manifest = testing::sample_manifest();
  manifest.world_size = 3;
  for (int rank = 0; rank < 3; ++rank)
    manifest.files.push_back(
        {cat("rank-0000", rank, ".h5"), 4096, std::string(64, static_cast<char>('0' + rank))});
  int64_t offset = 512;
  for (CheckpointUnit& unit : manifest.units) {
    unit.slice_count = (unit.count + 2) / 3;
    for (CheckpointArray& array : unit.arrays) {
      for (int64_t rank = 0; rank < 3; ++rank) array.slices.push_back({rank, offset});
      offset += unit.slice_count * dtype_size(array.dtype);
    }
  }
  return manifest;
}

// The text of a valid manifest after `edit`, which must be refused.
void expect_refused(const std::function<void(json&)>& edit, const std::vector<std::string>& parts) {
  json value = json::parse(manifest_text(valid_manifest()));
  edit(value);
  const std::string text = value.dump();
  expect_data_error([&] { parse_manifest(text, "dir/manifest.json"); }, parts);
}

TEST(CheckpointManifest, RoundTrip) {
  const CheckpointManifest manifest = valid_manifest();
  const std::string text = manifest_text(manifest);
  const CheckpointManifest read = parse_manifest(text, "m");
  EXPECT_EQ(manifest_text(read), text);
  EXPECT_EQ(read.config, manifest.config);
  EXPECT_EQ(read.program_version, "0.1.0");
  EXPECT_EQ(read.world_size, 3);
  EXPECT_EQ(read.position.step, 120);
  EXPECT_EQ(read.position.num_steps, 500);
  EXPECT_EQ(read.position.steps_per_epoch, 7);
  EXPECT_EQ(read.position.seed, 18446744073709551615U);
  EXPECT_EQ(read.data.at(0).path, "data/a b.json");
  EXPECT_EQ(read.data.at(0).rows, 7);
  EXPECT_EQ(read.num_bytes(), 3 * 4096);
  const CheckpointUnit& unit = read.units.at(0);
  EXPECT_EQ(unit.plane, "trainable");
  EXPECT_EQ(unit.slice_count, 24);
  EXPECT_EQ(unit.members.at(2).shape, (std::vector<int64_t>{2, 3, 4}));
  EXPECT_EQ(unit.arrays.at(2).dtype, DType::kBF16);
  EXPECT_EQ(unit.arrays.at(1).slices.at(2).file, 2);
  EXPECT_EQ(unit.arrays.at(1).slices.at(2).offset_bytes, 512 + 24 * 4);
  EXPECT_EQ(slice_dataset(unit, unit.arrays[1]), "/trainable/optimizer/exp_avg/model.layers.0");
}

TEST(CheckpointManifest, OneLineForEachItem) {
  const std::string text = manifest_text(valid_manifest());
  EXPECT_NE(text.find("\n{\"name\":\"rank-00001.h5\",\"bytes\":4096,"), std::string::npos) << text;
  EXPECT_NE(text.find("\n{\"kind\":\"parameters\",\"dtype\":\"F32\",\"slices\":[[0,512],[1,512],"),
            std::string::npos)
      << text;
  EXPECT_TRUE(text.ends_with("\n}\n"));
}

TEST(CheckpointManifest, BytesThatAreNoTextAreReplaced) {
  CheckpointManifest manifest = valid_manifest();
  manifest.config = "dir = a\xff";
  EXPECT_EQ(parse_manifest(manifest_text(manifest), "m").config, "dir = a\xef\xbf\xbd");
}

TEST(CheckpointManifest, UnitsWithoutElements) {
  CheckpointManifest manifest = valid_manifest();
  manifest.units.push_back({"trainable", "norm", 0, 0, {}, {}});
  EXPECT_EQ(parse_manifest(manifest_text(manifest), "m").units.back().count, 0);
}

TEST(CheckpointManifest, AnotherSchemaIsNamed) {
  expect_refused([](json& m) { m["schema_version"] = 2; },
                 {"dir/manifest.json: schema_version", "expected 1, found 2"});
  expect_refused([](json& m) { m.erase("schema_version"); }, {"schema_version: missing"});
}

TEST(CheckpointManifest, TypesAndRanges) {
  expect_data_error([] { parse_manifest("[]", "m"); }, {"m: expected an object, found []"});
  expect_refused([](json& m) { m["units"] = 7; }, {"units: expected a list, found 7"});
  expect_refused([](json& m) { m["units"][0] = "x"; }, {"units[0]: expected an object"});
  expect_refused([](json& m) { m["config"] = 1; }, {"config: expected a text"});
  expect_refused([](json& m) { m["world_size"] = 0; }, {"world_size", "found 0"});
  expect_refused([](json& m) { m["world_size"] = 1.5; }, {"world_size", "found 1.5"});
  expect_refused([](json& m) { m["position"]["step"] = 501; }, {"position", "step", "0 to 500"});
  expect_refused([](json& m) { m["position"]["step"] = -1; }, {"step", "found -1"});
  expect_refused([](json& m) { m["position"]["steps_per_epoch"] = 0; }, {"steps_per_epoch"});
  expect_refused([](json& m) { m["position"]["seed"] = -1; }, {"seed", "found -1"});
  expect_refused([](json& m) { m["position"]["num_steps"] = 9223372036854775808U; },
                 {"num_steps", "found 9223372036854775808"});
  expect_refused([](json& m) { m["data"][0]["rows"] = -1; }, {"data[0]", "rows"});
  expect_refused([](json& m) { m["data"][0]["sha256"] = "xyz"; }, {"data[0]", "sha256"});
}

TEST(CheckpointManifest, Files) {
  for (const std::string name : {"", ".", "..", "a/b", "/etc/passwd", "../x", ".hidden",
                                 "manifest.json", "manifest.json.sha256", "a\nb"})
    expect_refused([&](json& m) { m["files"][1]["name"] = name; }, {"files[1]", "name"});
  expect_refused([](json& m) { m["files"][1]["name"] = std::string(256, 'a'); }, {"255"});
  expect_refused([](json& m) { m["files"][1]["name"] = "rank-00000.h5"; }, {"twice"});
  expect_refused([](json& m) { m["files"][1]["sha256"] = std::string(64, 'A'); }, {"sha256"});
  expect_refused([](json& m) { m["files"][1]["bytes"] = -1; }, {"files[1]: bytes", "found -1"});
  // The sum of the sizes must not overflow.
  expect_refused([](json& m) { m["files"][2]["bytes"] = INT64_MAX - 8191; }, {"files[2]", "bytes"});
  expect_refused([](json& m) { m["files"] = json::array(); }, {"slices: file"});
}

TEST(CheckpointManifest, Units) {
  expect_refused([](json& m) { m["units"][0]["plane"] = "other"; }, {"units[0]", "plane"});
  expect_refused([](json& m) { m["units"][1]["name"] = "model.layers.0"; }, {"units[1]", "twice"});
  expect_refused([](json& m) { m["units"][0]["name"] = "a/b"; }, {"units[0]", "plain name"});
  expect_refused([](json& m) { m["units"][0]["slice_count"] = 0; }, {"slice_count", "found 0"});
  expect_refused([](json& m) { m["units"][0]["count"] = 0; }, {"shape", "at most 0", "[6,5]"});
  expect_refused([](json& m) { m["units"][0]["count"] = INT64_MAX; }, {"slices"});
}

TEST(CheckpointManifest, Members) {
  const auto member = [](json& m, int i) -> json& { return m["units"][0]["members"][i]; };
  expect_refused([&](json& m) { member(m, 1)["offset"] = 29; },
                 {"units[0].members[1]: offset: expected an integer from 30 to 72, found 29"});
  expect_refused([&](json& m) { member(m, 2)["offset"] = 49; }, {"members[2]", "at most 23"});
  expect_refused([&](json& m) { member(m, 2)["offset"] = -1; }, {"members[2]", "offset"});
  expect_refused([&](json& m) { member(m, 0)["shape"] = {7, 5}; }, {"members[1]: offset"});
  expect_refused([&](json& m) { member(m, 2)["shape"] = {3037000500, 3037000500}; }, {"shape"});
  expect_refused([&](json& m) { member(m, 2)["shape"] = {INT64_MAX, 2}; }, {"shape"});
  expect_refused([&](json& m) { member(m, 2)["shape"] = {4, 0}; }, {"shape", "found 0"});
  expect_refused([&](json& m) { member(m, 2)["shape"] = json::array(); }, {"1 to 8 dimensions"});
  expect_refused([&](json& m) { member(m, 2)["shape"] = {1, 1, 1, 1, 1, 1, 1, 1, 1}; },
                 {"found 9"});
  expect_refused([&](json& m) { member(m, 2)["name"] = "lm_head.weight"; }, {"units[1]", "twice"});
  expect_refused([&](json& m) { member(m, 2)["name"] = std::string("a\0b", 3); }, {"plain name"});
}

TEST(CheckpointManifest, Arrays) {
  const auto array = [](json& m, int i) -> json& { return m["units"][0]["arrays"][i]; };
  expect_refused([&](json& m) { array(m, 1)["kind"] = "gradients"; }, {"arrays[1]", "gradients"});
  expect_refused([&](json& m) { array(m, 1)["kind"] = "parameters"; }, {"parameters twice"});
  expect_refused([&](json& m) { array(m, 1)["dtype"] = "F16"; }, {"F32 or BF16", "F16"});
  expect_refused([&](json& m) { array(m, 1)["slices"].erase(2); },
                 {"3 slices of 24 elements for 72, found 2"});
  expect_refused([&](json& m) { array(m, 1)["slices"].push_back({0, 0}); }, {"found 4"});
  expect_refused([&](json& m) { array(m, 1)["slices"][1] = 5; }, {"[file, offset in bytes]"});
  expect_refused([&](json& m) { array(m, 1)["slices"][1][0] = 3; }, {"slices: file", "found 3"});
  expect_refused([&](json& m) { array(m, 1)["slices"][1][0] = 0; }, {"0 twice"});
  expect_refused([&](json& m) { array(m, 1)["slices"][1][1] = 4001; }, {"0 to 4000, found 4001"});
  expect_refused([&](json& m) { array(m, 1)["slices"][1][1] = -1; }, {"offset", "found -1"});
  expect_refused([&](json& m) { array(m, 1)["slices"][1][1] = 512; },
                 {"rank-00001.h5 overlap", "after byte 608, found 512"});
  expect_refused([](json& m) { m["files"][1]["bytes"] = 40; }, {"at least 24 * 4 bytes, found 40"});
}

// What a reader relies on without asking again.
void check_invariants(const CheckpointManifest& manifest) {
  std::vector<std::array<int64_t, 3>> ranges;
  for (const CheckpointUnit& unit : manifest.units) {
    int64_t end = 0;
    for (const CheckpointMember& member : unit.members) {
      ASSERT_GE(member.offset, end);
      int64_t count = 1;
      for (const int64_t extent : member.shape) {
        ASSERT_GE(extent, 1);
        ASSERT_LE(extent, unit.count / count);
        count *= extent;
      }
      end = member.offset + count;
    }
    ASSERT_LE(end, unit.count);
    for (const CheckpointArray& array : unit.arrays) {
      int64_t left = unit.count;
      for (const CheckpointSlice& slice : array.slices) {
        ASSERT_GT(left, 0);
        const int64_t bytes = std::min(left, unit.slice_count) * dtype_size(array.dtype);
        left -= std::min(left, unit.slice_count);
        ASSERT_GE(slice.file, 0);
        ASSERT_LT(slice.file, static_cast<int64_t>(manifest.files.size()));
        ASSERT_GE(slice.offset_bytes, 0);
        ASSERT_LE(slice.offset_bytes + bytes, manifest.files.at(slice.file).num_bytes);
        ranges.push_back({slice.file, slice.offset_bytes, slice.offset_bytes + bytes});
      }
      ASSERT_EQ(left, 0);
    }
  }
  std::ranges::sort(ranges);
  for (size_t i = 1; i < ranges.size(); ++i)
    ASSERT_TRUE(ranges[i][0] != ranges[i - 1][0] || ranges[i][1] >= ranges[i - 1][2]);
  for (const CheckpointFile& file : manifest.files)
    ASSERT_EQ(file.name.find('/'), std::string::npos);
}

// A digit, a deletion, a copy or a byte: digits and copies often leave a text that parses.
std::string mutated(std::string text, std::mt19937& random) {
  const auto below = [&](size_t n) {
    return std::uniform_int_distribution<size_t>(0, n - 1)(random);
  };
  const size_t at = below(text.size());
  const size_t n = std::min(text.size() - at, 1 + below(12));
  switch (below(5)) {
    case 0: {
      const size_t digit = text.find_first_of("0123456789", at);
      if (digit != std::string::npos) text[digit] = static_cast<char>('0' + below(10));
      break;
    }
    case 1: {
      const size_t digit = text.find_first_of("0123456789", at);
      if (digit != std::string::npos) text.insert(digit, std::to_string(1 + below(1000000)));
      break;
    }
    case 2:
      text.erase(at, n);
      break;
    case 3:
      text.insert(below(text.size()), text.substr(at, n));
      break;
    default:
      text[at] = static_cast<char>(below(256));
  }
  return text;
}

TEST(CheckpointManifest, RandomMutationsAreRefusedOrConsistent) {
  const std::string text = manifest_text(valid_manifest());
  std::mt19937 random(7);
  int accepted = 0, refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string changed = mutated(text, random);
    for (size_t more = random() % 3; more > 0 && !changed.empty(); --more)
      changed = mutated(changed, random);
    try {
      check_invariants(parse_manifest(changed, "m"));
      ASSERT_FALSE(::testing::Test::HasFatalFailure()) << changed;
      ++accepted;
    } catch (const DataError&) {
      ++refused;
    }
  }
  // Both happen often: the mutations are neither all noise nor all harmless.
  EXPECT_GT(accepted, 500);
  EXPECT_GT(refused, 5000);
}

TEST(CheckpointManifest, TimeIsLinearInTheText) {
  CheckpointManifest manifest = valid_manifest();
  manifest.files.clear();
  constexpr int64_t kRanks = 1000;
  for (int64_t rank = 0; rank < kRanks; ++rank)
    manifest.files.push_back({cat("r", rank), 1 << 20, std::string(64, '0')});
  CheckpointUnit unit = manifest.units[0];
  manifest.units.clear();
  for (int64_t layer = 0; layer < 100; ++layer) {
    unit.name = cat("layer", layer);
    unit.members = {{unit.name + ".weight", {kRanks}, 0}};
    unit.count = kRanks;
    unit.slice_count = 1;
    for (size_t k = 0; k < unit.arrays.size(); ++k) {
      unit.arrays[k].slices.clear();
      for (int64_t rank = 0; rank < kRanks; ++rank)
        unit.arrays[k].slices.push_back({rank, 12 * layer + 4 * static_cast<int64_t>(k)});
    }
    manifest.units.push_back(unit);
  }
  const std::string text = manifest_text(manifest);
  EXPECT_EQ(manifest_text(parse_manifest(text, "m")), text);  // 300,000 slices
}

}  // namespace
}  // namespace vax::io
