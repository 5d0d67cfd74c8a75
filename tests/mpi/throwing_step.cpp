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
constexpr int kFailingAcquire = 3;

void count_acquire(int& count, bool fails) {
  if (++count == kFailingAcquire && fails) throw std::runtime_error("this rank fails");
}

class ThrowingWeights final : public vax::model::WeightSource {
 public:
  ThrowingWeights(vax::model::WeightSource& source, bool fails) : source_(source), fails_(fails) {}
  const vax::model::UnitTensors& acquire(int unit) override {
    count_acquire(num_acquires_, fails_);
    return source_.acquire(unit);
  }
  void release(int unit) override { source_.release(unit); }

 private:
  vax::model::WeightSource& source_;
  const bool fails_;
  int num_acquires_ = 0;
};

class ThrowingGradients final : public vax::model::GradientSink {
 public:
  ThrowingGradients(vax::model::GradientSink& sink, bool fails) : sink_(sink), fails_(fails) {}
  vax::model::UnitGradients& acquire(int unit) override {
    count_acquire(num_acquires_, fails_);
    return sink_.acquire(unit);
  }
  void release(int unit) override { sink_.release(unit); }

 private:
  vax::model::GradientSink& sink_;
  const bool fails_;
  int num_acquires_ = 0;
};

void run_step(const vax::dist::Communicator& world, const std::string& mode) {
  namespace testing = vax::testing;
  const bool fails = world.rank() == world.size() - 1;
  const auto models = testing::step_models();
  testing::StepRun step(testing::step_request(*models, true),
                        vax::train::make_mesh(world, world, {}, true));
  const vax::train::StepContext whole = step.context();
  ThrowingWeights pass1(whole.probe.weights, fails && mode == "weights1");
  ThrowingWeights pass2(whole.update.weights, fails && mode == "weights2");
  ThrowingGradients gradients(whole.gradients, fails && mode == "gradients");
  vax::vaccine::VaccineMethod method({.update = {.model = whole.update.model, .weights = pass2},
                                      .probe = {.model = whole.probe.model, .weights = pass1},
                                      .gradients = gradients,
                                      .world = whole.world,
                                      .train = whole.train},
                                     {});
  const testing::Rows rows(2 * world.size());
  const auto share = rows.share(world.rank(), world.size(), 1);
  step.run(method, {.step = 1, .micro_batches = share, .label_tokens = rows.label_tokens});
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
