// Not a test itself: a training step in which one rank throws while the others wait for it, ended
// the way main() of the program does it. tests/fault/throwing_test.py checks that the job ends, how
// and when.
//   throwing_step weights1   the last rank's weights fail in pass 1
//   throwing_step weights2   in pass 2
//   throwing_step gradients  its gradients fail, in pass 2
// It is at its third acquire of the pass: gathers and reductions are under way.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <exception>
#include <memory>
#include <stdexcept>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "dist/comm/communicator.h"
#include "dist/comm/environment.h"
#include "dist/watch/watchdog.h"
#include "support/step_run.h"
#include "vaccine/vaccine_method.h"

namespace {

constexpr int kUnexpectedExit = 1;  // as app/ has it
constexpr int kNoEndExit = 99;      // the step went through
constexpr int kFailingAcquire = 3;  // of a pass

void count_acquire(int& count, int failing) {
  if (++count == failing) throw std::runtime_error("this rank fails");
}

class ThrowingWeights final : public vax::model::WeightSource {
 public:
  // `failing`: number of the acquire that fails; 0: none does.
  ThrowingWeights(vax::model::WeightSource& source, int failing)
      : source_(source), failing_(failing) {}
  const vax::model::UnitTensors& acquire(int unit) override {
    count_acquire(num_acquires_, failing_);
    return source_.acquire(unit);
  }
  void release(int unit) override { source_.release(unit); }

 private:
  vax::model::WeightSource& source_;
  const int failing_;
  int num_acquires_ = 0;
};

class ThrowingGradients final : public vax::model::GradientSink {
 public:
  ThrowingGradients(vax::model::GradientSink& sink, int failing) : sink_(sink), failing_(failing) {}
  vax::model::UnitGradients& acquire(int unit) override {
    count_acquire(num_acquires_, failing_);
    return sink_.acquire(unit);
  }
  void release(int unit) override { sink_.release(unit); }

 private:
  vax::model::GradientSink& sink_;
  const int failing_;
  int num_acquires_ = 0;
};

// The passes of a step on weights and gradients that may fail.
class ThrowingEngine final : public vax::train::PassEngine {
 public:
  ThrowingEngine(const vax::train::PassInputs& inputs, vax::dist::ShardedGradients& gradients)
      : PassEngine(inputs), gradients_(gradients) {}

  void run(vax::train::Method& method, const vax::train::StepBatch& batch) {
    begin(batch);
    method.step(*this);
    reduce();
  }
  const vax::train::ShardVector& reduce() override {
    gradients_.finish();
    return none_;
  }
  double gradient_norm() override { return 0; }
  void clear_gradient() override {}
  vax::train::ShardVector& vector(int) override { return none_; }
  void move(const vax::train::ShardVector&, double) override {}
  void restore() override {}

 private:
  vax::dist::ShardedGradients& gradients_;
  vax::train::ShardVector none_;
};

void run_step(const vax::dist::Communicator& world, const std::string& mode) {
  namespace testing = vax::testing;
  namespace train = vax::train;
  const bool fails = world.rank() == world.size() - 1;
  const auto models = testing::step_models();
  const train::ModelRequest request = testing::step_request(*models, true);
  train::Mesh mesh = train::make_mesh(world, world, {}, true);
  const auto state = train::ModelState::load(request, testing::spec_of(request), mesh);
  vax::dist::ShardedGradients reduced(*mesh.reduce, state->trainable().layout().units(), at::kCPU);
  train::ShardedGradientSink sink(state->trainable(), reduced);
  const train::MethodContext context{
      .model = state->model(), .probe = state->model(), .device = at::kCPU};
  vax::vaccine::VaccineMethod method({}, context), recorded({}, context);
  const testing::Rows rows(2 * world.size());
  const auto share = rows.share(world.rank(), world.size(), 1);
  const train::StepBatch batch = testing::one_stream(1, share, rows.label_tokens);
  const train::Recording recording =
      train::RecordingEngine(state->model()).record(recorded, 1, {share.size()});
  // Both passes acquire as many units.
  const int of_pass2 = static_cast<int>(recording.segments.at(0).size() / 2) + kFailingAcquire;
  ThrowingWeights weights(state->weights(), !fails               ? 0
                                            : mode == "weights1" ? kFailingAcquire
                                            : mode == "weights2" ? of_pass2
                                                                 : 0);
  ThrowingGradients gradients(sink, fails && mode == "gradients" ? kFailingAcquire : 0);
  const vax::TrainOptions options;
  ThrowingEngine engine({.update = {.model = state->model(), .weights = weights},
                         .probe = {.model = state->model(), .weights = weights},
                         .gradients = gradients,
                         .world = *mesh.world,
                         .train = options},
                        reduced);
  state->begin_step(recording.segments);
  engine.run(method, batch);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  const vax::dist::Environment environment(&argc, &argv);
  const c10::InferenceMode no_autograd;
  try {
    const vax::dist::Communicator world = vax::dist::Communicator::world();
    const vax::dist::Watchdog watchdog(world, {.timeout_s = 600});
    run_step(world, mode);
  } catch (const std::exception& error) {
    vax::log::error(error.what());
    vax::dist::Environment::abort(kUnexpectedExit);
  }
  return kNoEndExit;
}
