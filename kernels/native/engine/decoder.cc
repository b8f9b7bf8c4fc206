#include "decoder.h"

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "engine.h"
#include "pool.h"

namespace medvllm_engine {
namespace {

// Tokens whose intermediate values are kept at a time: more would leave the last-level cache.
constexpr int64_t kMlpRows = 2 * kRowBlock;

struct Free {
  void operator()(void* p) const { std::free(p); }
};

// Memory of one calling thread, kept between calls and never cleared.
float* scratch(int64_t floats) {
  static thread_local std::unique_ptr<float, Free> memory;
  static thread_local int64_t size = 0;
  if (floats > size) {
    memory.reset();
    memory.reset(static_cast<float*>(std::aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64)));
    size = floats;
  }
  return memory.get();
}

class Step {
 public:
  Step(const Decoder& decoder, const DecoderBatch& batch, int threads)
      : d_(decoder), b_(batch), threads_(threads), isa_(kernels()) {
    query_ = d_.query_heads * d_.head_dim;
    row_ = query_ + 2 * d_.kv_heads * d_.head_dim;
    const int64_t mlp_rows = b_.tokens < kMlpRows ? b_.tokens : kMlpRows;
    const int64_t attention = b_.tokens * (row_ + query_), mlp = mlp_rows * 3 * d_.intermediate;
    normed_ = scratch(2 * b_.tokens * d_.hidden + (attention > mlp ? attention : mlp));
    branch_ = normed_ + b_.tokens * d_.hidden;
    work_ = branch_ + b_.tokens * d_.hidden;
  }

  void run() {
    for (int64_t i = 0; i < d_.layer_count; ++i) {
      const DecoderLayer& layer = d_.layers[i];
      norm(b_.x, layer.input_norm, normed_);
      attention(layer);
      norm(b_.x, layer.mlp_input_norm, normed_);
      mlp(layer);
    }
    norm(b_.x, d_.final_norm, b_.y);
  }

 private:
  // body(begin, count) over pieces of the tokens; on this thread alone where a piece is worth less than waking another.
  template <typename Body>
  void over_tokens(int64_t columns, const Body& body) {
    const int64_t piece = 16384 / columns + 1, tokens = b_.tokens;
    parallel((tokens + piece - 1) / piece, 1, threads_, [&](int64_t p, int) {
      const int64_t begin = p * piece;
      body(begin, begin + piece < tokens ? piece : tokens - begin);
    });
  }

  void norm(const float* x, const float* weight, float* y) {
    const int64_t n = d_.hidden;
    over_tokens(n, [&](int64_t begin, int64_t count) {
      isa_.rms_norm(x + begin * n, nullptr, weight, y + begin * n, nullptr, count, n, n, d_.eps, d_.norm_offset, kFloat);
    });
  }

  void linear(const Linear& w, const float* x, int64_t rows, float* y, bool add) {
    run_linear({&w, x, w.k, rows, y, w.n, kFloat, add, {}}, threads_);
  }

  // x += W input, or x += norm(W input) where the model has a norm there.
  void add_branch(const Linear& w, const float* input, const float* weight, int64_t first, int64_t rows) {
    float* x = b_.x + first * d_.hidden;
    if (!weight) return linear(w, input, rows, x, true);
    linear(w, input, rows, branch_, false);
    for (int64_t r = 0; r < rows; ++r) {
      float* y = branch_ + r * d_.hidden;
      isa_.rms_norm(y, nullptr, weight, y, nullptr, 1, d_.hidden, d_.hidden, d_.eps, d_.norm_offset, kFloat);
      for (int64_t i = 0; i < d_.hidden; ++i) x[r * d_.hidden + i] += y[i];
    }
  }

  void attention(const DecoderLayer& layer) {
    const int64_t dim = d_.head_dim;
    float* qkv = work_;  // (tokens, query heads + 2 kv heads, head_dim)
    float* out = work_ + b_.tokens * row_;
    linear(layer.qkv, normed_, b_.tokens, qkv, false);
    over_tokens(row_, [&](int64_t begin, int64_t count) {
      float* q = qkv + begin * row_;
      float* k = q + query_;
      const float* v = k + d_.kv_heads * dim;
      if (layer.q_norm) {
        for (int64_t t = 0; t < count; ++t) {
          isa_.rms_norm(q + t * row_, nullptr, layer.q_norm, q + t * row_, nullptr, d_.query_heads, dim, dim, d_.eps,
                        d_.norm_offset, kFloat);
          isa_.rms_norm(k + t * row_, nullptr, layer.k_norm, k + t * row_, nullptr, d_.kv_heads, dim, dim, d_.eps,
                        d_.norm_offset, kFloat);
        }
      }
      const int64_t* positions = b_.positions + begin;
      isa_.rotary(q, positions, layer.cos_sin, count, d_.query_heads, dim, d_.rotary_dim, row_, kFloat);
      isa_.rotary(k, positions, layer.cos_sin, count, d_.kv_heads, dim, d_.rotary_dim, row_, kFloat);
      run_store(k, v, row_, row_, layer.k_cache, layer.v_cache, b_.slots + begin, count, d_.kv_heads, dim,
                d_.block_size, d_.block_stride, d_.slot_stride, d_.head_stride, kFloat, d_.cache_dtype);
    });
    AttentionCall call = {};
    call.q = qkv;
    call.out = out;
    call.k_cache = layer.k_cache;
    call.v_cache = layer.v_cache;
    call.block_table = b_.block_table;
    call.context_lens = b_.context_lens;
    call.cu_seqlens_q = b_.cu_seqlens_q;
    call.q_stride = row_;
    call.out_stride = query_;
    call.block_stride = d_.block_stride;
    call.slot_stride = d_.slot_stride;
    call.head_stride = d_.head_stride;
    call.table_stride = b_.table_stride;
    call.sequences = b_.sequences;
    call.query_heads = d_.query_heads;
    call.kv_heads = d_.kv_heads;
    call.head_dim = dim;
    call.block_size = d_.block_size;
    call.window = layer.window;
    call.causal = 1;
    call.activation_dtype = kFloat;
    call.cache_dtype = d_.cache_dtype;
    call.scale = d_.scale;
    call.softcap = d_.softcap;
    run_attention(call, threads_);
    add_branch(layer.o, out, layer.attention_output_norm, 0, b_.tokens);
  }

  void mlp(const DecoderLayer& layer) {
    const int64_t n = d_.intermediate;
    for (int64_t first = 0; first < b_.tokens; first += kMlpRows) {
      const int64_t rows = b_.tokens - first < kMlpRows ? b_.tokens - first : kMlpRows;
      float* gate_up = work_;
      float* active = work_ + rows * 2 * n;
      linear(layer.gate_up, normed_ + first * d_.hidden, rows, gate_up, false);
      parallel(rows, 16384 / n + 1, threads_, [&](int64_t r, int) {
        isa_.act_and_mul(gate_up + r * 2 * n, active + r * n, 1, n, d_.activation, kFloat);
      });
      add_branch(layer.down, active, layer.mlp_output_norm, first, rows);
    }
  }

  const Decoder& d_;
  const DecoderBatch& b_;
  const int threads_;
  const Kernels& isa_;
  int64_t query_, row_;
  float* normed_;
  float* branch_;
  float* work_;
};

}  // namespace

void run_decoder(const Decoder& decoder, const DecoderBatch& batch, int threads) {
  if (batch.tokens > 0) Step(decoder, batch, threads).run();
}

}  // namespace medvllm_engine
