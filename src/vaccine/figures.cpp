#include "vaccine/figures.h"

namespace vax::vaccine {

io::Figures two_pass_figures() {
  return {{.name = "hidden_grad_norm",
           .units = "1",
           .long_name = "norm of the hidden-state gradients over all layers",
           .after = "grad_norm",
           .label = "|G|"},
          {.name = "rho",
           .units = "1",
           .long_name = "norm bound of the perturbation",
           .after = "grad_norm"},
          {.name = "probe_cosine",
           .units = "1",
           .long_name = "cosine of the probe's direction to the full-precision one",
           .after = "comm_bytes"},
          // Squares sum to hidden_grad_norm squared.
          {.name = "layer_grad_norm",
           .units = "1",
           .long_name = "norm of the hidden-state gradient of a layer in pass 1",
           .kind = io::Figure::Kind::kPerLayer,
           .path = "perturbation/grad_norm"}};
}

}  // namespace vax::vaccine
