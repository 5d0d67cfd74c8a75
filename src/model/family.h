// Model families: how a config.json becomes a Spec and back. A family is one file pair in
// families/ and one line where the registry is made; nothing else knows its name.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "model/config_reader.h"
#include "model/init_options.h"
#include "model/spec.h"

namespace vax::model {

// What config.json says besides the model's shape.
struct ConfigNotes {
  std::string torch_dtype;  // "float32" | "bfloat16"
  int64_t bos_id = 0, eos_id = 0;
  double initializer_range = 0;
};

struct Family {
  std::string model_type;  // of config.json
  // THROWS DataError naming file, key, expected and found, for what is missing, ill-typed,
  // inconsistent or not supported.
  std::function<Spec(const ConfigReader& config)> read;
  // The text of a config.json that transformers loads.
  std::function<std::string(const Spec& spec, const ConfigNotes& notes)> write;
  // The shape that `vaccine init` is asked for. THROWS ConfigError naming the option.
  std::function<Spec(const InitOptions& options)> design;
};

// The families that a program knows, by model_type.
class Families {
 public:
  // THROWS std::logic_error for a second family of one model_type.
  void add(Family family);
  // THROWS ConfigError naming those that are known.
  const Family& find(std::string_view model_type) const;
  // The first that was added: what `vaccine init` makes. REQUIRES one.
  const Family& first() const { return families_.at(0); }

  // The spec that a config.json states. THROWS DataError, also for a model_type that is not known.
  Spec read(const std::filesystem::path& config_path) const;
  Spec parse(const std::string& json_text, const std::string& path) const;

 private:
  const Family* look_up(std::string_view model_type) const;
  std::string known() const;  // "\"a\" or \"b\""

  std::vector<Family> families_;
};

}  // namespace vax::model
