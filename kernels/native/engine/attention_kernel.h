// Paged attention of one task. Included inside a namespace, after simd_*.h and elementwise_kernel.h.
//
// A score is a dot product along the head in vector order, a row's weighted sum runs over keys in their order, tiles and
// chunks are cut at absolute positions: the same row gives the same bits in decoding, prefill and any chunk of it.

// Scores of R queries (head_dim apart) with four keys, R rows of kKeyTile. T is Floats or BFloats.
template <int R, typename T>
inline void dots(const float* q, const typename T::type* const* keys, int64_t head_dim, float* scores) {
  vf acc[R][4];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < 4; ++c) acc[r][c] = zero();
  for (int64_t d = 0; d < head_dim; d += kWidth) {
    vf a[R];
    for (int r = 0; r < R; ++r) a[r] = load(q + r * head_dim + d);
    for (int c = 0; c < 4; ++c) {
      const vf k = T::get(keys[c] + d);
      for (int r = 0; r < R; ++r) acc[r][c] = fma(a[r], k, acc[r][c]);
    }
  }
  for (int r = 0; r < R; ++r) sum4(acc[r][0], acc[r][1], acc[r][2], acc[r][3], scores + r * kKeyTile);
}
template <int R, typename T>
inline void dots_of(int64_t rows, const float* q, const typename T::type* const* keys, int64_t head_dim,
                    float* scores) {
  if constexpr (R > 1) {
    if (rows < R) return dots_of<R - 1, T>(rows, q, keys, head_dim, scores);
  }
  dots<R, T>(q, keys, head_dim, scores);
}

// values[R][N vectors] += weights[R][key] * v[key], for keys in order.
template <int R, int N, typename T>
inline void weigh(const float* weights, const typename T::type* const* v, int64_t begin, int64_t end, int64_t at,
                  float* values, int64_t head_dim) {
  vf acc[R][N];
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) acc[r][n] = load(values + r * head_dim + at + n * kWidth);
  for (int64_t key = begin; key < end; ++key) {
    vf p[R];
    for (int r = 0; r < R; ++r) p[r] = set1(weights[r * kKeyTile + key]);
    for (int n = 0; n < N; ++n) {
      const vf x = T::get(v[key] + at + n * kWidth);
      for (int r = 0; r < R; ++r) acc[r][n] = fma(p[r], x, acc[r][n]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) store(values + r * head_dim + at + n * kWidth, acc[r][n]);
}
template <int R, typename T>
inline void weigh_of(int64_t rows, const float* weights, const typename T::type* const* v, int64_t begin, int64_t end,
                     float* values, int64_t head_dim) {
  if constexpr (R > 1) {
    if (rows < R) return weigh_of<R - 1, T>(rows, weights, v, begin, end, values, head_dim);
  }
  int64_t at = 0;
  for (; at + 4 * kWidth <= head_dim; at += 4 * kWidth) weigh<R, 4, T>(weights, v, begin, end, at, values, head_dim);
  for (; at < head_dim; at += kWidth) weigh<R, 1, T>(weights, v, begin, end, at, values, head_dim);
}

inline void scale_row(float* row, float factor, int64_t count) {
  for (int64_t d = 0; d < count; d += kWidth) store(row + d, load(row + d) * set1(factor));
}

// Online softmax of one row over a tile: scores become weights. False where the row sees none of the keys.
inline bool soften(float* scores, AttentionState& state, int64_t row, int64_t head_dim) {
  vf top = load(scores);
  for (int64_t i = kWidth; i < kKeyTile; i += kWidth) top = max(top, load(scores + i));
  const float before = state.maximum[row];
  float now = largest(top);
  if (now == -__builtin_inff()) return false;
  now = now > before ? now : before;
  vf total = zero();
  for (int64_t i = 0; i < kKeyTile; i += kWidth) {
    const vf s = load(scores + i);
    const vf p = below(s, set1(-__FLT_MAX__), zero(), exponential(s - set1(now)));
    store(scores + i, p);
    total = total + p;
  }
  if (now > before && before != -__builtin_inff()) {
    const float factor = ::expf(before - now);
    state.sum[row] *= factor;
    scale_row(state.value + row * head_dim, factor, head_dim);
  }
  state.maximum[row] = now;
  state.sum[row] += sum(total);
  return true;
}

// Keys [begin, end) of the tile at position `tile`: their rows in the caches.
template <typename T>
struct TileRows {
  const typename T::type* k[kKeyTile + 3];
  const typename T::type* v[kKeyTile];

  void locate(const AttentionCall& call, const int32_t* table, int64_t kv_head, int64_t tile, int64_t begin,
              int64_t end) {
    typedef typename T::type type;
    int64_t block = (tile + begin) / call.block_size, slot = (tile + begin) % call.block_size;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = table[block] * call.block_stride + slot * call.slot_stride + kv_head * call.head_stride;
      k[i] = static_cast<const type*>(call.k_cache) + at;
      v[i] = static_cast<const type*>(call.v_cache) + at;
      if (++slot == call.block_size) {
        slot = 0;
        ++block;
      }
    }
    repeat_ends(begin, end);
  }

  // The rows as floats, unpacked into `memory`.
  template <typename From>
  void unpack(const TileRows<From>& from, int64_t begin, int64_t end, int64_t head_dim, float* memory) {
    for (int64_t i = begin; i < end; ++i) {
      float* key = memory + 2 * i * head_dim;
      float* value = key + head_dim;
      for (int64_t d = 0; d < head_dim; d += kWidth) {
        store(key + d, From::get(from.k[i] + d));
        store(value + d, From::get(from.v[i] + d));
      }
      k[i] = key;
      v[i] = value;
    }
    repeat_ends(begin, end);
  }

  // Asks for rows that the next tile needs: they lie scattered, and the processor does not foresee them.
  void prefetch(int64_t begin, int64_t end, int64_t head_dim) const {
    const int64_t bytes = head_dim * static_cast<int64_t>(sizeof(typename T::type));
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t b = 0; b < bytes; b += 64) {
        __builtin_prefetch(reinterpret_cast<const char*>(k[i]) + b);
        __builtin_prefetch(reinterpret_cast<const char*>(v[i]) + b);
      }
    }
  }

  // Groups of four keys start at multiples of four; scores of the repeated keys are masked.
  void repeat_ends(int64_t begin, int64_t end) {
    for (int64_t i = begin / 4 * 4; i < begin; ++i) k[i] = k[begin];
    for (int64_t i = end; i < end + 3; ++i) k[i] = k[end - 1];
  }
};

