// The families that the program brings.
#pragma once

#include "model/family.h"

namespace vax::model {

Families built_in_families();

}  // namespace vax::model
