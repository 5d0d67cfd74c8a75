// A checkpoint's manifest is refused with a DataError, or its byte ranges lie within its files and
// it is written as text that says the same.
#include <string_view>

#include "base/error.h"
#include "io/checkpoint_manifest.h"
#include "memory_file.h"

namespace {

using vax::fuzz::require;
using vax::io::CheckpointArray;
using vax::io::CheckpointFile;
using vax::io::CheckpointManifest;
using vax::io::CheckpointMember;
using vax::io::CheckpointSlice;
using vax::io::CheckpointUnit;

void check(const CheckpointManifest& manifest) {
  for (const CheckpointUnit& unit : manifest.units) {
    for (const CheckpointMember& member : unit.members) {
      require(member.offset >= 0 && member.offset <= unit.count);
      for (const int64_t dim : member.shape) require(dim >= 0);
    }
    for (const CheckpointArray& array : unit.arrays)
      for (const CheckpointSlice& slice : array.slices) {
        require(slice.file >= 0 && slice.file < static_cast<int64_t>(manifest.files.size()));
        const CheckpointFile& file = manifest.files[static_cast<size_t>(slice.file)];
        require(slice.offset_bytes >= 0 && slice.offset_bytes <= file.num_bytes);
      }
  }
  for (const CheckpointFile& file : manifest.files)
    require(!file.name.empty() && file.name.find('/') == std::string::npos);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const CheckpointManifest manifest = vax::io::parse_manifest(text, "manifest.json");
    check(manifest);
    const std::string again = vax::io::manifest_text(manifest);
    require(vax::io::manifest_text(vax::io::parse_manifest(again, "manifest.json")) == again);
  } catch (const vax::DataError&) {
  }
  return 0;
}
