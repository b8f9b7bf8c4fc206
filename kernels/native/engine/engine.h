// Types shared by the engine's CPU kernels. Every kernel is written once (linear.h, attention.h, elementwise.h) over the
// vector operations of simd_*.h, compiled per instruction set (isa_*.cc) and reached through one table of functions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace medvllm_engine {

// Outputs per panel. One layout for all instruction sets: W (n, k) is cut into panels of 32 outputs; within a panel
// the values of one k, or of four, lie together, so that a product needs no horizontal sums and all batch sizes read
// one copy.
constexpr int64_t kPanel = 32;
// Values of k whose products with int8 and int4 weights are summed as whole numbers; x has a scale for each block.
constexpr int64_t kBlock = 32;
// Keys per softmax tile, and per independently summed chunk of the context. Both are cut at absolute positions: a row's
// result then depends neither on the batch, nor on how its prompt was split, nor on the number of threads.
constexpr int64_t kKeyTile = 32;
constexpr int64_t kKeyChunk = 256;
// Rows (token, query head of one group) of an attention task.
constexpr int64_t kRowTile = 32;
constexpr int64_t kMaxHeadDim = 256;

// Of packed weights. kF32 and kBF16 have a row (32 outputs, one k) for each k:
//   kF32   32 floats
//   kBF16  16 words; word i holds output i in its low and output 16 + i in its high half
// The others have a header and blocks (32 outputs, 32 k, 0 behind the last k) for each group of k:
//   kInt8  32 float scales; a block is 8 rows of 128 bytes, row r holds for each output the signed k = 4r … 4r + 3
//   kInt4  32 half-precision scales and 32 half-precision minima, weight = scale * nibble + minimum; a block is 4 rows
//          of 128 bytes, row r holds for each output k = 8r … 8r + 3 in the low and 8r + 4 … 8r + 7 in the high nibbles
enum Format : int32_t { kF32 = 0, kBF16 = 1, kInt8 = 2, kInt4 = 3 };

// Of activations and of caches.
enum Dtype : int32_t { kFloat = 0, kBFloat = 1 };

// y = x W^T + bias; the same struct in cpu_linear.py.
struct Linear {
  const uint8_t* data;  // panels, 64-byte aligned
  const float* bias;    // (n) or null
  int64_t n;
  int64_t k;
  int64_t group;  // k values per scale, a multiple of kBlock or k itself; k for the formats without scales
  int64_t format;
};

// Bytes of 32 outputs for one k.
inline int64_t row_bytes(int64_t format) {
  return format == kF32 ? 128 : format == kBF16 ? 64 : format == kInt8 ? 32 : 16;
}
inline bool in_blocks(int64_t format) { return format == kInt8 || format == kInt4; }
inline int64_t header_bytes(int64_t format) { return in_blocks(format) ? 128 : 0; }
inline int64_t block_count(int64_t k) { return (k + kBlock - 1) / kBlock; }
inline int64_t group_bytes(const Linear& w) {
  const int64_t rows = in_blocks(w.format) ? block_count(w.group) * kBlock : w.group;
  return header_bytes(w.format) + rows * row_bytes(w.format);
}
inline int64_t panel_bytes(const Linear& w) { return (w.k + w.group - 1) / w.group * group_bytes(w); }
inline int64_t panel_count(const Linear& w) { return (w.n + kPanel - 1) / kPanel; }

// Rows of x in 8 bits, for weights in blocks: x = scale * q, |q| <= 127.
struct Activations {
  int8_t* q;       // (m, blocks, kBlock), 0 behind the last k
  float* scale;    // (m, blocks)
  int32_t* total;  // (m, blocks): the sum of a block's q
  int64_t blocks;
};

struct LinearCall {
  const Linear* w;
  const float* x;  // (m, k), rows ldx apart
  int64_t ldx;
  int64_t m;
  void* y;  // (m, n), rows ldy apart
  int64_t ldy;
  Dtype y_dtype;
  bool add;  // y += instead of y =, float only
  Activations quantised;  // of x, by run_linear, where the weights are in blocks
};

struct AttentionCall {
  const void* q;  // (tokens, query_heads, head_dim), tokens q_stride apart
  void* out;      // (tokens, query_heads, head_dim), tokens out_stride apart
  const void* k_cache;
  const void* v_cache;         // (blocks, block_size, kv_heads, head_dim), both with the three strides below
  const int32_t* block_table;  // (sequences, table_stride)
  const int32_t* context_lens;
  const int32_t* cu_seqlens_q;  // (sequences + 1)
  int64_t q_stride, out_stride;
  int64_t block_stride, slot_stride, head_stride;
  int64_t table_stride;
  int64_t sequences;
  int64_t query_heads, kv_heads, head_dim, block_size;
  int64_t window;  // 0: none
  int64_t causal;
  int64_t activation_dtype, cache_dtype;
  float scale;
  float softcap;  // 0: none
};

