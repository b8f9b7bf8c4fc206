// The layers of a Llama-like model in one call; the same structs in cpu_decoder.py.
#pragma once

#include <cstdint>

#include "engine.h"

namespace medvllm_engine {

struct DecoderLayer {
  Linear qkv, o, gate_up, down;
  const float* input_norm;
  const float* attention_output_norm;  // null but for Gemma
  const float* mlp_input_norm;
  const float* mlp_output_norm;  // null but for Gemma
  const float* q_norm;           // (head_dim) or null
  const float* k_norm;
  const float* cos_sin;  // (positions, rotary_dim)
  void* k_cache;
  void* v_cache;
  int64_t window;  // 0: none
};

struct Decoder {
  const DecoderLayer* layers;
  const float* final_norm;
  int64_t layer_count, hidden, intermediate, query_heads, kv_heads, head_dim, rotary_dim;
  int64_t block_size, block_stride, slot_stride, head_stride, cache_dtype;
  int64_t activation;
  float eps, norm_offset, scale, softcap;
};

struct DecoderBatch {
  float* x;  // (tokens, hidden): embeddings in, residual stream out
  float* y;  // (tokens, hidden): out, after the last norm
  const int64_t* positions;
  const int64_t* slots;
  const int32_t* block_table;
  const int32_t* context_lens;
  const int32_t* cu_seqlens_q;
  int64_t table_stride, sequences, tokens;
};

void run_decoder(const Decoder& decoder, const DecoderBatch& batch, int threads);

}  // namespace medvllm_engine
