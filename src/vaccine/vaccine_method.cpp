#include "vaccine/vaccine_method.h"

#include <algorithm>

#include "base/narrow.h"
#include "base/stopwatch.h"
#include "ops/dropout.h"

namespace vax::vaccine {

VaccineMethod::VaccineMethod(train::StepContext context, const VaccineOptions& options)
    : context_(context),
      options_(options),
      one_pass_(context),
      perturbation_(options, context.llama.num_layers()) {}

size_t VaccineMethod::group_size(size_t num_micro_batches) const {
  return norm_scope_of(options_) == NormScope::kMicro ? 1 : num_micro_batches;
}

double VaccineMethod::find_perturbation(const train::StepBatch& batch, Group group) {
  perturbation_.begin(group.count);
  model::PassOptions options = train::update_pass_options(context_, batch);
  options.recompute = context_.train.recompute == "all";
  options.stop_at_first_boundary = true;
  if (options_.dropout_mask == "fresh")
    options.dropout_stream = ops::dropout_stream(static_cast<uint64_t>(batch.step), 1);
  double loss_sum = 0;
  for (size_t i = 0; i < group.count; ++i) {
    options.backward_boundary = [this, i](int layer, const at::Tensor& grad_TD) {
      perturbation_.record(i, layer, grad_TD);
    };
    loss_sum += context_.llama.forward_backward(batch.micro_batches[group.first + i],
                                                context_.weights, nullptr, options);
  }
  perturbation_.normalise(context_.world);
  return loss_sum;
}

double VaccineMethod::train_perturbed(const train::StepBatch& batch, Group group) {
  model::PassOptions options = train::update_pass_options(context_, batch);
  double loss_sum = 0;
  for (size_t i = 0; i < group.count; ++i) {
    options.forward_boundary = [this, i](int layer, const at::Tensor&, at::Tensor& h_TD) {
      perturbation_.add_to(i, layer, h_TD);
    };
    loss_sum += context_.llama.forward_backward(batch.micro_batches[group.first + i],
                                                context_.weights, &context_.gradients, options);
  }
  return loss_sum;
}

train::StepOutcome VaccineMethod::run(const train::StepBatch& batch) {
  if (!is_two_pass(batch.step)) return one_pass_.run(batch);
  const size_t num_layers = perturbation_.layer_squares().size();
  // What is summed over the ranks at the end: squares per layer, clean loss, perturbed loss.
  std::vector<double> sums(num_layers + 2, 0.0);
  train::StepOutcome outcome;
  const size_t size = group_size(batch.micro_batches.size());
  for (size_t first = 0; first < batch.micro_batches.size(); first += size) {
    const Group group{first, size};
    const Stopwatch watch;
    sums[num_layers] += find_perturbation(batch, group);
    outcome.pass1_s += watch.elapsed_s();
    for (size_t l = 0; l < num_layers; ++l) sums[l] += perturbation_.layer_squares()[l];
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
  return outcome;
}

std::vector<int> VaccineMethod::unit_uses(int64_t step, size_t num_micro_batches) const {
  if (!is_two_pass(step)) return one_pass_.unit_uses(step, num_micro_batches);
  std::vector<int> uses;
  const std::vector<int> once = context_.llama.unit_uses(true);
  for (size_t i = 0; i < 2 * num_micro_batches; ++i)
    uses.insert(uses.end(), once.begin(), once.end());
  return uses;
}

}  // namespace vax::vaccine
