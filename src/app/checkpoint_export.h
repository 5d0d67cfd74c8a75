// The trained weights of a checkpoint in the form that other programs load.
#pragma once

#include "app/option_table.h"
#include "io/checkpoint_reader.h"

namespace vax::app {

// To output.dir: the PEFT adapter of a LoRA run, or the Hugging Face directory, in model.dtype, of
// a run that has trained every weight; configuration and tokenizer files are model.path's. REQUIRES
// a verified checkpoint. THROWS DataError, WriteError.
void export_checkpoint(const OptionTable& table, const io::CheckpointReader& checkpoint,
                       const Options& options);

}  // namespace vax::app