// Running softmax of one task: maxima and sums (kRowTile) and weighted values (kRowTile, head_dim).
struct AttentionState {
  float maximum[kRowTile];
  float sum[kRowTile];
  float* value;
};

// Tokens chosen from logits (rows, vocab); the settings are (rows) each.
struct SampleCall {
  const float* logits;
  int64_t rows, vocab;
  const float* temperature;  // above 0
  const int64_t* top_k;      // 0: all
  const float* top_p;
  const float* min_p;
  const double* uniform;  // in [0, 1)
  int64_t* tokens;
};
// Logits whose maximum and sum of weights are kept.
constexpr int64_t kSampleBlock = 64;

enum Activation : int32_t { kSilu = 0, kGeluTanh = 1, kGelu = 2, kRelu = 3 };

struct Kernels {
  const char* name;
  int64_t width;  // floats in a vector
  // Outputs of panels [panel_begin, panel_end) for rows [m_begin, m_end), at most kRowBlock of them.
  void (*linear)(const LinearCall& call, int64_t panel_begin, int64_t panel_end, int64_t m_begin, int64_t m_end);
  // Row m of x into its place of `quantised`.
  void (*quantise)(const LinearCall& call, int64_t m);
  // Adds keys [key_begin, key_end) of a chunk to an empty state.
  void (*attend)(const AttentionCall& call, int64_t sequence, int64_t kv_head, int64_t row_begin, int64_t row_end,
                 const float* q, int64_t key_begin, int64_t key_end, AttentionState& state);
  void (*merge)(AttentionState& into, const AttentionState& chunk, int64_t rows, int64_t head_dim);
  void (*rms_norm)(const void* x, const void* residual, const float* weight, void* y, void* sum, int64_t rows,
                   int64_t columns, int64_t stride, float eps, float offset, int64_t dtype);
  void (*layer_norm)(const void* x, const float* weight, const float* bias, void* y, int64_t rows, int64_t columns,
                     float eps, int64_t dtype);
  void (*act_and_mul)(const void* x, void* y, int64_t rows, int64_t columns, int64_t activation, int64_t dtype);
  void (*activate)(const void* x, void* y, int64_t count, int64_t activation, int64_t dtype);
  void (*rotary)(void* x, const int64_t* positions, const float* cos_sin, int64_t tokens, int64_t heads,
                 int64_t head_dim, int64_t rotary_dim, int64_t token_stride, int64_t dtype);
  void (*to_float)(const void* x, float* y, int64_t count, int64_t dtype);
  void (*from_float)(const float* x, void* y, int64_t count, int64_t dtype);
  int64_t (*argmax)(const float* x, int64_t count);
  // The largest of each kSampleBlock values; NaN is never the largest.
  void (*maxima)(const float* x, int64_t count, float* y);
  // y = e^((x - top) scale), and the sum of each kSampleBlock of them.
  void (*weights)(const float* x, int64_t count, float top, float scale, float* y, float* sums);
};

// Rows of one call of Kernels::linear.
constexpr int64_t kRowBlock = 96;

const Kernels& portable_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
const Kernels& avx512vnni_kernels();
#endif
// The kernels in use: the best the machine has, or those that $MEDVLLM_NATIVE_ISA names.
const Kernels& kernels();

// Makes the named kernels the ones in use, or the machine's best for null: false where it does not have them.
bool choose_kernels(const char* name);

// Weights (n, k), rows one after the other, into the panels at w.data.
void pack(const Linear& w, const void* weight, Dtype dtype, int threads);
// GGUF blocks (GGML type 2: Q4_0, 3: Q4_1, 8: Q8_0) into panels of 32-value groups, without loss.
void pack_ggml(const Linear& w, const uint8_t* blocks, int64_t type, int threads);
// Rows of the weights as floats: y (count, k), rows ldy apart.
void gather_rows(const Linear& w, const int64_t* rows, int64_t count, float* y, int64_t ldy);

// The Linear in parallel (linear.cc); the whole attention in parallel (attention.cc).
void run_linear(LinearCall call, int threads);
void run_attention(const AttentionCall& call, int threads);
void run_sample(const SampleCall& call, int threads);
void run_store(const void* k, const void* v, int64_t k_stride, int64_t v_stride, void* k_cache, void* v_cache,
               const int64_t* slots, int64_t tokens, int64_t kv_heads, int64_t head_dim, int64_t block_size,
               int64_t block_stride, int64_t slot_stride, int64_t head_stride, int64_t activation_dtype,
               int64_t cache_dtype);

}  // namespace medvllm_engine
