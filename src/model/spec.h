// What a model is made of: its sizes, the parts of its blocks, the names of its tensors. A family
// makes one from config.json (model/family.h), and all that computes goes by it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "model/weights.h"

namespace vax::model {

// Scaling of the rotary embedding's frequencies: all of them divided by the factor, or only those
// of long wavelengths, with a transition.
enum class ScalingKind { kNone, kAll, kLongWaves };

struct RotaryScaling {
  ScalingKind kind = ScalingKind::kNone;
  double factor = 1;
  // Of long waves: original positions over these are where the transition ends and begins.
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int64_t original_max_positions = 8192;
};

// RMS norms have a weight, layer norms a weight and a bias.
enum class NormKind { kRms, kLayer };

// kSwiglu: down(silu(gate(x)) * up(x)); the others: down(activation(up(x))), without a gate.
enum class MlpKind { kSwiglu, kRelu, kGelu };

// Which linear layers of a block add a bias.
struct Biases {
  bool qkv = false;
  bool attention_out = false;
  bool up = false;  // and the gate, where there is one
  bool down = false;
};

// Modules as the checkpoint calls them: a module's tensors are NAME.weight and NAME.bias, those of
// block l are BLOCKS.l.NAME.
struct ModuleNames {
  std::string embedding;
  std::string blocks;
  std::string attention_norm, mlp_norm;  // in a block
  // In a block, by Projection; empty: the block has no such layer.
  std::array<std::string, kNumProjections> linears;
  std::string final_norm, head;
  // Tensors that a file may hold besides; a "*" in front stands for any beginning.
  std::vector<std::string> ignored;
};

struct Spec {
  int64_t vocab_size = 0;         // V
  int64_t hidden_size = 0;        // D
  int64_t intermediate_size = 0;  // F
  int64_t num_layers = 0;         // L
  int64_t num_heads = 0;          // H
  int64_t num_kv_heads = 0;       // KV, divides H
  int64_t head_dim = 0;           // K, even
  int64_t max_positions = 2048;
  NormKind norm = NormKind::kRms;
  double norm_eps = 1e-6;
  MlpKind mlp = MlpKind::kSwiglu;
  double rope_theta = 10000;
  RotaryScaling rope_scaling;
  bool tied_head = false;  // the head's matrix is the embedding's
  Biases biases;
  std::string family;  // as messages call it
  ModuleNames names;

  bool has_gate() const { return mlp == MlpKind::kSwiglu; }
};

}  // namespace vax::model