// One tile of keys against the rows of a task.
template <typename T>
inline void attend_tile(const AttentionCall& call, const TileRows<T>& keys, const TileRows<T>* next, int64_t next_end,
                        int64_t tile, int64_t begin, int64_t end, const float* q, int64_t rows, int64_t first_position, int64_t heads, int64_t row_begin,
                        float* scores, AttentionState& state) {
  const int64_t head_dim = call.head_dim;
  for (int64_t r = 0; r < rows; r += kDotRows) {
    for (int64_t i = begin / 4 * 4; i < end; i += 4) {
      if (next && r == 0) next->prefetch(i, smaller(i + 4, next_end), head_dim);
      dots_of<kDotRows, T>(smaller(kDotRows, rows - r), q + r * head_dim, keys.k + i, head_dim,
                           scores + r * kKeyTile + i);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    float* s = scores + r * kKeyTile;
    if (call.softcap != 0.0f) {
      for (int64_t i = 0; i < kKeyTile; i += kWidth)
        store(s + i, hyperbolic_tangent(load(s + i) / set1(call.softcap)) * set1(call.softcap));
    }
    const int64_t position = first_position + (row_begin + r) / heads;
    int64_t from = begin, to = end;
    if (call.causal && position + 1 - tile < to) to = position + 1 - tile;
    if (call.window && position - call.window + 1 - tile > from) from = position - call.window + 1 - tile;
    for (int64_t i = 0; i < smaller(from, kKeyTile); ++i) s[i] = -__builtin_inff();
    for (int64_t i = to > 0 ? to : 0; i < kKeyTile; ++i) s[i] = -__builtin_inff();
    if (!soften(s, state, r, head_dim)) {
      for (int64_t i = 0; i < kKeyTile; ++i) s[i] = 0.0f;
    }
  }
  for (int64_t r = 0; r < rows; r += kDotRows) {
    weigh_of<kDotRows, T>(smaller(kDotRows, rows - r), scores + r * kKeyTile, keys.v, begin, end,
                          state.value + r * head_dim, head_dim);
  }
}

template <typename T>
void attend_tiles(const AttentionCall& call, const int32_t* table, int64_t kv_head, const float* q, int64_t rows,
                  int64_t first_position, int64_t row_begin, int64_t key_begin, int64_t key_end,
                  AttentionState& state) {
  alignas(64) float scores[kRowTile * kKeyTile] = {};
  alignas(64) float unpacked[2 * kKeyTile * kMaxHeadDim];
  const int64_t heads = call.query_heads / call.kv_heads;
  TileRows<T> two[2];  // this tile's and the next one's
  int64_t begin = key_begin % kKeyTile, tile = key_begin - begin, end = smaller(kKeyTile, key_end - tile);
  two[0].locate(call, table, kv_head, tile, begin, end);
  for (int turn = 0; tile < key_end; turn ^= 1) {
    const int64_t next_end = smaller(kKeyTile, key_end - tile - kKeyTile);
    TileRows<T>* next = nullptr;
    if (next_end > 0) {
      next = &two[turn ^ 1];
      next->locate(call, table, kv_head, tile + kKeyTile, 0, next_end);
    }
    if (T::packed && rows > 2 * kDotRows) {  // unpacked once for all rows
      TileRows<Floats> keys;
      keys.unpack(two[turn], begin, end, call.head_dim, unpacked);
      attend_tile<Floats>(call, keys, nullptr, 0, tile, begin, end, q, rows, first_position, heads, row_begin, scores,
                          state);
    } else {
      attend_tile<T>(call, two[turn], next, next_end, tile, begin, end, q, rows, first_position, heads, row_begin,
                     scores, state);
    }
    tile += kKeyTile;
    begin = 0;
    end = next_end;
  }
}

inline void attend(const AttentionCall& call, int64_t sequence, int64_t kv_head, int64_t row_begin, int64_t row_end,
                   const float* q, int64_t key_begin, int64_t key_end, AttentionState& state) {
  const int64_t rows = row_end - row_begin, head_dim = call.head_dim;
  const int64_t new_tokens = call.cu_seqlens_q[sequence + 1] - call.cu_seqlens_q[sequence];
  const int64_t first = call.context_lens[sequence] - new_tokens;  // position of the first new token
  const int32_t* table = call.block_table + sequence * call.table_stride;
  for (int64_t r = 0; r < rows; ++r) {
    state.maximum[r] = -__builtin_inff();
    state.sum[r] = 0.0f;
  }
  for (int64_t i = 0; i < rows * head_dim; i += kWidth) store(state.value + i, zero());
  (call.cache_dtype == kFloat ? attend_tiles<Floats> : attend_tiles<BFloats>)(
      call, table, kv_head, q, rows, first, row_begin, key_begin, key_end, state);
}

inline void merge(AttentionState& into, const AttentionState& chunk, int64_t rows, int64_t head_dim) {
  for (int64_t r = 0; r < rows; ++r) {
    if (chunk.maximum[r] == -__builtin_inff()) continue;
    float* value = into.value + r * head_dim;
    const float* add = chunk.value + r * head_dim;
    if (into.maximum[r] == -__builtin_inff()) {
      into.maximum[r] = chunk.maximum[r];
      into.sum[r] = chunk.sum[r];
      for (int64_t d = 0; d < head_dim; d += kWidth) store(value + d, load(add + d));
      continue;
    }
    const float top = into.maximum[r] > chunk.maximum[r] ? into.maximum[r] : chunk.maximum[r];
    const float a = ::expf(into.maximum[r] - top), b = ::expf(chunk.maximum[r] - top);
    into.maximum[r] = top;
    into.sum[r] = into.sum[r] * a + chunk.sum[r] * b;
    for (int64_t d = 0; d < head_dim; d += kWidth)
      store(value + d, fma(load(value + d), set1(a), load(add + d) * set1(b)));
  }
}
