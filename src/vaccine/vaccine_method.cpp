#include "vaccine/vaccine_method.h"

#include <algorithm>
#include <cmath>

#include "base/narrow.h"
#include "base/stopwatch.h"
#include "ops/dropout.h"

namespace vax::vaccine {
namespace {

bool is_two_pass(const VaccineOptions& options, int64_t step) {
  return (step - 1) % options.interval == 0;
}

// Is there a probe of its own, and is it this step's turn to be checked?
bool is_checked(const VaccineOptions& options, const model::Llama* probe, int64_t step) {
  return probe != nullptr && options.probe_check_interval > 0 &&
         (step - 1) % options.probe_check_interval == 0;
}

// Micro-batches that share one S.
size_t group_size(const VaccineOptions& options, size_t num_micro_batches) {
  return norm_scope_of(options) == NormScope::kMicro ? 1 : num_micro_batches;
}

bool recomputes_probe(const TrainOptions& train) { return train.recompute == "all"; }

}  // namespace

train::MethodPlan vaccine_plan(const VaccineOptions& options, const TrainOptions& train,
                               const model::Llama& llama, const model::Llama* probe, int64_t step,
                               size_t num_micro_batches) {
  if (!is_two_pass(options, step)) return train::sft_plan(train, llama, num_micro_batches);
  const bool checked = is_checked(options, probe, step);
  const train::PassPlan first{.weight_gradients = false, .recompute = recomputes_probe(train)};
  train::MethodPlan plan = train::sft_plan(train, llama, 0);
  plan.passes.push_back(first);
  plan.passes.back().probe = true;
  if (checked) plan.passes.push_back(first);
  const size_t size = group_size(options, num_micro_batches);
  for (size_t i = 0; i < num_micro_batches; i += size) {
    train::append_uses(llama, size, true, plan.uses);
    if (checked) train::append_uses(llama, size, false, plan.uses);
    train::append_uses(llama, size, false, plan.uses);
  }
  const Perturbation kept(options, llama.num_layers());
  plan.keeps_one_micro_batch = size == 1;
  const int64_t width = kept.num_perturbed() * llama.config().hidden_size;
  if (kept.direction() == Direction::kShared)
    plan.kept_bytes = width * static_cast<int64_t>(sizeof(float));
  else
    plan.kept_bytes_per_token =
        width *
        static_cast<int64_t>(at::elementSize((probe != nullptr ? *probe : llama).compute_dtype()));
  return plan;
}

VaccineMethod::VaccineMethod(train::StepContext context, const VaccineOptions& options)
    : context_(context),
      options_(options),
      one_pass_(context),
      perturbation_(options, context.update.llama.num_layers(),
                    context.probe.llama.compute_dtype()) {}

bool VaccineMethod::is_checked(int64_t step) const {
  return vaccine::is_checked(options_, own_probe(), step);
}

template <typename Record>
double VaccineMethod::run_probe(train::PassModel model, const train::StepBatch& batch, Group group,
                                const Record& record) {
  model::PassOptions options = train::update_pass_options(context_, batch);
  options.recompute = recomputes_probe(context_.train);
  options.stop_at_first_boundary = true;
  if (options_.dropout_mask == "fresh")
    options.dropout_stream = ops::dropout_stream(static_cast<uint64_t>(batch.step), 1);
  double loss_sum = 0;
  for (size_t i = 0; i < group.count; ++i) {
    options.backward_boundary = [&record, i](int layer, const at::Tensor& grad_TD) {
      record(i, layer, grad_TD);
    };
    loss_sum += model.llama.forward_backward(batch.micro_batches[group.first + i], model.weights,
                                             nullptr, options);
  }
  return loss_sum;
}

double VaccineMethod::find_perturbation(const train::StepBatch& batch, Group group) {
  context_.set_phase("pass 1");
  perturbation_.begin(group.count);
  const double loss_sum = run_probe(context_.probe, batch, group,
                                    [this](size_t i, int layer, const at::Tensor& grad_TD) {
                                      perturbation_.record(i, layer, grad_TD);
                                    });
  perturbation_.normalise(context_.world);
  return loss_sum;
}

ops::CosineSums VaccineMethod::check_perturbation(const train::StepBatch& batch, Group group) {
  context_.set_phase("check of the probe");
  ProbeCheck check(perturbation_, context_.update.llama.num_layers());
  run_probe(context_.update, batch, group, [&check](size_t i, int layer, const at::Tensor& grad) {
    check.record(i, layer, grad);
  });
  return check.finish(context_.world);
}

double VaccineMethod::train_perturbed(const train::StepBatch& batch, Group group) {
  context_.set_phase("pass 2");
  model::PassOptions options = train::update_pass_options(context_, batch);
  double loss_sum = 0;
  for (size_t i = 0; i < group.count; ++i) {
    options.forward_boundary = [this, i](int layer, const at::Tensor&, at::Tensor& h_TD) {
      perturbation_.add_to(i, layer, h_TD);
    };
    loss_sum += context_.update.llama.forward_backward(batch.micro_batches[group.first + i],
                                                       context_.update.weights, &context_.gradients,
                                                       options);
  }
  return loss_sum;
}

train::StepOutcome VaccineMethod::run(const train::StepBatch& batch) {
  if (!is_two_pass(options_, batch.step)) return one_pass_.run(batch);
  const size_t num_layers = perturbation_.layer_squares().size();
  // What is summed over the ranks at the end: squares per layer, clean loss, perturbed loss, and
  // the three sums of a cosine.
  std::vector<double> sums(num_layers + 5, 0.0);
  train::StepOutcome outcome;
  const size_t size = group_size(options_, batch.micro_batches.size());
  for (size_t first = 0; first < batch.micro_batches.size(); first += size) {
    const Group group{first, size};
    const Stopwatch watch;
    sums[num_layers] += find_perturbation(batch, group);
    outcome.pass1_s += watch.elapsed_s();
    for (size_t l = 0; l < num_layers; ++l) sums[l] += perturbation_.layer_squares()[l];
    if (is_checked(batch.step)) {
      const ops::CosineSums cosine = check_perturbation(batch, group);
      sums[num_layers + 2] += cosine.ab;
      sums[num_layers + 3] += cosine.aa;
      sums[num_layers + 4] += cosine.bb;
    }
    sums[num_layers + 1] += train_perturbed(batch, group);
  }
  // The global scope has summed the squares over the ranks already.
  const size_t skip = norm_scope_of(options_) == NormScope::kGlobal ? num_layers : 0;
  context_.world
      .all_reduce(sums.data() + skip, narrow<int64_t>(sums.size() - skip), dist::DataType::kFloat64,
                  dist::ReduceOp::kSum)
      .wait();
  outcome.layer_squares.assign(sums.begin(), sums.begin() + narrow<std::ptrdiff_t>(num_layers));
  outcome.clean_loss = sums[num_layers] / static_cast<double>(batch.label_tokens);
  outcome.loss = sums[num_layers + 1] / static_cast<double>(batch.label_tokens);
  if (is_checked(batch.step))
    outcome.probe_cosine =
        sums[num_layers + 2] / std::sqrt(sums[num_layers + 3] * sums[num_layers + 4]);
  return outcome;
}

std::vector<train::UnitUse> VaccineMethod::unit_uses(int64_t step, size_t num_micro_batches) const {
  return vaccine_plan(options_, context_.train, context_.update.llama, own_probe(), step,
                      num_micro_batches)
      .uses;
}

}  // namespace vax::vaccine
