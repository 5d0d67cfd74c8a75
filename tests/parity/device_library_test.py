"""What the device operators rely on of LibTorch's CUDA operators (src/ops/device/library.h), asked of
the installed LibTorch itself: its functions for tensors without data say which shapes and types an
operator takes and gives, on machines without a GPU too. Values are tests/gpu's affair.
"""

import unittest

import torch

aten = torch.ops.aten
TOKENS, HEADS, KV_HEADS, DIM, SEQUENCES, LONGEST = 100, 8, 2, 64, 5, 40
PADDED_LONGEST = 64  # to a multiple of 32


def empty(*shape, dtype=torch.bfloat16):
    return torch.empty(*shape, dtype=dtype, device="meta")


def offsets():
    return empty(SEQUENCES + 1, dtype=torch.int32)


def fused(dtype):
    """q, k, v as views of one matrix, as the engine passes them."""
    qkv = empty(TOKENS, (HEADS + 2 * KV_HEADS) * DIM, dtype=dtype)
    q, k, v = qkv.split([HEADS * DIM, KV_HEADS * DIM, KV_HEADS * DIM], dim=1)
    return (q.unflatten(1, (HEADS, DIM)), k.unflatten(1, (KV_HEADS, DIM)),
            v.unflatten(1, (KV_HEADS, DIM)))


class DeviceLibrary(unittest.TestCase):
    def expect(self, tensor, shape, dtype):
        self.assertEqual((tuple(tensor.shape), tensor.dtype), (shape, dtype))

    def test_flash_attention_of_packed_sequences(self):
        q, k, v = fused(torch.bfloat16)
        o, lse = aten._flash_attention_forward(q, k, v, offsets(), offsets(), LONGEST, LONGEST, 0.0,
                                               True, False, scale=0.125)[:2]
        self.expect(o, (TOKENS, HEADS, DIM), torch.bfloat16)
        self.expect(lse, (HEADS, TOKENS), torch.float32)
        unused = empty(2, dtype=torch.uint64)
        grads = aten._flash_attention_backward(o, q, k, v, o, lse, offsets(), offsets(), LONGEST,
                                               LONGEST, 0.0, True, unused, unused, scale=0.125)
        for grad, of in zip(grads, (q, k, v), strict=True):
            self.expect(grad, tuple(of.shape), torch.bfloat16)

    def test_efficient_attention_of_packed_sequences(self):
        q = fused(torch.float32)[0].unsqueeze(0)  # as many key heads as query heads
        o, lse = aten._efficient_attention_forward(q, q, q, None, offsets(), offsets(), LONGEST,
                                                   LONGEST, 0.0, 1, True, scale=0.125)[:2]
        self.expect(o, (1, TOKENS, HEADS, DIM), torch.float32)
        self.expect(lse, (SEQUENCES, HEADS, PADDED_LONGEST), torch.float32)

    def test_products_with_an_fp32_result(self):
        a, b = empty(64, TOKENS), empty(64, 48)
        self.expect(aten.mm.dtype(a.t(), b, torch.float32), (TOKENS, 48), torch.float32)
        self.assertIn("dtype_out", aten.addmm.overloads())

    def test_scaled_products_by_row_with_any_number_of_rows(self):
        w = empty(48, 64, dtype=torch.float8_e4m3fn).t()
        for rows in (1, 33, 100):
            x = empty(rows, 64, dtype=torch.float8_e4m3fn)
            for bias in (None, empty(48)):
                y = aten._scaled_mm(x, w, empty(rows, 1, dtype=torch.float32),
                                    empty(1, 48, dtype=torch.float32), bias, None, torch.bfloat16,
                                    True)
                self.expect(y, (rows, 48), torch.bfloat16)

    def test_scaled_products_want_multiples_of_16(self):
        w = empty(40, 64, dtype=torch.float8_e4m3fn).t()
        with self.assertRaises(RuntimeError):
            aten._scaled_mm(empty(16, 64, dtype=torch.float8_e4m3fn), w,
                            empty(16, 1, dtype=torch.float32), empty(1, 40, dtype=torch.float32),
                            None, None, torch.bfloat16, True)


if __name__ == "__main__":
    unittest.main()
