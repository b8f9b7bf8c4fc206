// y = x W^T over packed panels. Included inside a namespace, after simd_*.h and integer_kernel.h.
//
// Every output is one chain of fused multiply-adds in the order of k, whichever of the two ways below computes it and
// whatever is in the batch: results are the same bit by bit for any number of rows and threads.

constexpr int64_t kDepth = 128;      // k values unpacked at a time: 16 KiB of floats, half of the L1 cache

template <int F>
struct Rows;  // unpacks the 32 weights of one k

template <>
struct Rows<kF32> {
  void row(const uint8_t* p, vf* w) const {
    for (int j = 0; j < kVectors; ++j) w[j] = load(reinterpret_cast<const float*>(p) + j * kWidth);
  }
};
template <>
struct Rows<kBF16> {
  void row(const uint8_t* p, vf* w) const { row_bf16(p, w); }
};
// Straight from the packed weights, for a few rows: one pass over the panel at the speed of memory.
template <int F, int M>
void direct(const Linear& w, const uint8_t* panel, const float* x, int64_t ldx, float* sums) {
  vf acc[M][kVectors];
  for (int m = 0; m < M; ++m)
    for (int j = 0; j < kVectors; ++j) acc[m][j] = zero();
  const int64_t bytes = row_bytes(F);
  Rows<F> rows;
  for (int64_t i = 0; i < w.k; ++i) {
    const uint8_t* p = panel + i * bytes;
    if (F == kF32) __builtin_prefetch(p + kPrefetch + 64);
    __builtin_prefetch(p + kPrefetch);
    vf v[kVectors];
    rows.row(p, v);
    for (int m = 0; m < M; ++m) {
      const vf a = set1(x[m * ldx + i]);
      for (int j = 0; j < kVectors; ++j) acc[m][j] = fma(a, v[j], acc[m][j]);
    }
  }
  for (int m = 0; m < M; ++m)
    for (int j = 0; j < kVectors; ++j) store(sums + m * kPanel + j * kWidth, acc[m][j]);
}

// M rows of x against `depth` unpacked k values, added to the sums.
template <int M>
void tile(const float* x, int64_t ldx, const float* weights, int64_t depth, bool first, float* sums) {
  vf acc[M][kVectors];
  for (int m = 0; m < M; ++m)
    for (int j = 0; j < kVectors; ++j) acc[m][j] = first ? zero() : load(sums + m * kPanel + j * kWidth);
  for (int64_t i = 0; i < depth; ++i) {
    vf a[M];
    for (int m = 0; m < M; ++m) a[m] = set1(x[m * ldx + i]);
    for (int j = 0; j < kVectors; ++j) {
      const vf v = load(weights + i * kPanel + j * kWidth);
      for (int m = 0; m < M; ++m) acc[m][j] = fma(a[m], v, acc[m][j]);
    }
  }
  for (int m = 0; m < M; ++m)
    for (int j = 0; j < kVectors; ++j) store(sums + m * kPanel + j * kWidth, acc[m][j]);
}

// tile<rows>, for rows in 1..M.
template <int M>
void tile_of(int64_t rows, const float* x, int64_t ldx, const float* weights, int64_t depth, bool first, float* sums) {
  if constexpr (M > 1) {
    if (rows < M) return tile_of<M - 1>(rows, x, ldx, weights, depth, first, sums);
  }
  tile<M>(x, ldx, weights, depth, first, sums);
}

template <int F, int M>
void direct_of(int64_t rows, const Linear& w, const uint8_t* panel, const float* x, int64_t ldx, float* sums) {
  if constexpr (M > 1) {
    if (rows < M) return direct_of<F, M - 1>(rows, w, panel, x, ldx, sums);
  }
  direct<F, M>(w, panel, x, ldx, sums);
}

