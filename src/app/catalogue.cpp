#include "app/catalogue.h"

#include "app/plan_options.h"
#include "app/runtime_options.h"
#include "data/data_options.h"
#include "eval/eval_options.h"
#include "model/families/built_in.h"
#include "model/init_options.h"
#include "train/checkpoint_options.h"
#include "train/model_options.h"
#include "train/output_options.h"
#include "train/shard_options.h"
#include "train/train_options.h"
#include "vaccine/drift_options.h"
#include "vaccine/sft_method.h"
#include "vaccine/vaccine_method.h"

namespace vax::app {

Catalogue built_in_catalogue() {
  Catalogue catalogue;
  catalogue.methods.add(vaccine::sft_entry());
  catalogue.methods.add(vaccine::vaccine_entry());
  catalogue.families = model::built_in_families();
  return catalogue;
}

OptionTable make_option_table(const Catalogue& catalogue) {
  std::vector<OptionSection> sections = {
      option_section<ModelOptions>(), option_section<AdapterOptions>(),
      option_section<DataOptions>(), option_section<TrainOptions>()};
  for (const train::MethodEntry& method : catalogue.methods.entries())
    if (method.options) sections.push_back(*method.options);
  for (OptionSection& section :
       std::vector{option_section<ShardOptions>(), option_section<DriftOptions>(),
                   option_section<EvalOptions>(), option_section<PlanOptions>(),
                   option_section<CheckpointOptions>(), option_section<OutputOptions>(),
                   option_section<RuntimeOptions>(), option_section<InitOptions>()})
    sections.push_back(std::move(section));

  OptionTable table(sections);
  std::vector<std::string> names;
  for (const train::MethodEntry& method : catalogue.methods.entries()) {
    names.push_back(method.name);
    table.set_default("train.method", method.default_of, method.name);
  }
  table.set_choices("train.method", names);
  return table;
}

}  // namespace vax::app
