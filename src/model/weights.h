// How layers get at their weights. A layer asks for the tensors of its unit when it needs them,
// forward and backward, and gives them back; whether they lie in memory or are gathered from other
// ranks for the occasion is the source's affair. Invariants:
// - tensors are valid from acquire(unit) to release(unit); nothing saved may alias them;
// - the order of acquires is the one that Model::unit_uses() announces.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <exception>
#include <utility>

namespace vax::model {

// The linear layers of a block, in the order of their LoRA factors.
enum Projection : int { kQ, kK, kV, kO, kGate, kUp, kDown, kNumProjections };

// What a tensor is for. Matrices are [out, in] as in the checkpoint. Fused ones hold the rows of
// their members one after another.
enum Role : int {
  kEmbedding,      // [V, D]
  kInputNorm,      // [D]
  kInputNormBias,  // [D]
  kQkv,            // [(H + 2 KV) K, D]
  kQkvBias,        // [(H + 2 KV) K]
  kAttnOut,        // [D, H K]
  kAttnOutBias,    // [D]
  kPostNorm,       // [D]
  kPostNormBias,   // [D]
  kGateUp,         // [2F, D]; [F, D] without a gate
  kGateUpBias,     // [2F]; [F]
  kMlpDown,        // [D, F]
  kMlpDownBias,    // [D]
  kFinalNorm,      // [D]
  kFinalNormBias,  // [D]
  kHead,           // [V, D]
  kLoraFirst,  // A [R, in] of projection p at kLoraFirst + 2p, B [out, R] at kLoraFirst + 2p + 1
  kNumRoles = kLoraFirst + 2 * kNumProjections,
};

constexpr Role lora_a_role(Projection p) { return static_cast<Role>(kLoraFirst + 2 * p); }
constexpr Role lora_b_role(Projection p) { return static_cast<Role>(kLoraFirst + 2 * p + 1); }

// The tensors of one unit by role; undefined where the unit has none.
using UnitTensors = std::array<at::Tensor, kNumRoles>;

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // COLLECTIVE where weights are sharded.
  virtual const UnitTensors& acquire(int unit) = 0;
  virtual void release(int unit) = 0;
};

// Where a unit's weight gradients go: fp32 tensors by role, undefined for frozen weights.
struct UnitGradients {
  UnitTensors tensors;
  // The tensors hold a sum that is added to. Otherwise they may hold anything, and every defined
  // one must be written: no buffer is zeroed first.
  bool accumulate = true;
};

// release() says that this micro-batch adds nothing more to the unit.
class GradientSink {
 public:
  virtual ~GradientSink() = default;
  // The reference is valid until release(). COLLECTIVE where gradients are sharded.
  virtual UnitGradients& acquire(int unit) = 0;
  virtual void release(int unit) = 0;
};

// acquire()d for the life of the object. An exception that passes through gives nothing back: a
// release may wait for other ranks, and the one that throws must end the job instead.
class HeldWeights {
 public:
  HeldWeights(WeightSource& source, int unit)
      : source_(source), unit_(unit), tensors_(source.acquire(unit)) {}
  HeldWeights(const HeldWeights&) = delete;
  HeldWeights& operator=(const HeldWeights&) = delete;
  ~HeldWeights() noexcept(false) {
    if (std::uncaught_exceptions() == exceptions_) source_.release(unit_);
  }

  const at::Tensor& operator[](Role role) const { return tensors_[role]; }
  const UnitTensors& all() const { return tensors_; }

 private:
  WeightSource& source_;
  int unit_;
  const UnitTensors& tensors_;
  int exceptions_ = std::uncaught_exceptions();
};

// The same for gradients; nothing happens when there is no sink.
class HeldGradients {
 public:
  HeldGradients(GradientSink* sink, int unit)
      : sink_(sink), unit_(unit), gradients_(sink != nullptr ? &sink->acquire(unit) : nullptr) {}
  HeldGradients(const HeldGradients&) = delete;
  HeldGradients& operator=(const HeldGradients&) = delete;
  ~HeldGradients() noexcept(false) {
    if (std::uncaught_exceptions() == exceptions_) release();
  }

  void release() {
    gradients_ = nullptr;
    if (sink_ != nullptr) std::exchange(sink_, nullptr)->release(unit_);
  }
  UnitGradients* get() const { return gradients_; }
  // Undefined where there is no sink, or the weight is frozen.
  at::Tensor of(Role role) const {
    return gradients_ != nullptr ? gradients_->tensors[role] : at::Tensor();
  }
  bool accumulate() const { return gradients_ != nullptr && gradients_->accumulate; }
  // For a micro-batch that adds nothing.
  void write_nothing() {
    if (gradients_ == nullptr || gradients_->accumulate) return;
    for (at::Tensor& tensor : gradients_->tensors)
      if (tensor.defined()) tensor.zero_();
  }

 private:
  GradientSink* sink_;
  int unit_;
  UnitGradients* gradients_;
  int exceptions_ = std::uncaught_exceptions();
};

}  // namespace vax::model
