// The rows of the option table. Defaults are not repeated here: they are those of the structs.
#include "app/option_table.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace vax::app {
namespace {

constexpr SubcommandSet kModelUsers = kTraining | kEval | kDrift | kGenerate;
constexpr SubcommandSet kSampleUsers = kModelUsers | kTokenize;
constexpr SubcommandSet kWeightUsers = kModelUsers | kExport;

struct Extra {
  std::string unset = "-";
  SubcommandSet used_by = 0;  // 0: the section's
};

const Extra kPlanned{.used_by = kTraining | kPlan};

template <typename Section>
class SectionRows {
 public:
  SectionRows(std::vector<OptionRow>& rows, std::string name, Section Options::*section,
              SubcommandSet used_by)
      : rows_(rows), name_(std::move(name)), section_(section), used_by_(used_by) {}

  template <typename T>
  void add(std::string key, T Section::*member, Rule rule, std::string meaning, Extra extra = {}) {
    OptionRow row;
    row.section = name_;
    row.key = std::move(key);
    row.meaning = std::move(meaning);
    row.unset = std::move(extra.unset);
    row.used_by = extra.used_by != 0 ? extra.used_by : used_by_;
    row.kind = value_kind<T>();
    row.is_list = ValueTraits<T>::is_list;
    row.may_be_unset = is_unset(Section{}.*member);
    row.rule = std::move(rule);
    if constexpr (Choice<typename ValueTraits<T>::Item>)
      row.rule.choices = one_of_words<typename ValueTraits<T>::Item>().choices;
    row.assign = [section = section_, member, accepted = row.rule, may_be_unset = row.may_be_unset](
                     Options& options, std::string_view text) {
      T& target = (options.*section).*member;
      if (text.empty() && may_be_unset) {
        target = T{};
        return true;
      }
      return read_value(text, accepted, target);
    };
    row.text = [section = section_, member](const Options& options) {
      return value_text((options.*section).*member);
    };
    row.json = [section = section_, member](const Options& options) {
      return value_json((options.*section).*member);
    };
    rows_.push_back(std::move(row));
  }

