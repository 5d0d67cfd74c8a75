#include "vaccine/vaccine_method.h"

#include <ATen/ATen.h>

#include <cmath>

#include "base/stopwatch.h"
#include "ops/device/transfer.h"

namespace vax::vaccine {
namespace {

bool is_two_pass(const VaccineOptions& options, int64_t step) {
  return (step - 1) % options.interval == 0;
}

// Is there a probe of its own, and is it this step's turn to be checked?
bool is_checked(const VaccineOptions& options, const model::Model* probe, int64_t step) {
  return probe != nullptr && options.probe_check_interval > 0 &&
         (step - 1) % options.probe_check_interval == 0;
}

// Micro-batches that share one S.
size_t group_size(const VaccineOptions& options, size_t num_micro_batches) {
  return options.norm_scope == NormScope::kMicro ? 1 : num_micro_batches;
}

bool recomputes_probe(const TrainOptions& train) { return train.recompute == Recompute::kAll; }

}  // namespace

train::MethodPlan vaccine_plan(const VaccineOptions& options, const TrainOptions& train,
                               const model::Model& model, const model::Model* probe, int64_t step,
                               size_t num_micro_batches) {
  if (!is_two_pass(options, step)) return train::sft_plan(train, model, num_micro_batches);
  const bool checked = is_checked(options, probe, step);
  const train::PassPlan first{.weight_gradients = false, .recompute = recomputes_probe(train)};
  train::MethodPlan plan = train::sft_plan(train, model, 0);
  plan.passes.push_back(first);
  plan.passes.back().probe = true;
  if (checked) plan.passes.push_back(first);
  const size_t size = group_size(options, num_micro_batches);
  for (size_t i = 0; i < num_micro_batches; i += size) {
    train::append_uses(model, size, true, plan.uses);
    if (checked) train::append_uses(model, size, false, plan.uses);
    train::append_uses(model, size, false, plan.uses);
  }
  const Perturbation kept(options, model.num_layers(), {.width = model.hidden_size()});
  plan.keeps_one_micro_batch = size == 1;
  const int64_t width = kept.num_perturbed() * model.hidden_size();
  if (kept.direction() == Direction::kShared)
    plan.kept_bytes = width * static_cast<int64_t>(sizeof(float));
  else
    plan.kept_bytes_per_token =
        width *
        static_cast<int64_t>(at::elementSize((probe != nullptr ? *probe : model).compute_dtype()));
  return plan;
}

VaccineMethod::Sums::Sums(int64_t num_layers, const at::TensorOptions& options)
    : all(at::zeros({num_layers + 5}, options)),
      layer_squares(all.narrow(0, 0, num_layers)),
      clean_loss(all[num_layers]),
      loss(all[num_layers + 1]),
      cosine(all.narrow(0, num_layers + 2, 3)) {}

VaccineMethod::VaccineMethod(train::StepContext context, const VaccineOptions& options)
    : context_(context),
      options_(options),
      one_pass_(context),
      passes_(context),
      kept_({.width = context.update.model.hidden_size(),
             .dtype = context.probe.model.compute_dtype(),
             .device = context.update.model.device()}),
      perturbation_(options, context.update.model.num_layers(), kept_),
      sums_(context.update.model.num_layers(), context.sum_options()) {}

bool VaccineMethod::is_checked(int64_t step) const {
  return vaccine::is_checked(options_, own_probe(), step);
}

template <typename Record>
void VaccineMethod::run_probe(train::PassModel model, const train::PlacedStep& step, Group group,
                              at::Tensor& loss_sum, const Record& record) {
  model::PassOptions options = train::update_pass_options(context_, step);
  options.recompute = recomputes_probe(context_.train);
  options.stop_at_first_boundary = true;
  if (options_.dropout_mask == DropoutMask::kFresh) {
    options.dropout_stream = step.dropout_streams[1];
    options.dropout_key = step.dropout_keys[1];
  }
  for (size_t i = 0; i < group.count; ++i) {
    options.backward_boundary = [&record, i](int layer, const at::Tensor& grad_TD) {
      record(i, layer, grad_TD);
    };
    model.model.forward_backward(step.micro_batches[group.first + i], model.weights, nullptr,
                                 options, loss_sum);
  }
}

void VaccineMethod::find_perturbation(const train::PlacedStep& step, Group group) {
  context_.set_phase("pass 1");
  perturbation_.begin(group.count);
  run_probe(context_.probe, step, group, sums_.clean_loss,
            [this](size_t i, int layer, const at::Tensor& grad_TD) {
              perturbation_.record(i, layer, grad_TD);
            });
  perturbation_.normalise(context_.tensor_world());
  sums_.layer_squares.add_(perturbation_.layer_squares());
}

void VaccineMethod::check_perturbation(const train::PlacedStep& step, Group group) {
  context_.set_phase("check of the probe");
  ProbeCheck check(perturbation_, context_.update.model.num_layers(), kept_);
  at::Tensor unused = at::zeros({}, context_.sum_options());
  run_probe(
      context_.update, step, group, unused,
      [&check](size_t i, int layer, const at::Tensor& grad) { check.record(i, layer, grad); });
  check.finish(context_.tensor_world(), sums_.cosine);
}

void VaccineMethod::train_perturbed(const train::PlacedStep& step, Group group) {
  context_.set_phase("pass 2");
  model::PassOptions options = train::update_pass_options(context_, step);
  for (size_t i = 0; i < group.count; ++i) {
    options.forward_boundary = [this, i](int layer, const at::Tensor&, at::Tensor& h_TD) {
      perturbation_.add_to(i, layer, h_TD);
    };
    context_.update.model.forward_backward(step.micro_batches[group.first + i],
                                           context_.update.weights, &context_.gradients, options,
                                           sums_.loss);
  }
}

void VaccineMethod::run_passes(const train::PlacedStep& step, bool checked) {
  sums_.all.zero_();
  pass1_s_ = 0;
  const size_t size = group_size(options_, step.micro_batches.size());
  for (size_t first = 0; first < step.micro_batches.size(); first += size) {
    const Group group{first, size};
    const Stopwatch watch;
    find_perturbation(step, group);
    if (context_.update.model.device().is_cpu()) pass1_s_ += watch.elapsed_s();
    if (checked) check_perturbation(step, group);
    train_perturbed(step, group);
  }
}

train::StepOutcome VaccineMethod::run(const train::StepBatch& batch) {
  if (!is_two_pass(options_, batch.step)) return one_pass_.run(batch);
  const bool checked = is_checked(batch.step);
  passes_.run(batch, checked ? 1 : 0,
              [this, checked](const train::PlacedStep& step) { run_passes(step, checked); });
  return outcome_of(batch);
}

train::StepOutcome VaccineMethod::outcome_of(const train::StepBatch& batch) {
  ops::device::wait_for(sums_.all);
  const at::Tensor sums = sums_.all.to(at::kCPU, /*non_blocking=*/false, /*copy=*/true);
  auto* const values = sums.mutable_data_ptr<double>();
  const int64_t num_layers = sums.numel() - 5;
  // The global scope has summed the squares over the ranks already.
  const int64_t skip = options_.norm_scope == NormScope::kGlobal ? num_layers : 0;
  context_.world
      .all_reduce(values + skip, sums.numel() - skip, dist::DataType::kFloat64,
                  dist::ReduceOp::kSum)
      .wait();
  train::StepOutcome outcome{.pass1_s = pass1_s_};
  outcome.layer_squares.assign(values, values + num_layers);
  outcome.clean_loss = values[num_layers] / static_cast<double>(batch.label_tokens);
  outcome.loss = values[num_layers + 1] / static_cast<double>(batch.label_tokens);
  if (is_checked(batch.step))
    outcome.probe_cosine =
        values[num_layers + 2] / std::sqrt(values[num_layers + 3] * values[num_layers + 4]);
  return outcome;
}

std::vector<train::UnitUse> VaccineMethod::unit_uses(int64_t step, size_t num_micro_batches) const {
  return vaccine_plan(options_, context_.train, context_.update.model, own_probe(), step,
                      num_micro_batches)
      .uses;
}

}  // namespace vax::vaccine
