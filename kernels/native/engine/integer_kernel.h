// y = x W^T over int8 and int4 panels. Included inside a namespace, after simd_*.h and elementwise_kernel.h.
//
// x is rounded to 8 bits by blocks of 32 (quantise). A block's products are summed as whole numbers, which is exact;
// an output is then one chain of fused multiply-adds in the order of the blocks: results are the same bit by bit for
// any number of rows and threads, and, but for rounding in that chain, in all instruction sets.

constexpr int64_t kPrefetch = 2048;  // bytes ahead; the hardware's own prefetch stops at each page

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// One row of x: for each block scale = max |x| / 127, q = x / scale to the nearest, and the sum of q. A block with a
// value that is infinite or none gets NaN for its scale, so that a product can't make numbers of it; one of values so
// small that 127 / max |x| overflows is 0.
inline void quantise(const LinearCall& call, int64_t m) {
  const Activations& to = call.quantised;
  const float* x = call.x + m * call.ldx;
  for (int64_t b = 0; b < to.blocks; ++b) {
    const int64_t count = smaller(kBlock, call.w->k - b * kBlock);
    vf v[kVectors];
    for (int j = 0; j < kVectors; ++j) {
      const int64_t left = count - j * kWidth;
      v[j] = left <= 0 ? zero() : get<Floats>(x + b * kBlock + j * kWidth, smaller(left, kWidth));
    }
    vf top = zero(), spoilt = zero();
    for (int j = 0; j < kVectors; ++j) {
      top = max(top, max(v[j], zero() - v[j]));
      spoilt = spoilt + (v[j] - v[j]);
    }
    const float highest = largest(top), none = sum(spoilt);  // 0 or NaN
    const bool usable = none == 0.0f && highest > 1e-36f;
    const float inverse = usable ? 127.0f / highest : 0.0f;
    vi q[kVectors];
    vf total = zero();
    for (int j = 0; j < kVectors; ++j) {
      q[j] = usable ? nearest(v[j] * set1(inverse)) : vi{};
      total = total + to_floats(q[j]);
    }
    const int64_t at = m * to.blocks + b;
    store_bytes(to.q + at * kBlock, q);
    to.scale[at] = usable ? highest / 127.0f : none;
    to.total[at] = static_cast<int32_t>(sum(total));
  }
}

// Sums of products of one block for M rows of x and P vectors of outputs, which fit the registers.
template <int F, int M, int P>
inline void block_products(const uint8_t* p, const Activations& x, int64_t at, vi (*acc)[P]) {
  const int8_t* q = x.q + at * kBlock;
  const int64_t row = x.blocks * kBlock;
  for (int m = 0; m < M; ++m)
    for (int j = 0; j < P; ++j) acc[m][j] = F == kInt8 ? signed_start(x.total[at + m * x.blocks]) : vi{};
  if constexpr (F == kInt8) {
#pragma GCC unroll 1
    for (int r = 0; r < 8; ++r) {  // unrolled, GCC 12 regroups the sums and spills all products
      __builtin_prefetch(p + kPrefetch);
      if (P == kVectors) __builtin_prefetch(p + kPrefetch + 64);
      vi w[P];
      for (int j = 0; j < P; ++j) w[j] = signed_bytes(p + 4 * kWidth * j);
      for (int m = 0; m < M; ++m) {
        const Four a = four(q + m * row + 4 * r);
        for (int j = 0; j < P; ++j) acc[m][j] = signed_dot(acc[m][j], w[j], a);
      }
      p += 4 * kPanel;
    }
  } else {
#pragma GCC unroll 1
    for (int r = 0; r < 4; ++r) {
      __builtin_prefetch(p + kPrefetch);
      if (P == kVectors) __builtin_prefetch(p + kPrefetch + 64);
      vi low[P], high[P];
      for (int j = 0; j < P; ++j) nibbles(p + 4 * kWidth * j, low[j], high[j]);
      for (int m = 0; m < M; ++m) {
        const Four a = four(q + m * row + 8 * r), c = four(q + m * row + 8 * r + 4);
        for (int j = 0; j < P; ++j) acc[m][j] = nibble_dot(acc[m][j], low[j], a, high[j], c);
      }
      p += 4 * kPanel;
    }
    for (int m = 0; m < M; ++m)
      for (int j = 0; j < P; ++j) acc[m][j] = nibble_sums(acc[m][j]);
  }
}

// M rows of x against a panel.
template <int F, int M>
__attribute__((noinline)) void integer_tile(const Linear& w, const uint8_t* panel, const Activations& x, int64_t row,
                                            float* sums) {
  constexpr int P = M == 1 ? kVectors : kIntegerVectors;
  vf total[M][kVectors];
  for (int m = 0; m < M; ++m)
    for (int j = 0; j < kVectors; ++j) total[m][j] = zero();
  const int64_t per_group = block_count(w.group);
  for (int64_t begin = 0; begin < x.blocks; begin += per_group) {
    const uint8_t* header = panel;
    panel += header_bytes(F);
    vf part[M][kVectors];
    float offset[M];
    for (int m = 0; m < M; ++m) {
      offset[m] = 0.0f;
      for (int j = 0; j < kVectors; ++j) part[m][j] = zero();
    }
    for (int64_t b = begin; b < smaller(begin + per_group, x.blocks); ++b) {
      const int64_t at = row * x.blocks + b;
      for (int first = 0; first < kVectors; first += P) {
        vi acc[M][P];
        block_products<F, M, P>(panel + 4 * kWidth * first, x, at, acc);
        for (int m = 0; m < M; ++m) {
          const vf scale = set1(x.scale[at + m * x.blocks]);
          for (int j = 0; j < P; ++j) part[m][first + j] = fma(to_floats(acc[m][j]), scale, part[m][first + j]);
        }
      }
      if (F == kInt4) {
        for (int m = 0; m < M; ++m) {
          const int64_t i = at + m * x.blocks;
          offset[m] += x.scale[i] * static_cast<float>(x.total[i]);
        }
      }
      panel += kBlock * row_bytes(F);
    }
    for (int j = 0; j < kVectors; ++j) {
      if (F == kInt8) {
        const vf scale = load(reinterpret_cast<const float*>(header) + j * kWidth);
        for (int m = 0; m < M; ++m) total[m][j] = fma(part[m][j], scale, total[m][j]);
      } else {
        const uint16_t* halves = reinterpret_cast<const uint16_t*>(header) + j * kWidth;
        const vf scale = load_half(halves), minimum = load_half(halves + kPanel);
        for (int m = 0; m < M; ++m)
          total[m][j] = fma(set1(offset[m]), minimum, fma(part[m][j], scale, total[m][j]));
      }
    }
  }
  for (int m = 0; m < M; ++m)
    for (int j = 0; j < kVectors; ++j) store(sums + m * kPanel + j * kWidth, total[m][j]);
}

template <int F, int M>
void integer_tile_of(int64_t rows, const Linear& w, const uint8_t* panel, const Activations& x, int64_t row,
                     float* sums) {
  if constexpr (M > 1) {
    if (rows < M) return integer_tile_of<F, M - 1>(rows, w, panel, x, row, sums);
  }
  integer_tile<F, M>(w, panel, x, row, sums);
}

// All rows of a block of them, a few at a time: the panel stays in the second-level cache.
template <int F>
void integer(const Linear& w, const uint8_t* panel, const Activations& x, int64_t row, int64_t rows, float* sums) {
  for (int64_t m = 0; m < rows; m += kIntegerRows)
    integer_tile_of<F, kIntegerRows>(smaller(kIntegerRows, rows - m), w, panel, x, row + m, sums + m * kPanel);
}
