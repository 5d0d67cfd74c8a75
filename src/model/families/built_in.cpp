#include "model/families/built_in.h"

#include "model/families/llama.h"

namespace vax::model {

Families built_in_families() {
  Families families;
  families.add(llama_family());
  return families;
}

}  // namespace vax::model