 private:
  std::vector<OptionRow>& rows_;
  std::string name_;
  Section Options::*section_;
  SubcommandSet used_by_;
};

Rule distinct(Rule rule) {
  rule.distinct = true;
  return rule;
}

Rule even(Rule rule) {
  rule.even = true;
  return rule;
}

Rule template_rule() {
  Rule rule = one_of(template_names());
  rule.other = "FILE";
  return rule;
}

void add_model(std::vector<OptionRow>& rows) {
  using M = ModelOptions;
  SectionRows model(rows, "model", &Options::model, kWeightUsers);
  model.add("path", &M::path, any_value(), "Hugging Face directory of the model",
            {.used_by = kWeightUsers | kTokenize | kPlan});
  model.add("dtype", &M::dtype, any_value(), "frozen weights and products",
            {.unset = "by device", .used_by = kWeightUsers | kInit | kPlan});
}

void add_adapter(std::vector<OptionRow>& rows) {
  using A = AdapterOptions;
  SectionRows adapter(rows, "adapter", &Options::adapter, kTraining);
  adapter.add("type", &A::type, any_value(), "LoRA factors or, for none, every weight", kPlanned);
  adapter.add("r", &A::r, at_least(1), "rank of the LoRA factors", kPlanned);
  adapter.add("alpha", &A::alpha, above(0), "LoRA scale: the factors' product times alpha / r");
  adapter.add("dropout", &A::dropout, from_up_to(0, 1),
              "probability, at the input of the LoRA branch");
  adapter.add(
      "targets", &A::targets,
      distinct(
          one_of({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})),
      "projections that get LoRA factors (list)", {.unset = "all", .used_by = kTraining | kPlan});
  adapter.add("dtype", &A::dtype, one_of({"fp32"}), "type of the LoRA factors");
  adapter.add("merge", &A::merge, any_value(),
              "PEFT directories merged into the model, in order (list)", {.used_by = kWeightUsers});
  adapter.add("init", &A::init, any_value(), "PEFT directory to go on from; its shape holds");
}

void add_data(std::vector<OptionRow>& rows) {
  using D = DataOptions;
  SectionRows data(rows, "data", &Options::data, kSampleUsers);
  constexpr SubcommandSet kReaders = kTraining | kDrift | kGenerate | kTokenize;
  constexpr SubcommandSet kSlicers = kTraining | kGenerate | kTokenize;
  data.add("path", &D::path, any_value(), "JSON or JSON lines file, also .gz",
           {.used_by = kReaders});
  data.add("format", &D::format, any_value(), "fields of a row");
  data.add("template", &D::template_name, template_rule(), "prompt");
  data.add("parse_special", &D::parse_special, any_value(),
           "\"</s>\" in a row's text is the control token");
  data.add("max_length", &D::max_length, at_least(2), "token ids of a sample, longer ones are cut",
           {.used_by = (kSampleUsers & ~kGenerate) | kPlan});
  data.add("samples", &D::samples, at_least(1), "rows used", {.unset = "all", .used_by = kSlicers});
  data.add("skip", &D::skip, at_least(0), "rows left out at the beginning", {.used_by = kSlicers});
  data.add("shuffle", &D::shuffle, any_value(), "another order each epoch, from train.seed",
           {.used_by = kTraining});
  data.add("harmful_path", &D::harmful_path, any_value(), "file of the harmful rows mixed in",
           {.used_by = kFinetune});
  data.add("harmful_ratio", &D::harmful_ratio, between(0, 1), "share of harmful rows, in [0, 1]",
           {.used_by = kFinetune});
}

void add_train(std::vector<OptionRow>& rows) {
  using T = TrainOptions;
  SectionRows train(rows, "train", &Options::train, kTraining);
  train.add("method", &T::method, one_of({"sft", "vaccine"}), "what a step does", kPlanned);
  train.add("global_batch", &T::global_batch, at_least(1), "rows of one step over all ranks",
            kPlanned);
  train.add("micro_batch", &T::micro_batch, at_least(1), "most rows of one pass on a rank",
            {.unset = "all", .used_by = kTraining | kPlan});
  train.add("epochs", &T::epochs, above(0), "passes over the data, unless max_steps is given");
  train.add("max_steps", &T::max_steps, at_least(0),
            "steps, in place of epochs; 0: write the initial weights");
  train.add("lr", &T::lr, at_least(0), "peak learning rate");
  train.add("weight_decay", &T::weight_decay, at_least(0), "decoupled; not on norms and biases");
  train.add("beta1", &T::beta1, from_up_to(0, 1), "AdamW: decay of the mean gradient");
  train.add("beta2", &T::beta2, from_up_to(0, 1), "AdamW: decay of the mean squared gradient");
  train.add("eps", &T::eps, above(0), "AdamW: added to the denominator");
  train.add("schedule", &T::schedule, any_value(), "rate after warm-up");
  train.add("warmup_ratio", &T::warmup_ratio, between(0, 1), "share of the steps that warm up");
  train.add("clip", &T::clip, at_least(0), "largest L2 norm of the gradient; 0: no clipping");
  train.add("recompute", &T::recompute, any_value(), "activations computed again", kPlanned);
  train.add("seed", &T::seed, any_value(), "of the initial adapter, the order of rows and dropout");
}

void add_vaccine(std::vector<OptionRow>& rows) {
  using V = VaccineOptions;
  SectionRows vaccine(rows, "vaccine", &Options::vaccine, kTraining | kPlan);
  vaccine.add("rho", &V::rho, at_least(0), "L2 norm of the perturbation; 0: none, equals sft");
  vaccine.add("norm_scope", &V::norm_scope, any_value(), "where the norm is summed");
  vaccine.add("direction", &V::direction, any_value(), "one vector a token or a layer");
  vaccine.add("interval", &V::interval, at_least(1),
              "two passes every interval-th step, one in the others");
  vaccine.add("layers", &V::layers, distinct(at_least(0)),
              "perturbed layers, counted from 0 (list)", {.unset = "all"});
  vaccine.add("probe_dtype", &V::probe_dtype, any_value(), "arithmetic of pass 1; fp8: GPU");
  vaccine.add("probe_check_interval", &V::probe_check_interval, at_least(0),
              "steps between checks of such a pass 1; 0: never");
  vaccine.add("dropout_mask", &V::dropout_mask, any_value(), "masks of pass 1 against pass 2's");
}

void add_shard(std::vector<OptionRow>& rows) {
  using S = ShardOptions;
  SectionRows shard(rows, "shard", &Options::shard, kWeightUsers | kPlan);
  shard.add("frozen", &S::frozen, any_value(), "where frozen weights lie");
  shard.add("trainable", &S::trainable, any_value(), "where trained weights lie");
  shard.add("group_size", &S::group_size, at_least(1),
            "ranks a weight is spread over; divides their number", {.unset = "all ranks"});
  shard.add("residency_gib", &S::residency_gib, at_least(0),
            "GiB of gathered weights kept beyond those in use");
  shard.add("prefetch", &S::prefetch, at_least(0), "blocks gathered ahead of their use");
}

void add_drift(std::vector<OptionRow>& rows) {
  using D = DriftOptions;
  SectionRows drift(rows, "drift", &Options::drift, kTraining | kDrift);
  drift.add("path", &D::path, any_value(), "file whose hidden states are compared",
            {.unset = "data.path"});
  drift.add("samples", &D::samples, at_least(1), "rows measured: the first ones of the file");
  drift.add("batch", &D::batch, at_least(1), "rows of one measured batch");
  drift.add("reference_path", &D::reference_path, any_value(),
            "Hugging Face directory that is compared with",
            {.unset = "model.path", .used_by = kDrift});
  drift.add("reference_merge", &D::reference_merge, any_value(),
            "PEFT directories merged into that one, in order (list)", {.used_by = kDrift});
  drift.add("interval", &D::interval, at_least(0), "steps between measurements; 0: only at the end",
            {.used_by = kTraining});
}

void add_eval(std::vector<OptionRow>& rows) {
  using E = EvalOptions;
  SectionRows eval(rows, "eval", &Options::eval, kEval);
  eval.add("harmful_path", &E::harmful_path, any_value(), "harmful prompts: harmful_score");
  eval.add("task_path", &E::task_path, any_value(), "task items: accuracy");
  eval.add("task", &E::task, any_value(), "how an answer is compared");
  eval.add("alignment_path", &E::alignment_path, any_value(), "safe answers: alignment_loss");
  eval.add("benign_path", &E::benign_path, any_value(), "harmless prompts: over_refusal");
  eval.add("judge", &E::judge, any_value(), "who decides what is harmful");
  eval.add("judge_path", &E::judge_path, any_value(), "keywords: file of refusal words, one a line",
           {.unset = "built in"});
  eval.add("max_new_tokens", &E::max_new_tokens, at_least(1), "longest answer, in token ids",
           {.used_by = kEval | kGenerate});
  eval.add("samples", &E::samples, at_least(1), "rows of each file", {.unset = "all"});
  eval.add("batch", &E::batch, at_least(1), "prompts answered at a time",
           {.used_by = kEval | kGenerate});
}

void add_checkpoint(std::vector<OptionRow>& rows) {
  using C = CheckpointOptions;
  SectionRows checkpoint(rows, "checkpoint", &Options::checkpoint, kTraining);
  checkpoint.add("interval", &C::interval, at_least(0), "steps between checkpoints; 0: on request");
  checkpoint.add("keep", &C::keep, at_least(2), "newest checkpoints that stay");
  Rule resume = one_of({"auto", "none"});
  resume.other = "PATH";
  checkpoint.add("resume", &C::resume, resume, "where to go on from");
  checkpoint.add("adapter_only", &C::adapter_only, any_value(), "leave the frozen weights out",
                 {.unset = "for lora", .used_by = kTraining | kPlan});
  checkpoint.add("path", &C::path, any_value(), "step-NNNNNN directory whose weights are exported",
                 {.used_by = kExport});
  checkpoint.add("signals", &C::signals, distinct(any_value()),
                 "signals that ask for a checkpoint and a stop (list)", {.unset = "none"});
  checkpoint.add("stop_limit_s", &C::stop_limit_s, above(0),
                 "time from such a signal to a forced end");
}

void add_output_and_runtime(std::vector<OptionRow>& rows) {
  SectionRows output(rows, "output", &Options::output, kWeightUsers);
  output.add("dir", &OutputOptions::dir, any_value(), "directory of everything that is written",
             {.used_by = kWeightUsers | kInit | kRebuild});
  output.add("overwrite", &OutputOptions::overwrite, any_value(),
             "replace the finished run in output.dir", {.used_by = kTraining});
  output.add("log_interval", &OutputOptions::log_interval, at_least(1),
             "steps between progress lines", {.used_by = kTraining});
  SectionRows runtime(rows, "runtime", &Options::runtime, kWeightUsers);
  runtime.add("threads", &RuntimeOptions::threads, at_least(1),
              "of a rank; by cores: cores / ranks of the node", {.unset = "by cores"});
  runtime.add("device", &RuntimeOptions::device, any_value(), "where tensors live",
              {.used_by = kWeightUsers | kPlan});
  runtime.add("progress", &RuntimeOptions::progress, any_value(),
              "who moves messages on during compute");
  runtime.add("graphs", &RuntimeOptions::graphs, any_value(), "capture and replay passes (GPU)",
              {.used_by = kTraining});
  runtime.add("timeout_s", &RuntimeOptions::timeout_s, at_least(0),
              "longest wait for other ranks; 0: for ever");
}

void add_plan(std::vector<OptionRow>& rows) {
  using P = PlanOptions;
  SectionRows plan(rows, "plan", &Options::plan, kPlan);
  plan.add("ranks", &P::ranks, at_least(1), "ranks of the run", {.unset = "of this one"});
  plan.add("ranks_per_node", &P::ranks_per_node, at_least(1), "of them on one node; divides ranks",
           {.unset = "all"});
  plan.add("schedule", &P::schedule, any_value(),
           "print what is gathered when; --schedule for short");
}

void add_init(std::vector<OptionRow>& rows) {
  using I = InitOptions;
  SectionRows init(rows, "init", &Options::init, kInit);
  init.add("vocab_size", &I::vocab_size, at_least(0), "rows of the embedding; 0: the tokenizer's");
  init.add("hidden_size", &I::hidden_size, at_least(1), "width of the residual stream");
  init.add("intermediate_size", &I::intermediate_size, at_least(1), "width inside the MLP");
  init.add("num_hidden_layers", &I::num_hidden_layers, at_least(1), "blocks");
  init.add("num_attention_heads", &I::num_attention_heads, at_least(1), "query heads");
  init.add("num_key_value_heads", &I::num_key_value_heads, at_least(1),
           "divides num_attention_heads", {.unset = "query heads"});
  init.add("head_dim", &I::head_dim, even(at_least(2)), "width of a head, even",
           {.unset = "hidden / heads"});
  init.add("max_position_embeddings", &I::max_position_embeddings, at_least(1),
           "longest sequence, in token ids");
  init.add("rms_norm_eps", &I::rms_norm_eps, above(0), "added to the mean square");
  init.add("rope_theta", &I::rope_theta, above(0), "base of the rotary frequencies");
  init.add("tie_word_embeddings", &I::tie_word_embeddings, any_value(), "head = embedding");
  init.add("attention_bias", &I::attention_bias, any_value(), "biases on q, k, v, o");
  init.add("initializer_range", &I::initializer_range, at_least(0), "deviation of the weights");
  init.add("tokenizer_path", &I::tokenizer_path, any_value(),
           "tokenizer.model, or a directory with a tokenizer");
  init.add("seed", &I::seed, any_value(), "of the weights");
}

std::vector<OptionRow> make_rows() {
  std::vector<OptionRow> rows;
  add_model(rows);
  add_adapter(rows);
  add_data(rows);
  add_train(rows);
  add_vaccine(rows);
  add_shard(rows);
  add_drift(rows);
  add_eval(rows);
  add_plan(rows);
  add_checkpoint(rows);
  add_output_and_runtime(rows);
  add_init(rows);
  return rows;
}

}  // namespace

const std::vector<OptionRow>& option_rows() {
  static const std::vector<OptionRow> kRows = make_rows();
  return kRows;
}

const OptionRow* find_option(std::string_view name) {
  const auto& rows = option_rows();
  const auto found = std::ranges::find(rows, name, &OptionRow::name);
  return found == rows.end() ? nullptr : &*found;
}

std::vector<std::string> option_names(SubcommandSet users) {
  std::vector<std::string> names;
  for (const OptionRow& row : option_rows()) {
    if ((row.used_by & users) != 0) names.push_back(row.name());
  }
  return names;
}

const std::vector<std::string>& template_names() {
  static const std::vector<std::string> kNames = {"alpaca", "llama2-chat", "vicuna", "plain"};
  return kNames;
}

}  // namespace vax::app
