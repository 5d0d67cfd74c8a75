// The program with a training method and a model family of its own, which src/ does not know.
#include "app/catalogue.h"
#include "app/program.h"
#include "support/toy_family.h"
#include "support/toy_method.h"

int main(int argc, char** argv) {
  vax::app::Catalogue catalogue = vax::app::built_in_catalogue();
  catalogue.methods.add(vax::testing::toy_entry());
  catalogue.families = {};
  catalogue.families.add(vax::testing::toy_family());
  return vax::app::program_main(argc, argv, catalogue);
}
