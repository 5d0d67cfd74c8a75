// Embedding. Backward: tokens come sorted by id; the block that stands at the first token of an id
// adds all of them, in order, so that nothing is added by two blocks.
#include "ops/device/launch.h"
#include "ops/embedding.h"

namespace vax::ops::device {
namespace {

constexpr int kN = 4;  // elements of a vector: 16 bytes of fp32

template <typename T, bool kAligned>
__global__ void look_up(EmbeddingArgs args, unsigned blocks_per_row) {
  const auto [row, col] = row_place(blocks_per_row, kN);
  if (col >= args.cols) return;
  float v[kN];
  load_vector<kAligned>(row_of<T>(args.w, args.ids[row]), col, args.cols, v);
  store_vector<kAligned>(row_of<float>(args.x, row), col, args.cols, v);
}

template <bool kAligned>
__global__ void add_runs(EmbeddingBackwardArgs args, int64_t rows, unsigned blocks_per_row) {
  const auto [first, col] = row_place(blocks_per_row, kN);
  const int64_t id = args.sorted_ids[first];
  if (first > 0 && args.sorted_ids[first - 1] == id) return;
  if (col >= args.cols) return;
  float* dw = row_of<float>(args.dw, id);
  float sum[kN];
  load_vector<kAligned>(dw, col, args.cols, sum);
#pragma unroll 4
  for (int64_t at = first; at < rows; ++at) {
    if (args.sorted_ids[at] != id) break;
    float v[kN];
    load_vector<kAligned>(row_of<float>(args.dx, args.order[at]), col, args.cols, v);
#pragma unroll
    for (int i = 0; i < kN; ++i) sum[i] += v[i];
  }
  store_vector<kAligned>(dw, col, args.cols, sum);
}

void launch_embedding_forward(const EmbeddingArgs& args, int64_t, int64_t rows) {
  const RowGrid at = row_grid(rows, args.cols, kN);
  with_layout(args.w.elem, rows_aligned(args.w, kN) && rows_aligned(args.x, kN),
              [&](auto element, auto aligned) {
                launch(look_up<decltype(element), decltype(aligned)::value>, at.grid, at.block,
                       args, at.blocks_per_row);
              });
}

void launch_embedding_backward(const EmbeddingBackwardArgs& args, int64_t, int64_t rows) {
  const bool aligned = rows_aligned(args.dx, kN) && rows_aligned(args.dw, kN);
  const RowGrid at = row_grid(rows, args.cols, kN);
  launch(aligned ? add_runs<true> : add_runs<false>, at.grid, at.block, args, rows,
         at.blocks_per_row);
}

}  // namespace

const EmbeddingKernels embedding_kernels = {.forward = launch_embedding_forward,
                                            .backward = launch_embedding_backward};

}  // namespace vax::ops::device