// For many rows: a block of k is unpacked once, then multiplied by all of them.
template <int F>
void blocked(const Linear& w, const uint8_t* panel, const float* x, int64_t ldx, int64_t rows, float* sums) {
  alignas(64) float unpacked[kDepth * kPanel];
  const int64_t bytes = row_bytes(F);
  Rows<F> reader;
  for (int64_t begin = 0; begin < w.k; begin += kDepth) {
    const int64_t depth = smaller(kDepth, w.k - begin);
    const float* weights = unpacked;
    const uint8_t* next = panel + (begin + depth) * bytes;
    if (F == kF32) {
      weights = reinterpret_cast<const float*>(panel + begin * bytes);
    } else {
      for (int64_t i = 0; i < depth; ++i) {
        vf v[kVectors];
        reader.row(panel + (begin + i) * bytes, v);
        for (int j = 0; j < kVectors; ++j) store(unpacked + i * kPanel + j * kWidth, v[j]);
      }
    }
    // The next block comes from memory while this one is multiplied. Behind the last panel there is nothing to fetch,
    // and the processor ignores it.
    int64_t tiles = (rows + kTileRows - 1) / kTileRows;
    const int64_t share = depth * bytes / tiles + 64;
    for (int64_t m = 0; tiles > 0; --tiles) {
      const int64_t count = (rows - m + tiles - 1) / tiles;  // evenly: a tile of one row runs at a quarter of the speed
      for (int64_t i = 0; i < share; i += 64) __builtin_prefetch(next + i);
      next += share / 64 * 64;
      tile_of<kTileRows>(count, x + m * ldx + begin, ldx, weights, depth, begin == 0, sums + m * kPanel);
      m += count;
    }
  }
}

// Bias, conversion and the edge of the last panel.
inline void finish(const LinearCall& call, int64_t panel, int64_t m_begin, int64_t rows, const float* sums) {
  const int64_t first = panel * kPanel;
  const int64_t columns = smaller(kPanel, call.w->n - first);
  const float* bias = call.w->bias ? call.w->bias + first : nullptr;
  for (int64_t m = 0; m < rows; ++m) {
    const float* s = sums + m * kPanel;
    const int64_t at = (m_begin + m) * call.ldy + first;
    alignas(64) float y[kPanel];
    for (int64_t j = 0; j < columns; ++j) y[j] = bias ? s[j] + bias[j] : s[j];
    if (call.y_dtype == kBFloat) {
      uint16_t* out = static_cast<uint16_t*>(call.y) + at;
      for (int64_t j = 0; j < columns; ++j) out[j] = round_bf16(y[j]);
    } else {
      float* out = static_cast<float*>(call.y) + at;
      for (int64_t j = 0; j < columns; ++j) out[j] = call.add ? out[j] + y[j] : y[j];
    }
  }
}

template <int F>
void panels(const LinearCall& call, int64_t panel_begin, int64_t panel_end, int64_t m_begin, int64_t m_end) {
  alignas(64) float sums[kRowBlock * kPanel];
  const Linear& w = *call.w;
  const int64_t rows = m_end - m_begin;
  const float* x = call.x + m_begin * call.ldx;
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    const uint8_t* data = w.data + panel * panel_bytes(w);
    if constexpr (F == kInt8 || F == kInt4) {
      integer<F>(w, data, call.quantised, m_begin, rows, sums);
    } else if (rows <= kDirectRows) {
      direct_of<F, kDirectRows>(rows, w, data, x, call.ldx, sums);
    } else {
      blocked<F>(w, data, x, call.ldx, rows, sums);
    }
    finish(call, panel, m_begin, rows, sums);
  }
}

inline void linear(const LinearCall& call, int64_t panel_begin, int64_t panel_end, int64_t m_begin, int64_t m_end) {
  switch (call.w->format) {
    case kF32: return panels<kF32>(call, panel_begin, panel_end, m_begin, m_end);
    case kBF16: return panels<kBF16>(call, panel_begin, panel_end, m_begin, m_end);
    case kInt8: return panels<kInt8>(call, panel_begin, panel_end, m_begin, m_end);
    default: return panels<kInt4>(call, panel_begin, panel_end, m_begin, m_end);
  }
}
