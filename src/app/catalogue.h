// What a program is composed of beside its own parts: the training methods that it knows, with the
// options that they bring, and the model families. A value that main() makes and hands to
// run_program(); a program of one's own may add to it.
#pragma once

#include "app/option_table.h"
#include "model/family.h"
#include "train/method.h"

namespace vax::app {

struct Catalogue {
  train::Methods methods;
  model::Families families;
};

Catalogue built_in_catalogue();

// The program's own sections and those of the catalogue's methods.
OptionTable make_option_table(const Catalogue& catalogue);

}  // namespace vax::app
