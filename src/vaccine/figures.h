// The figures of a two-pass step. Methods of one pass declare them too, so that the files of all
// runs have the same columns: there they are empty, and rho is 0.
#pragma once

#include "io/figures.h"

namespace vax::vaccine {

io::Figures two_pass_figures();

}  // namespace vax::vaccine
