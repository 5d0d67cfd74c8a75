// SwiGLU, rotary embedding, conversion between fp32 and bf16 with scale and mask.

namespace vax::ops::VAX_KERNEL_TARGET {

void swiglu_forward(const SwigluArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    with_row(args.gate_up, row, [&](const auto* gate) {
      with_row(args.out, row, [&](auto* y) {
        const auto* up = gate + args.cols;
        for_vectors(0, args.cols, [&](int64_t i, auto part) {
          const VecF g = load(gate + i, part);
          store(y + i, g * sigmoid(g) * load(up + i, part), part);
        });
      });
    });
  }
}

template <typename T>
inline void swiglu_backward_row(const T* dy, const T* gate, T* dgate, int64_t cols) {
  for_vectors(0, cols, [&](int64_t i, auto part) {
    const VecF dy_i = load(dy + i, part);
    const VecF g = load(gate + i, part);
    const VecF u = load(gate + cols + i, part);
    const VecF s = sigmoid(g);
    store(dgate + i, dy_i * u * s * multiply_add(g, 1.0f - s, splat(1.0f)), part);
    store(dgate + cols + i, dy_i * (g * s), part);
  });
}

void swiglu_backward(const SwigluArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    if (args.out.elem == Elem::kFloat) {
      swiglu_backward_row(row_of<float>(args.dy, row), row_of<float>(args.gate_up, row),
                          row_of<float>(args.out, row), args.cols);
    } else {
      swiglu_backward_row(row_of<Bf16>(args.dy, row), row_of<Bf16>(args.gate_up, row),
                          row_of<Bf16>(args.out, row), args.cols);
    }
  }
}

template <typename T>
inline void rotate_head(T* x, const float* cos, const float* sin, int64_t half_dim, float sign) {
  for_vectors(0, half_dim, [&](int64_t i, auto part) {
    const VecF x1 = load(x + i, part);
    const VecF x2 = load(x + half_dim + i, part);
    const VecF c = load(cos + i, part);
    const VecF s = load(sin + i, part) * sign;
    store(x + i, multiply_add(x1, c, -(x2 * s)), part);
    store(x + half_dim + i, multiply_add(x2, c, x1 * s), part);
  });
}

void rotary(const RotaryArgs& args, int64_t begin, int64_t end) {
  for (int64_t token = begin; token < end; ++token) {
    const int64_t angles = args.positions[token] * args.angle_stride;
    with_row(args.x, token, [&](auto* x) {
      for (int64_t head = 0; head < args.num_heads; ++head) {
        rotate_head(x + head * args.head_stride, args.cos + angles, args.sin + angles,
                    args.half_dim, args.sign);
      }
    });
  }
}

void convert(const ConvertArgs& args, int64_t rows) {
  for (int64_t row = 0; row < rows; ++row) {
    const float scale = args.row_scale == nullptr ? args.scale : args.scale * args.row_scale[row];
    const uint8_t* mask = args.mask == nullptr ? nullptr : args.mask + row * args.mask_stride;
    with_row(args.src, row, [&](const auto* src) {
      with_row(args.dst, row, [&](auto* dst) {
        for_vectors(0, args.cols, [&](int64_t i, auto part) {
          const VecF v = load(src + i, part) * scale;
          store(dst + i, mask == nullptr ? v : keep(v, mask, i), part);
        });
      });
    });
  }
}

}  // namespace vax::ops::VAX_KERNEL_TARGET
