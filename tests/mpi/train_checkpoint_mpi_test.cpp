// Checkpoints of a sharded state: what one layout of ranks has written, any other reads back bit
// for bit; a rank that cannot write spoils no more than the checkpoint; stops are agreed on.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "base/philox.h"
#include "io/checkpoint_directory.h"
#include "support/tiny_llama.h"
#include "train/checkpointer.h"
#include "train/resume.h"

namespace vax::train {
namespace {

namespace fs = std::filesystem;

// What an element of the state has in these tests: a function of its name, kind and place alone.
float value_of(std::string_view kind, const std::string& name, int64_t element) {
  const uint64_t bits =
      mix64(hash_name(kind) ^ mix64(hash_name(name) + static_cast<uint64_t>(element)));
  return static_cast<float>(bits % 100'000) / 256.0F;
}

// A method that carries a vector and numbers from step to step.
class Carrying final : public Method {
 public:
  StepOutcome step(Engine&) override { return {}; }
  MethodState state() const override { return {{"cursor", cursor}, {"odds", {0.1, 1.0 / 3}}}; }
  void set_state(const MethodState& state) override { cursor = state.at("cursor"); }

  std::vector<double> cursor = {1, 2};
};

MethodMaker carrying() {
  return {.declaration = {.vectors = {{"scratch", false}, {"anchor", true}}},
          .make = [](const MethodContext&) { return std::make_unique<Carrying>(); }};
}

// An engine on some of the ranks, with a method that has state.
struct State {
  State(const ModelRequest& request, const dist::Communicator& ranks,
        const dist::Communicator& node)
      : engine(make_engine(request, make_mesh(ranks, node, request.shard, request.train_base))),
        model(engine->state()) {
    engine->add_method(carrying());
  }
  static std::unique_ptr<TrainingEngine> make_engine(const ModelRequest& request, Mesh mesh) {
    auto state = ModelState::load(request, testing::read_tiny_spec(request.model.path), mesh);
    return std::make_unique<TrainingEngine>(std::move(mesh), std::move(state), EngineSettings{});
  }

  std::vector<StateArray> arrays(bool adapter_only) { return state_arrays(*engine, adapter_only); }

  // Calls visit(kind, name, first element, [n] view of the state) for what this rank has.
  template <typename Visit>
  void for_each_stretch(bool adapter_only, const Visit& visit) {
    for (const StateArray& array : arrays(adapter_only))
      for (const FlatGroup& group : array.unit->groups)
        for (const FlatMember& member : group.members) {
          const int64_t begin = std::max(array.partition.begin, member.offset);
          const int64_t end = std::min(array.partition.end, member.offset + member.count);
          if (begin < end)
            visit(array.kind, member.name, begin - member.offset,
                  array.shard.narrow(0, begin - array.partition.begin, end - begin));
        }
  }

  static at::Tensor expected(std::string_view kind, const std::string& name, int64_t first,
                             const at::Tensor& like) {
    at::Tensor values = at::empty({like.numel()}, at::kFloat);
    for (int64_t i = 0; i < like.numel(); ++i)
      values.data_ptr<float>()[i] = value_of(kind, name, first + i);
    return values.to(like.scalar_type());
  }
  void fill(bool adapter_only) {
    model.begin_update();
    for_each_stretch(adapter_only,
                     [](std::string_view kind, const std::string& name, int64_t first,
                        const at::Tensor& part) { part.copy_(expected(kind, name, first, part)); });
    model.publish();
  }
  void clear(bool adapter_only) {
    model.begin_update();
    for_each_stretch(adapter_only, [](std::string_view, const std::string&, int64_t,
                                      const at::Tensor& part) { part.fill_(-7); });
    model.publish();
  }
  void expect_filled(bool adapter_only) {
    for_each_stretch(adapter_only, [](std::string_view kind, const std::string& name, int64_t first,
                                      const at::Tensor& part) {
      EXPECT_TRUE(at::equal(part, expected(kind, name, first, part)))
          << kind << " " << name << " from " << first;
    });
  }

  Carrying& method() { return static_cast<Carrying&>(engine->method()); }

  std::unique_ptr<TrainingEngine> engine;
  ModelState& model;
};

// While it lives, files of this process may not grow beyond 1000 bytes, if `applies`. States in
// these tests have some KiB.
class FileLimit {
 public:
  explicit FileLimit(bool applies) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit small{.rlim_cur = 1000, .rlim_max = before_.rlim_max};
    if (applies) ::setrlimit(RLIMIT_FSIZE, &small);
  }
  FileLimit(const FileLimit&) = delete;
  FileLimit& operator=(const FileLimit&) = delete;
  ~FileLimit() { ::setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

class CheckpointTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = std::make_unique<testing::SharedDirectory>(
        dist::Communicator::world(), [](const fs::path& path) {
          testing::write_tiny_model(path / "base", testing::tiny_config(), 1);
          testing::write_tiny_model(path / "tied", testing::tiny_config(true), 1);
        });
  }
  static void TearDownTestSuite() { directory_.reset(); }

  static ModelRequest request(bool full_parameters, const ShardOptions& shard = {}) {
    ModelRequest request;
    request.model.path = (*directory_ / (full_parameters ? "tied" : "base")).string();
    request.train_base = full_parameters;
    if (!full_parameters) request.adapter = AdapterOptions{.r = 3};
    request.shard = shard;
    return request;
  }
  int node_size() const { return world_.size() % 2 == 0 ? 2 : world_.size(); }
  std::unique_ptr<State> make_state(const ModelRequest& request, const dist::Communicator& ranks) {
    const int size = ranks.size() % node_size() == 0 ? node_size() : ranks.size();
    return std::make_unique<State>(request, ranks, ranks.split(ranks.rank() / size));
  }
  std::vector<ShardOptions> placements(int num_ranks) const {
    std::vector<ShardOptions> all = {
        {},
        {.frozen = Placement::kNode, .trainable = Placement::kNode},
        {.frozen = Placement::kReplicate, .trainable = Placement::kReplicate}};
    if (num_ranks % 2 == 0) all.push_back({.group_size = num_ranks / 2});
    return all;
  }

  // Every rank of `ranks` has a Checkpointer without log.
  struct Writer {
    Writer(State& state, const dist::Communicator& ranks, const fs::path& directory,
           const CheckpointOptions& checkpoint, bool adapter_only = true)
        : options(checkpoint), outputs(open_outputs(ranks, directory)) {
      io::CheckpointManifest description{.program_version = "test", .config = "[train]\n"};
      description.world_size = ranks.size();
      description.position = {.num_steps = 1000, .steps_per_epoch = 7, .seed = 5};
      checkpointer.emplace(CheckpointerInputs{.options = options,
                                              .world = ranks,
                                              .engine = *state.engine,
                                              .adapter_only = adapter_only,
                                              .root = directory / "checkpoints",
                                              .description = std::move(description),
                                              .requests = RequestFiles(directory),
                                              .outputs = outputs.get()});
    }
    static std::unique_ptr<RunOutputs> open_outputs(const dist::Communicator& ranks,
                                                    const fs::path& directory) {
      std::unique_ptr<RunOutputs> outputs;
      if (ranks.rank() == 0)
        outputs = std::make_unique<RunOutputs>(
            RunDescription{.directory = directory,
                           .config_text = "[train]\n",
                           .start = {.version = "test", .config_json = "{}"},
                           .log_interval = 1000});
      ranks.make_collectives()->barrier();
      return outputs;
    }
    void save(int64_t step) {
      checkpointer->after_step(step, false);
      checkpointer->finish();
    }

    CheckpointOptions options;
    std::unique_ptr<RunOutputs> outputs;
    std::optional<Checkpointer> checkpointer;
  };

  fs::path fresh(const std::string& name) { return *directory_ / name; }

  void SetUp() override { ::signal(SIGXFSZ, SIG_IGN); }

  dist::Communicator world_ = dist::Communicator::world();
  std::unique_ptr<dist::Collectives> all_ = world_.make_collectives();
  static inline std::unique_ptr<testing::SharedDirectory> directory_;
};

// Written by the first k ranks in one placement, read by all ranks in another.
TEST_F(CheckpointTest, AnyLayoutReadsWhatAnyOtherHasWritten) {
  int number = 0;
  for (const bool full_parameters : {false, true})
    for (int num_writers = 1; num_writers <= world_.size(); ++num_writers) {
      const dist::Communicator part = world_.split(world_.rank() < num_writers ? 0 : 1);
      for (const ShardOptions& written : placements(num_writers)) {
        const fs::path directory = fresh(cat("layouts-", number++));
        if (world_.rank() < num_writers) {
          const auto state = make_state(request(full_parameters, written), part);
          state->fill(false);
          state->method().cursor = {static_cast<double>(number), 0.1};
          Writer(*state, part, directory, {.interval = 5}, false).save(5);
        }
        all_->barrier();
        const io::CheckpointReader reader =
            open_checkpoint(world_, directory / "checkpoints" / "step-000005");
        for (const ShardOptions& read : placements(world_.size())) {
          const auto state = make_state(request(full_parameters, read), world_);
          state->clear(false);
          state->model.begin_update();
          read_state(reader, *state->engine);
          state->model.publish();
          state->expect_filled(false);
          EXPECT_EQ(state->engine->optimizer().num_updates(), 5);
          EXPECT_EQ(state->method().cursor,
                    (std::vector<double>{static_cast<double>(number), 0.1}));
        }
      }
    }
}

// Copies are left out: all placements together write as many bytes as one rank alone would.
TEST_F(CheckpointTest, EveryElementIsWrittenOnce) {
  std::vector<int64_t> written;
  int number = 0;
  for (const ShardOptions& shard : placements(world_.size())) {
    const fs::path directory = fresh(cat("once-", number++));
    const auto state = make_state(request(false, shard), world_);
    Writer writer(*state, world_, directory, {.interval = 1}, false);
    writer.save(1);
    int64_t num_bytes = writer.checkpointer->snapshot_bytes();
    all_->all_reduce(&num_bytes, 1, dist::DataType::kInt64, dist::ReduceOp::kSum).wait();
    written.push_back(num_bytes);
  }
  EXPECT_GT(written[0], 0);
  EXPECT_EQ(written, std::vector<int64_t>(written.size(), written[0]));
}

TEST_F(CheckpointTest, AdapterOnlyLeavesFrozenWeightsOutAndAlone) {
  const fs::path directory = fresh("adapter-only");
  const auto state = make_state(request(false), world_);
  state->fill(false);
  Writer(*state, world_, directory, {.interval = 1}).save(1);
  const io::CheckpointReader reader =
      open_checkpoint(world_, directory / "checkpoints" / "step-000001");
  for (const io::CheckpointUnit& unit : reader.manifest().units) EXPECT_EQ(unit.plane, "trainable");
  state->clear(true);
  state->model.begin_update();
  read_state(reader, *state->engine);
  state->model.publish();
  state->expect_filled(false);
}

TEST_F(CheckpointTest, TheSameStateGivesTheSameBytes) {
  const fs::path directory = fresh("same-bytes");
  const auto state = make_state(request(true), world_);
  state->fill(true);
  Writer writer(*state, world_, directory, {.interval = 1});
  writer.save(1);
  writer.save(2);
  const auto hashes = [&](const char* name) {
    std::vector<std::string> all;
    const io::CheckpointReader reader = open_checkpoint(world_, directory / "checkpoints" / name);
    for (const io::CheckpointFile& file : reader.manifest().files)
      if (file.name != "index.h5") all.push_back(file.name + file.sha256);
    return all;
  };
  EXPECT_EQ(hashes("step-000001"), hashes("step-000002"));
}

// Training goes on while a checkpoint is written: what is stored are the weights of its step.
TEST_F(CheckpointTest, LaterUpdatesDoNotReachACheckpoint) {
  const fs::path directory = fresh("snapshot");
  const auto state = make_state(request(true), world_);
  state->fill(true);
  Writer writer(*state, world_, directory, {.interval = 2});
  EXPECT_FALSE(writer.checkpointer->after_step(2, false));
  state->clear(true);
  writer.checkpointer->finish();
  const io::CheckpointReader reader =
      open_checkpoint(world_, directory / "checkpoints" / "step-000002");
  state->model.begin_update();
  read_state(reader, *state->engine);
  state->model.publish();
  state->expect_filled(true);
}

TEST_F(CheckpointTest, KeepsTheNewest) {
  const fs::path directory = fresh("keep");
  const auto state = make_state(request(false), world_);
  Writer writer(*state, world_, directory, {.interval = 3, .keep = 2});
  for (int64_t step = 1; step <= 12; ++step) writer.checkpointer->after_step(step, step == 12);
  writer.checkpointer->finish();
  all_->barrier();
  std::vector<int64_t> steps;
  for (const io::CheckpointEntry& entry : io::list_checkpoints(directory / "checkpoints"))
    steps.push_back(entry.step);
  EXPECT_EQ(steps, (std::vector<int64_t>{12, 9}));
  EXPECT_EQ(writer.checkpointer->newest(), directory / "checkpoints" / "step-000012");
}

TEST_F(CheckpointTest, ModelsThatDoNotFitAreRefusedBeforeAnythingChanges) {
  const fs::path directory = fresh("misfit");
  const auto state = make_state(request(false), world_);
  state->fill(true);
  Writer(*state, world_, directory, {.interval = 1}).save(1);
  const io::CheckpointReader reader =
      open_checkpoint(world_, directory / "checkpoints" / "step-000001");
  ModelRequest wider = request(false);
  wider.adapter->r = 4;
  ModelRequest fewer = request(false);
  fewer.adapter->targets = {"q_proj"};
  for (const ModelRequest& other : {wider, fewer, request(true)}) {
    const auto misfit = make_state(other, world_);
    misfit->fill(true);
    misfit->model.begin_update();
    EXPECT_THROW(read_state(reader, *misfit->engine), DataError);
    misfit->model.publish();
    misfit->expect_filled(true);
    EXPECT_EQ(misfit->engine->optimizer().num_updates(), 0);
  }
}

TEST_F(CheckpointTest, ARankThatCannotWriteSpoilsThisCheckpointOnly) {
  const fs::path directory = fresh("unwritable");
  const auto state = make_state(request(false), world_);
  Writer writer(*state, world_, directory, {.interval = 1});
  writer.save(1);
  const fs::path root = directory / "checkpoints";
  ASSERT_TRUE(writer.checkpointer->newest());
  {
    const FileLimit limit(world_.rank() == world_.size() - 1);
    EXPECT_FALSE(writer.checkpointer->after_step(2, false));
    writer.checkpointer->finish();
  }
  all_->barrier();
  EXPECT_FALSE(fs::exists(io::writing_path(root, 2)));
  EXPECT_EQ(*writer.checkpointer->newest(), root / "step-000001");
  writer.save(3);
  EXPECT_EQ(*writer.checkpointer->newest(), root / "step-000003");
  all_->barrier();
  EXPECT_EQ(io::list_checkpoints(root).size(), 2U);
}

TEST_F(CheckpointTest, ASignalToOneRankStopsAllAfterACheckpoint) {
  const fs::path directory = fresh("signal");
  const auto state = make_state(request(false), world_);
  Writer writer(*state, world_, directory, {});
  const StopSignals signals({StopSignal::kUsr1}, 100, 3);
  EXPECT_FALSE(writer.checkpointer->after_step(1, false));
  if (world_.rank() == world_.size() - 1) ::raise(SIGUSR1);
  ASSERT_TRUE(writer.checkpointer->after_step(2, false));
  EXPECT_EQ(*writer.checkpointer->newest(), directory / "checkpoints" / "step-000002");
  EXPECT_NO_THROW(open_checkpoint(world_, *writer.checkpointer->newest()));
}

TEST_F(CheckpointTest, AStopInTheLastStepIsTheEnd) {
  const auto state = make_state(request(false), world_);
  Writer writer(*state, world_, fresh("last"), {});
  const StopSignals signals({StopSignal::kUsr1}, 100, 3);
  ::raise(SIGUSR1);
  EXPECT_FALSE(writer.checkpointer->after_step(9, true));
  EXPECT_FALSE(writer.checkpointer->newest());
}

TEST_F(CheckpointTest, AStopWithoutACheckpointIsAnErrorOfAllRanks) {
  const fs::path directory = fresh("stop-fails");
  const auto state = make_state(request(false), world_);
  Writer writer(*state, world_, directory, {});
  if (world_.rank() == 0) std::ofstream(directory / "checkpoints") << "in the way";
  const StopSignals signals({StopSignal::kUsr1}, 100, 3);
  if (world_.rank() == 0) ::raise(SIGUSR1);
  EXPECT_THROW(writer.checkpointer->after_step(2, false), CheckpointFailed);
}

TEST_F(CheckpointTest, AStopNamesTheRankThatCannotWrite) {
  const fs::path directory = fresh("stop-names");
  const auto state = make_state(request(false), world_);
  Writer writer(*state, world_, directory, {});
  const int last = world_.size() - 1;
  const StopSignals signals({StopSignal::kUsr1}, 100, 3);
  ::raise(SIGUSR1);
  const FileLimit limit(world_.rank() == last);
  try {
    writer.checkpointer->after_step(2, false);
    ADD_FAILURE() << "no error";
  } catch (const CheckpointFailed& e) {
    EXPECT_NE(std::string(e.what()).find(cat("written: rank ", last, ": ")), std::string::npos)
        << e.what();
  }
}

TEST_F(CheckpointTest, FilesAskForASaveAndForAStop) {
  const fs::path directory = fresh("requests");
  const auto state = make_state(request(false), world_);
  Writer writer(*state, world_, directory, {});
  const auto touch = [&](const char* name) {
    if (world_.rank() == 0) std::ofstream(directory / name) << "";
    // The files are looked for twice a second.
    std::this_thread::sleep_for(std::chrono::milliseconds(600));
  };
  EXPECT_FALSE(writer.checkpointer->after_step(1, false));
  touch("save");
  EXPECT_FALSE(writer.checkpointer->after_step(2, false));
  writer.checkpointer->finish();
  EXPECT_EQ(*writer.checkpointer->newest(), directory / "checkpoints" / "step-000002");
  EXPECT_FALSE(writer.checkpointer->after_step(3, false)) << "one request, one checkpoint";
  EXPECT_EQ(*writer.checkpointer->newest(), directory / "checkpoints" / "step-000002");
  touch("stop");
  EXPECT_TRUE(writer.checkpointer->after_step(4, false));
  all_->barrier();
  EXPECT_FALSE(fs::exists(directory / "save"));
  EXPECT_TRUE(fs::exists(directory / "stop"));
  all_->barrier();
  RequestFiles files(directory);
  EXPECT_TRUE(world_.rank() != 0 || files.forget());
  all_->barrier();
  EXPECT_FALSE(fs::exists(directory / "stop"));
}

TEST_F(CheckpointTest, ResumeTakesTheNewestThatVerifiesAndNamesTheOthers) {
  const fs::path directory = fresh("resume"), root = directory / "checkpoints";
  const auto state = make_state(request(false), world_);
  EXPECT_FALSE(find_newest_checkpoint(world_, root).reader);
  Writer writer(*state, world_, directory, {.interval = 1, .keep = 3});
  for (int64_t step = 1; step <= 3; ++step) writer.save(step);
  const auto damage = [&](const char* file) {
    if (world_.rank() == 0) {
      std::fstream bytes(root / file, std::ios::in | std::ios::out | std::ios::binary);
      bytes.seekg(100);
      const auto byte = static_cast<char>(bytes.get() ^ 1);
      bytes.seekp(100);
      bytes.put(byte);
    }
    all_->barrier();
  };
  EXPECT_EQ(find_newest_checkpoint(world_, root).reader->manifest().position.step, 3);
  damage("step-000003/rank-00000.h5");
  damage("step-000002/manifest.json");
  const FoundCheckpoint found = find_newest_checkpoint(world_, root);
  ASSERT_TRUE(found.reader);
  EXPECT_EQ(found.reader->manifest().position.step, 1);
  ASSERT_EQ(found.rejected.size(), 2U);
  EXPECT_EQ(found.rejected[0].path, (root / "step-000003").string());
  EXPECT_NE(found.rejected[0].reason.find("rank-00000.h5"), std::string::npos);
  EXPECT_NE(found.rejected[1].reason.find("manifest.json"), std::string::npos);
  damage("step-000001/index.h5");
  try {
    find_newest_checkpoint(world_, root);
    ADD_FAILURE() << "none verifies";
  } catch (const DataError& e) {
    for (const char* name : {"step-000001", "step-000002", "step-000003", "index.h5"})
      EXPECT_NE(std::string(e.what()).find(name), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace vax::train
