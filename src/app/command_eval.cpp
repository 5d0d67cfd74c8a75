// vaccine eval and vaccine generate: answers of a model (model.path with adapter.merge), scored or
// only written.
#include <cstdio>
#include <optional>

#include "app/model_loading.h"
#include "app/session.h"
#include "base/error.h"
#include "base/log.h"
#include "data/data_options.h"
#include "eval/eval_options.h"
#include "eval/evaluate.h"
#include "eval/report.h"
#include "train/model_options.h"
#include "train/output_options.h"
#include "train/shard_options.h"

namespace vax::app {
namespace {

// A loaded model and what eval/ asks for beside it.
struct LoadedForEval {
  train::Mesh mesh;
  std::optional<data::Tokenizer> tokenizer;
  std::unique_ptr<train::ModelState> state;

  eval::EvalInputs inputs(const Options& options) {
    return {.model = state->model(),
            .weights = state->weights(),
            .tokenizer = *tokenizer,
            .eval = options.get<EvalOptions>(),
            .data = options.get<DataOptions>(),
            .world = *mesh.world,
            .begin_pass = [this] { state->begin_forward(); },
            .on_progress =
                [](const eval::EvalProgress& progress) {
                  log::info(cat("  ", progress.part, ": ", progress.done, "/", progress.total));
                }};
  }
};

LoadedForEval load(const Session& session) {
  const Options& options = session.options;
  LoadedForEval loaded{.mesh = make_mesh(session, false)};
  together(session.world, [&] { loaded.tokenizer.emplace(load_tokenizer(session)); });
  loaded.state = load_model(session, loaded.mesh,
                            {.model = options.get<ModelOptions>(),
                             .merge = options.get<AdapterOptions>().merge,
                             .shard = options.get<ShardOptions>()});
  return loaded;
}

void print_figure(const char* name, const std::optional<double>& value, const char* unit,
                  const std::optional<eval::Interval>& interval = std::nullopt) {
  if (!value) return;
  std::printf("%-16s %8.3f%s", name, *value, unit);
  if (interval) std::printf("   95 %% interval %.1f to %.1f", interval->low, interval->high);
  std::printf("\n");
}

void print_report(const eval::EvalReport& report) {
  print_figure("harmful score", report.harmful_score, " %", report.harmful_score_ci95);
  print_figure("accuracy", report.accuracy, " %", report.accuracy_ci95);
  print_figure("exact match", report.exact_match, " %");
  print_figure("over-refusal", report.over_refusal, " %");
  print_figure("alignment loss", report.alignment_loss, "");
  std::fflush(stdout);
}

}  // namespace

void run_eval(const Session& session) {
  LoadedForEval loaded = load(session);
  const eval::EvalInputs inputs = loaded.inputs(session.options);
  eval::EvalFiles files;
  together(session.world, [&] { files = eval::load_eval_files(inputs); });
  const eval::EvalResult result = eval::evaluate(inputs, files);
  together(session.world, [&] {
    if (!session.is_root()) return;
    print_report(result.report);
    eval::write_report(session.options.get<OutputOptions>().dir, result.report, result.answers);
    log::info(
        cat("wrote eval.json and answers.json in ", session.options.get<OutputOptions>().dir));
  });
}

void run_generate(const Session& session) {
  LoadedForEval loaded = load(session);
  const eval::EvalInputs inputs = loaded.inputs(session.options);
  eval::PromptSet prompts;
  together(session.world, [&] { prompts = eval::load_data_prompts(inputs); });
  const std::vector<eval::Answer> answers = eval::generate_answers(inputs, prompts);
  together(session.world, [&] {
    if (!session.is_root()) return;
    eval::write_answers(session.options.get<OutputOptions>().dir, answers);
    log::info(cat("wrote answers.json in ", session.options.get<OutputOptions>().dir));
  });
}

}  // namespace vax::app
