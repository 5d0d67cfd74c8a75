// Every option of the program: the sections of the rooms that read them. An empty optional means
// "not given": its meaning then stands beside it.
#pragma once

#include <string>

#include "app/plan_options.h"
#include "app/runtime_options.h"
#include "data/data_options.h"
#include "eval/eval_options.h"
#include "model/init_options.h"
#include "train/checkpoint_options.h"
#include "train/model_options.h"
#include "train/output_options.h"
#include "train/shard_options.h"
#include "train/train_options.h"
#include "vaccine/drift_options.h"
#include "vaccine/vaccine_options.h"

namespace vax {

struct Options {
  std::string subcommand;
  ModelOptions model;
  AdapterOptions adapter;
  DataOptions data;
  TrainOptions train;
  VaccineOptions vaccine;
  ShardOptions shard;
  DriftOptions drift;
  EvalOptions eval;
  PlanOptions plan;
  CheckpointOptions checkpoint;
  OutputOptions output;
  RuntimeOptions runtime;
  InitOptions init;
};

}  // namespace vax
