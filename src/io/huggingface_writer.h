// Writes a Hugging Face model directory that transformers loads: config.json, safetensors (sharded
// above a size, with an index), and the tokenizer's files copied from another directory. The
// directory appears under its name only when it is complete.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "io/safetensors_writer.h"

namespace vax::io {

struct HuggingFaceContents {
  std::string config_json;  // text of config.json
  // Sources are called shard by shard, within a shard in safetensors_order(): the order given, as
  // long as all have one dtype.
  std::span<const TensorToWrite> tensors;
  // Largest data size of a shard; a larger tensor has a shard of its own.
  int64_t max_shard_bytes = int64_t{5'000'000'000};
  // Directory whose tokenizer and generation files are copied, those that are there; empty: none.
  std::filesystem::path tokenizer_dir;
  // Files written besides: name -> text. They win over copies of the same name.
  std::map<std::string, std::string> extra_files;
};

// An existing directory at `path` is replaced, but for files that this writer does not know. THROWS
// WriteError with the path and the bytes needed, DataError when config_json is no JSON object;
// nothing is left behind then, and an existing directory stays as it was.
void write_huggingface_directory(const std::filesystem::path& path,
                                 const HuggingFaceContents& contents);

}  // namespace vax::io
