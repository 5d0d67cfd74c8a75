// Writes what a run has trained: a PEFT adapter or a whole Hugging Face directory. COLLECTIVE over
// the shard group: weights are gathered unit by unit on every rank, rank 0 of the world writes.
// Directories appear complete or not at all. THROWS WriteError (path, bytes needed) on rank 0.
#pragma once

#include <filesystem>
#include <string>

#include "train/model_state.h"

namespace vax::train {

void save_adapter(ModelState& state, const std::filesystem::path& directory,
                  const std::string& base_model, double dropout, bool is_writer);

// Tokenizer and generation files are copied from `source_directory`; weights are written in the
// compute type.
void save_model(ModelState& state, const std::filesystem::path& directory,
                const std::filesystem::path& source_directory, bool is_writer);

// Text of the source's config.json with the type of the weights that will stand beside it. THROWS
// DataError.
std::string config_json_for(const std::filesystem::path& source_directory, bool bf16);

}  // namespace vax::train
