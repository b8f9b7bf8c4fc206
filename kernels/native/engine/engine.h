// Types shared by the engine's CPU kernels. Every kernel is written once (linear.h, attention.h, elementwise.h) over the
// vector operations of simd_*.h, compiled per instruction set (isa_*.cc) and reached through one table of functions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace medvllm_engine {

// Outputs per panel. One layout for all instruction sets: W (n, k) is cut into panels of 32 outputs; within a panel
// the 32 values of one k lie together, so that a product needs no horizontal sums and all batch sizes read one copy.
constexpr int64_t kPanel = 32;
// Keys per softmax tile, and per independently summed chunk of the context. Both are cut at absolute positions: a row's
// result then depends neither on the batch, nor on how its prompt was split, nor on the number of threads.
constexpr int64_t kKeyTile = 32;
constexpr int64_t kKeyChunk = 256;
// Rows (token, query head of one group) of an attention task.
constexpr int64_t kRowTile = 32;
constexpr int64_t kMaxHeadDim = 256;

// Of packed weights. A row of a panel (32 outputs, one k):
//   kF32   32 floats
//   kBF16  16 words; word i holds output i in its low and output 16 + i in its high half
//   kInt8  32 signed bytes; before each group of k: 32 float scales
//   kInt4  16 bytes; byte i holds output i in its low and output 16 + i in its high nibble; before each group of k:
//          32 half-precision scales and 32 half-precision minima, weight = scale * nibble + minimum
enum Format : int32_t { kF32 = 0, kBF16 = 1, kInt8 = 2, kInt4 = 3 };

// Of activations and of caches.
enum Dtype : int32_t { kFloat = 0, kBFloat = 1 };

// y = x W^T + bias; the same struct in cpu_linear.py.
struct Linear {
  const uint8_t* data;  // panels, 64-byte aligned
  const float* bias;    // (n) or null
  int64_t n;
  int64_t k;
  int64_t group;  // k values per scale; k itself for the formats without scales
  int64_t format;
};

inline int64_t row_bytes(int64_t format) {
  return format == kF32 ? 128 : format == kBF16 ? 64 : format == kInt8 ? 32 : 16;
}
inline int64_t header_bytes(int64_t format) { return format == kInt8 || format == kInt4 ? 128 : 0; }
inline int64_t group_bytes(const Linear& w) { return header_bytes(w.format) + w.group * row_bytes(w.format); }
inline int64_t panel_bytes(const Linear& w) { return (w.k + w.group - 1) / w.group * group_bytes(w); }
inline int64_t panel_count(const Linear& w) { return (w.n + kPanel - 1) / kPanel; }

struct LinearCall {
  const Linear* w;
  const float* x;  // (m, k), rows ldx apart
  int64_t ldx;
  int64_t m;
  void* y;  // (m, n), rows ldy apart
  int64_t ldy;
  Dtype y_dtype;
  bool add;  // y += instead of y =, float only
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

enum Activation : int32_t { kSilu = 0, kGeluTanh = 1, kGelu = 2, kRelu = 3 };

struct Kernels {
  const char* name;
  int64_t width;  // floats in a vector
  // Outputs of panels [panel_begin, panel_end) for rows [m_begin, m_end), at most kRowBlock of them.
  void (*linear)(const LinearCall& call, int64_t panel_begin, int64_t panel_end, int64_t m_begin, int64_t m_end);
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
};

// Rows of one call of Kernels::linear.
constexpr int64_t kRowBlock = 96;

const Kernels& portable_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
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
void run_linear(const LinearCall& call, int threads);
void run_attention(const AttentionCall& call, int threads);
void run_store(const void* k, const void* v, int64_t k_stride, int64_t v_stride, void* k_cache, void* v_cache,
               const int64_t* slots, int64_t tokens, int64_t kv_heads, int64_t head_dim, int64_t block_size,
               int64_t block_stride, int64_t slot_stride, int64_t head_stride, int64_t activation_dtype,
               int64_t cache_dtype);

}  // namespace medvllm_engine
