// Learning rate of an update, by the formulas of the Hugging Face Trainer.
#pragma once

#include <cstdint>

#include "train/train_options.h"

namespace vax::train {

// ceil(warmup_ratio * num_steps)
int64_t num_warmup_steps(double warmup_ratio, int64_t num_steps);

// `update` counts from 0; the first one has lr 0 when there is a warm-up. Of n steps w warm up:
//   update < w    lr * update / w
//   cosine        lr * (1 + cos(pi * (update - w) / (n - w))) / 2
//   linear        lr * (n - update) / (n - w)
//   constant      lr
double learning_rate(const TrainOptions& options, int64_t update, int64_t num_steps);

}  // namespace vax::train
