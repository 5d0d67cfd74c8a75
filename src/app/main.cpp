// The program: subcommands of the methods and model families that are built in.
#include "app/catalogue.h"
#include "app/program.h"

int main(int argc, char** argv) {
  return vax::app::program_main(argc, argv, vax::app::built_in_catalogue());
}
