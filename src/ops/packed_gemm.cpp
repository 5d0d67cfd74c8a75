// The operand with fewer rows (columns) is packed first, whole, and shared by all threads; the
// other one is packed block by block, each block once, by the thread that multiplies it with all of
// the shared one. Blocks and the inner dimension's chunks are sized for the second-level cache; how
// many blocks there are depends on the threads, no result does.
#include "ops/packed_gemm.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "base/error.h"
#include "base/narrow.h"
#include "ops/parallel.h"
#include "ops/scratch.h"
#include "ops/tensor_rows.h"

namespace vax::ops {
namespace {

constexpr int64_t kChunkDepth = 384;                // words: a panel of A stays in the first level
constexpr int64_t kBlockWords = int64_t{96} << 10;  // of the streamed operand, second level
constexpr int64_t kSharedWords = int64_t{1} << 20;  // of the shared operand, third level

// One operand as panels.
struct Side {
  ConstRows source;
  bool turned;    // its rows are lanes of panels, not positions of the inner dimension
  int64_t count;  // rows of A or columns of B
  int64_t inner;
  int64_t width;  // of a panel
  void (*pack_panel)(const PackArgs&, float*);

  int64_t panels() const { return ceil_div(count, width); }
  int64_t lanes(int64_t panel) const { return std::min(width, count - panel * width); }
  void pack(int64_t panel, int64_t word, int64_t depth, float* to) const {
    const int64_t position = source.elem == Elem::kFloat ? word : 2 * word;
    const int64_t lane = panel * width;
    const ConstRows first = turned ? from(source, lane, position) : from(source, position, lane);
    pack_panel({.source = first.data,
                .elem = source.elem,
                .stride = source.stride,
                .turned = turned,
                .lanes = lanes(panel),
                .depth = depth,
                .inner = inner - position},
               to);
  }
};

class PackedGemm {
 public:
  PackedGemm(const PackedGemmKernels& kernels, const GemmArgs& args)
      : args_(args),
        tile_(args.a.stored.elem == Elem::kFloat ? kernels.tile_float : kernels.tile_bf16),
        a_{args.a.stored, !args.a.transposed, args.rows, args.inner, kernels.rows, kernels.pack_a},
        b_{args.b.stored, args.b.transposed, args.cols, args.inner, kernels.cols, kernels.pack_b},
        shares_a_(args.rows <= args.cols),
        words_(args.a.stored.elem == Elem::kFloat ? args.inner : ceil_div<int64_t>(args.inner, 2)) {
    const int64_t num_chunks = std::max<int64_t>(1, ceil_div(words_, kChunkDepth));
    chunk_depth_ = ceil_div(words_, num_chunks);
    const int64_t shared_lanes = shared().panels() * shared().width;
    const int64_t chunks = kSharedWords / std::max<int64_t>(1, shared_lanes * chunk_depth_);
    span_depth_ = std::clamp<int64_t>(chunks, 1, num_chunks) * chunk_depth_;
  }

  void run() {
    const Side& side = shared();
    AlignedBuffer own;
    AlignedBuffer& buffer = args_.scratch != nullptr ? args_.scratch->shared : own;
    float* packed = buffer.get(side.panels() * side.width * std::min(span_depth_, words_));
    for (int64_t word = 0; word < words_; word += span_depth_) {
      const int64_t depth = std::min(span_depth_, words_ - word);
      const int64_t panel_words = side.width * depth;
      split(side.panels(), grain_rows(panel_words), [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; ++p) side.pack(p, word, depth, packed + p * panel_words);
      });
      multiply_span(packed, word, depth);
    }
  }

 private:
  const Side& shared() const { return shares_a_ ? a_ : b_; }
  const Side& streamed() const { return shares_a_ ? b_ : a_; }

  template <typename Body>
  void split(int64_t count, int64_t grain, const Body& body) const {
    if (args_.scratch != nullptr) {
      body(0, count);
    } else {
      parallel_for(0, count, grain, body);
    }
  }

  void multiply_span(const float* packed, int64_t word, int64_t depth) const {
    const Side& side = streamed();
    const bool alone = args_.scratch != nullptr || !may_run_parallel();
    const int64_t fitting = std::max<int64_t>(1, kBlockWords / (side.width * chunk_depth_));
    const int64_t num_blocks =
        round_up<int64_t>(ceil_div(side.panels(), fitting), alone ? 1 : at::get_num_threads());
    const int64_t panels = ceil_div(side.panels(), num_blocks);
    split(num_blocks, 1, [&](int64_t begin, int64_t end) {
      AlignedBuffer own;
      AlignedBuffer& buffer = args_.scratch != nullptr ? args_.scratch->block : own;
      float* block = buffer.get(panels * side.width * chunk_depth_);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i * panels, last = std::min(first + panels, side.panels());
        for (int64_t done = 0; done < depth && first < last; done += chunk_depth_) {
          multiply_block({packed, depth, done}, {first, last}, word + done, block);
        }
      }
    });
  }

  struct SharedSpan {
    const float* packed;
    int64_t depth, done;  // words of the span, and those before this chunk
  };
  struct PanelRange {
    int64_t first, last;
  };

  void multiply_block(const SharedSpan& span, PanelRange range, int64_t word, float* block) const {
    const int64_t depth = std::min(chunk_depth_, span.depth - span.done);
    for (int64_t s = range.first; s < range.last; ++s)
      streamed().pack(s, word, depth, block + (s - range.first) * streamed().width * depth);
    for (int64_t p = 0; p < shared().panels(); ++p) {
      const float* fixed = span.packed + (p * span.depth + span.done) * shared().width;
      for (int64_t s = range.first; s < range.last; ++s) {
        const float* moving = block + (s - range.first) * streamed().width * depth;
        const int64_t row_panel = shares_a_ ? p : s, col_panel = shares_a_ ? s : p;
        tile_({.depth = depth,
               .a = shares_a_ ? fixed : moving,
               .b = shares_a_ ? moving : fixed,
               .c = args_.c + row_panel * a_.width * args_.c_stride + col_panel * b_.width,
               .c_stride = args_.c_stride,
               .rows = a_.lanes(row_panel),
               .cols = b_.lanes(col_panel),
               .alpha = args_.alpha,
               .accumulate = args_.accumulate || word > 0});
      }
    }
  }

  const GemmArgs& args_;
  void (*tile_)(const TileArgs&);
  Side a_, b_;
  bool shares_a_;
  int64_t words_;
  int64_t chunk_depth_ = 0;  // words of one chunk: a function of the inner dimension only
  int64_t span_depth_ = 0;   // words of the shared operand that are packed at a time
};

}  // namespace

void packed_gemm(const PackedGemmKernels& kernels, const GemmArgs& args) {
  const Elem elem = args.a.stored.elem;
  VAX_CHECK(args.b.stored.elem == elem, "operands must have one type");
  VAX_CHECK(elem == Elem::kFloat || (args.a.transposed && !args.b.transposed),
            "bf16 operands must have their rows along the inner dimension");
  if (args.rows == 0 || args.cols == 0) return;
  if (args.inner == 0) {
    for (int64_t row = 0; row < args.rows && !args.accumulate; ++row)
      std::fill_n(args.c + row * args.c_stride, args.cols, 0.0f);
    return;
  }
  PackedGemm(kernels, args).run();
}

}  // namespace vax::ops
