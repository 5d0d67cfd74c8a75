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

// Which linear layers of a block add a bias.
struct Biases {
  bool qkv = false;
  bool attention_out = false;
  bool up = false;  // of the gate too
  bool down = false;
};

// Modules as the checkpoint calls them: a module's tensors are NAME.weight and NAME.bias, those of
// block l are BLOCKS.l.NAME.
struct ModuleNames {
  std::string embedding;
  std::string blocks;
  std::string attention_norm, mlp_norm;              // in a block
  std::array<std::string, kNumProjections> linears;  // in a block; by Projection
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
  double norm_eps = 1e-6;
  double rope_theta = 10000;
  RotaryScaling rope_scaling;
  bool tied_head = false;  // the head's matrix is the embedding's
  Biases biases;
  std::string family;  // as messages call it
  ModuleNames names;
};

}  // namespace vax::model
