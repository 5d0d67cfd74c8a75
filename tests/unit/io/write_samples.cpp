// Writes files through io/ for tests/parity/files_parity.py, which reads them with the Python
// packages that users have.
//
//   write_samples run DIR           run.jsonl, run.h5, bf16.h5, mixed.safetensors of known numbers
//   write_samples rebuild JSONL H5  run.h5 from run.jsonl
//   write_samples model IN OUT      reads a Hugging Face directory, writes it again in shards
//   write_samples adapter IN OUT    reads a PEFT adapter and writes it again
#include <array>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <span>

#include "base/atomic_file.h"
#include "base/error.h"
#include "io/hdf5_dataset.h"
#include "io/huggingface_writer.h"
#include "io/peft_adapter.h"
#include "io/run_file.h"
#include "io/run_rebuild.h"
#include "io/weights.h"
#include "sample_records.h"

namespace vax::io {
namespace {

namespace fs = std::filesystem;

constexpr std::array<uint16_t, 4> kBF16 = {0x3f80, 0xc020, 0x0001, 0x7f7f};

void write_run(const fs::path& dir) {
  RunLog log(dir / "run.jsonl", testing::sample_figures());
  RunFile file(dir / "run.h5", testing::sample_figures(), {"[train]\nlr = 0.001\n", "0.1.0"});
  log.write(testing::sample_start());
  for (int64_t step = 1; step <= 6; ++step) {
    StepRecord record = testing::sample_step(step);
    if (step == 5) record.clean_loss = std::numeric_limits<double>::infinity();
    log.write(record);
    file.append(record);
    if (step % 2 == 0) {
      log.write(testing::sample_drift(step));
      file.append(testing::sample_drift(step));
    }
    file.flush();
  }
  log.write(testing::sample_memory());
  file.append(testing::sample_memory());
  log.write(testing::sample_checkpoint(6));
  log.write(testing::sample_resume(6));
  file.append(testing::sample_resume(6));
  log.write(EndRecord{"done", 6, 1.5});
  file.flush();
}

void write_bf16(const fs::path& path) {
  const std::vector<std::byte> bytes = file_image("bf16", [](hid_t file) {
    const Hdf5Type type = bf16_type();
    create_filled(file, "w", type.get(), type.get(), {{4}}, kBF16.data()).close("w");
  });
  PosixFile::create(path, path).write(bytes);
}

void write_mixed(const fs::path& path) {
  const std::array<float, 6> numbers = {0, 1, 2, 3, 4, 5};
  const std::array<int64_t, 1> integer = {-7};
  const std::array<TensorToWrite, 3> tensors = {
      tensor_in_memory("bf16", DType::kBF16, {2, 2}, kBF16.data()),
      tensor_in_memory("fp32", DType::kF32, {2, 3}, numbers.data()),
      tensor_in_memory("scalar", DType::kI64, {}, integer.data())};
  write_safetensors(path, tensors);
}

// Streams every tensor in pieces, as a checkpoint larger than the memory would be.
TensorToWrite streamed(const WeightDirectory& weights, const TensorInfo& info) {
  TensorToWrite tensor{info.name, info.dtype, info.shape, {}};
  tensor.source = [&weights, &info](const ByteSink& sink) {
    std::vector<std::byte> bytes(static_cast<size_t>(info.num_bytes()));
    weights.read_bytes(info, bytes);
    const size_t half = bytes.size() / 2;
    sink(std::span(bytes).first(half));
    sink(std::span(bytes).subspan(half));
  };
  return tensor;
}

void rewrite_model(const fs::path& in, const fs::path& out) {
  const WeightDirectory weights = WeightDirectory::open(in);
  std::vector<TensorToWrite> tensors;
  for (const std::string& name : weights.names())
    tensors.push_back(streamed(weights, weights.at(name)));
  HuggingFaceContents contents;
  contents.config_json = read_file(in / "config.json");
  contents.tensors = tensors;
  contents.max_shard_bytes = 6000;
  contents.tokenizer_dir = in;
  write_huggingface_directory(out, contents);
}

void rewrite_adapter(const fs::path& in, const fs::path& out) {
  const PeftAdapter adapter = PeftAdapter::open(in);
  std::vector<std::vector<float>> data;
  std::vector<AdapterTensor> tensors;
  data.reserve(2 * adapter.modules().size());
  for (const AdapterModule& module : adapter.modules()) {
    for (const TensorInfo* info : {module.a, module.b}) {
      std::vector<float>& values = data.emplace_back(static_cast<size_t>(info->num_elements()));
      adapter.read_elements(*info, 0, info->num_elements(), values.data(), TargetType::kFloat32);
      tensors.push_back({info->name, info->shape, values});
    }
  }
  write_adapter(out, adapter.config(), tensors);
}

int run(std::span<char*> args) {
  const std::string command = args.size() > 1 ? args[1] : "";
  if (command == "run" && args.size() == 3) {
    write_run(args[2]);
    write_bf16(fs::path(args[2]) / "bf16.h5");
    write_mixed(fs::path(args[2]) / "mixed.safetensors");
  } else if (command == "rebuild" && args.size() == 4) {
    rebuild_run_file(args[2], testing::sample_figures(), args[3]);
  } else if (command == "model" && args.size() == 4) {
    rewrite_model(args[2], args[3]);
  } else if (command == "adapter" && args.size() == 4) {
    rewrite_adapter(args[2], args[3]);
  } else {
    std::fprintf(
        stderr,
        "usage: write_samples run DIR | rebuild JSONL H5 | model IN OUT | adapter IN OUT\n");
    return 2;
  }
  return 0;
}

}  // namespace
}  // namespace vax::io

int main(int argc, char** argv) {
  try {
    return vax::io::run({argv, static_cast<size_t>(argc)});
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
