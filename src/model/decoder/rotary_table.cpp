#include "model/decoder/rotary_table.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>

namespace vax::model {

std::vector<float> rotary_frequencies(const Spec& spec) {
  const RotaryScaling& scaling = spec.rope_scaling;
  const auto factor = static_cast<float>(scaling.factor);
  std::vector<float> frequencies;
  for (int64_t i = 0; i < spec.head_dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(spec.head_dim);
    float frequency = 1.0f / std::pow(static_cast<float>(spec.rope_theta), exponent);
    if (scaling.kind == ScalingKind::kAll) frequency /= factor;
    if (scaling.kind == ScalingKind::kLongWaves) {
      // Long wavelengths are stretched by `factor`, short ones kept, those between interpolated.
      const auto old_length = static_cast<float>(scaling.original_max_positions);
      const auto low = static_cast<float>(scaling.low_freq_factor);
      const auto high = static_cast<float>(scaling.high_freq_factor);
      const float wavelength = 2.0f * std::numbers::pi_v<float> / frequency;
      const float smooth = (old_length / wavelength - low) / (high - low);
      if (wavelength > old_length / low) {
        frequency /= factor;
      } else if (wavelength >= old_length / high) {
        frequency = (1.0f - smooth) * frequency / factor + smooth * frequency;
      }
    }
    frequencies.push_back(frequency);
  }
  return frequencies;
}

RotaryTable rotary_table(const Spec& spec, at::Device device) {
  const at::Tensor angles_PK = at::arange(spec.max_positions, at::kFloat).unsqueeze(1) *
                               at::tensor(rotary_frequencies(spec), at::kFloat).unsqueeze(0);
  return {.cos_PK = angles_PK.cos().to(device), .sin_PK = angles_PK.sin().to(device)};
}

}  // namespace vax::model
