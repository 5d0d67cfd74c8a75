#include "vaccine/vaccine_method.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numeric>

#include "base/stopwatch.h"
#include "vaccine/figures.h"
#include "vaccine/probe_check.h"

namespace vax::vaccine {

VaccineMethod::Sums::Sums(int64_t num_layers, at::Device device)
    : all(at::zeros({num_layers + 5}, at::TensorOptions(at::kDouble).device(device))),
      layer_squares(all.narrow(0, 0, num_layers)),
      clean_loss(all[num_layers]),
      loss(all[num_layers + 1]),
      cosine(all.narrow(0, num_layers + 2, 3)) {}

VaccineMethod::VaccineMethod(const VaccineOptions& options, const train::MethodContext& context)
    : options_(options),
      num_layers_(context.model.num_layers()),
      has_probe_(context.has_probe()),
      kept_({.width = context.model.hidden_size(),
             .dtype = context.probe.compute_dtype(),
             .device = context.device}),
      one_pass_(context),
      perturbation_(options, num_layers_, kept_),
      sums_(num_layers_, context.device) {}

// Is there a probe of its own, and is it this step's turn to be checked?
bool VaccineMethod::is_checked(int64_t step) const {
  return has_probe_ && options_.probe_check_interval > 0 &&
         (step - 1) % options_.probe_check_interval == 0;
}

void VaccineMethod::find_perturbation(train::Engine& engine, const train::MicroBatches& group) {
  perturbation_.begin(group.count);
  engine.pass(group,
              {.name = "pass 1",
               .weights = has_probe_ ? train::PassWeights::kProbe : train::PassWeights::kUpdate,
               .weight_gradients = false,
               .own_masks = options_.dropout_mask == DropoutMask::kFresh,
               .backward_boundary =
                   [this](size_t i, int layer, const at::Tensor& grad_TD) {
                     perturbation_.record(i, layer, grad_TD);
                   },
               .loss_sum = sums_.clean_loss,
               .kept_bytes = perturbation_.shared_bytes(),
               .kept_bytes_per_token = perturbation_.bytes_per_token()});
  perturbation_.normalise(engine.ranks());
  sums_.layer_squares.add_(perturbation_.layer_squares());
}

void VaccineMethod::check_perturbation(train::Engine& engine, const train::MicroBatches& group) {
  ProbeCheck check(perturbation_, num_layers_, kept_);
  engine.pass(group,
              {.name = "check of the probe",
               .weight_gradients = false,
               .own_masks = options_.dropout_mask == DropoutMask::kFresh,
               .backward_boundary = [&check](size_t i, int layer, const at::Tensor& grad_TD) {
                 check.record(i, layer, grad_TD);
               }});
  check.finish(engine.ranks(), sums_.cosine);
}

void VaccineMethod::train_perturbed(train::Engine& engine, const train::MicroBatches& group) {
  engine.pass(group, {.name = "pass 2",
                      .forward_boundary =
                          [this](size_t i, int layer, const at::Tensor&, at::Tensor& h_TD) {
                            perturbation_.add_to(i, layer, h_TD);
                          },
                      .loss_sum = sums_.loss});
}

void VaccineMethod::run_passes(train::Engine& engine, bool checked) {
  sums_.all.zero_();
  pass1_s_ = 0;
  train::MicroBatches group = engine.all();
  const size_t count = group.count;
  if (options_.norm_scope == NormScope::kMicro) group.count = 1;
  for (; group.first < count; group.first += group.count) {
    const Stopwatch watch;
    find_perturbation(engine, group);
    if (kept_.device.is_cpu()) pass1_s_ += watch.elapsed_s();
    if (checked) check_perturbation(engine, group);
    train_perturbed(engine, group);
  }
}

train::StepOutcome VaccineMethod::step(train::Engine& engine) {
  if ((engine.step() - 1) % options_.interval != 0) return one_pass_.step(engine);
  const bool checked = is_checked(engine.step());
  // The one pass of the other steps is a work of its own: kind 0.
  engine.passes(checked ? 2 : 1, [this, &engine, checked] { run_passes(engine, checked); });
  return outcome_of(engine, checked);
}

train::StepOutcome VaccineMethod::outcome_of(train::Engine& engine, bool checked) {
  // The global scope has summed the squares over the ranks already.
  const std::vector<double> sums =
      engine.sum_over_ranks(sums_.all, options_.norm_scope == NormScope::kGlobal ? num_layers_ : 0);
  const double* const squares = sums.data();
  const double* const rest = squares + num_layers_;
  const auto num_labels = static_cast<double>(engine.label_tokens());
  train::StepOutcome outcome{
      .loss = rest[1] / num_labels, .clean_loss = rest[0] / num_labels, .pass1_s = pass1_s_};
  std::vector<double>& norms = outcome.layers.emplace_back();
  for (int layer = 0; layer < num_layers_; ++layer) norms.push_back(std::sqrt(squares[layer]));
  outcome.numbers = {std::sqrt(std::accumulate(squares, squares + num_layers_, 0.0)), options_.rho,
                     std::nullopt};
  if (checked) outcome.numbers.back() = rest[2] / std::sqrt(rest[3] * rest[4]);
  return outcome;
}

train::MethodEntry vaccine_entry() {
  return {.name = "vaccine",
          .default_of = kAlign | kPlan,
          .options = option_section<VaccineOptions>(),
          .declare = [](const Options& options) -> train::MethodDeclaration {
            const auto& vaccine = options.get<VaccineOptions>();
            return {.probe_dtype = vaccine.probe_dtype,
                    .probe_option = "vaccine.probe_dtype",
                    .figures = two_pass_figures(),
                    .ordinary_step = 1 + vaccine.interval,
                    .steadied_by = {"vaccine.rho"}};
          },
          .make =
              [](const Options& options, const train::MethodContext& context) {
                return std::make_unique<VaccineMethod>(options.get<VaccineOptions>(), context);
              }};
}

}  // namespace vax::vaccine
