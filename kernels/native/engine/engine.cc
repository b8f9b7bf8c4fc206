// The C interface, for ctypes. Pointers are those of contiguous tensors unless a stride (in elements) is given; what
// they point to was checked by the caller.
#include <atomic>
#include <cstdint>
#include <cstring>
#include <vector>

#include "decoder.h"
#include "engine.h"
#include "pool.h"

namespace medvllm_engine {
namespace {

std::atomic<const Kernels*> chosen{nullptr};

const Kernels* find_kernels(const char* name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  if (vnni && (name == nullptr || std::strcmp(name, "avx512vnni") == 0)) return &avx512vnni_kernels();
  if (avx512 && (name == nullptr || std::strcmp(name, "avx512") == 0)) return &avx512_kernels();
  if (avx2 && (name == nullptr || std::strcmp(name, "avx2") == 0)) return &avx2_kernels();
#endif
  if (name == nullptr || std::strcmp(name, "portable") == 0) return &portable_kernels();
  return nullptr;
}

// Rows in pieces worth a thread's while: about 16 thousand values.
template <typename Body>
void over_rows(int64_t rows, int64_t columns, int threads, const Body& body) {
  const int64_t piece = 16384 / (columns > 0 ? columns : 1) + 1;
  parallel((rows + piece - 1) / piece, 1, threads, [&](int64_t p, int) {
    const int64_t begin = p * piece;
    body(begin, begin + piece < rows ? piece : rows - begin);
  });
}

const char* at(const void* p, int64_t index, int64_t dtype) {
  return static_cast<const char*>(p) + index * (dtype == kBFloat ? 2 : 4);
}
char* at(void* p, int64_t index, int64_t dtype) { return static_cast<char*>(p) + index * (dtype == kBFloat ? 2 : 4); }

}  // namespace

bool choose_kernels(const char* name) {
  const Kernels* found = find_kernels(name);
  if (found) chosen.store(found);
  return found != nullptr;
}

const Kernels& kernels() {
  const Kernels* now = chosen.load(std::memory_order_relaxed);
  if (now) return *now;
  choose_kernels(nullptr);
  return *chosen.load();
}

}  // namespace medvllm_engine

using namespace medvllm_engine;

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int mv_engine_abi_version() { return 2; }
EXPORT const char* mv_engine_isa() { return kernels().name; }
EXPORT int mv_engine_choose_isa(const char* name) { return choose_kernels(name); }

EXPORT int64_t mv_engine_packed_bytes(const Linear* w) { return panel_count(*w) * panel_bytes(*w); }

EXPORT void mv_engine_pack(const Linear* w, const void* weight, int64_t dtype, int threads) {
  pack(*w, weight, static_cast<Dtype>(dtype), threads);
}

EXPORT void mv_engine_pack_ggml(const Linear* w, const void* blocks, int64_t type, int threads) {
  pack_ggml(*w, static_cast<const uint8_t*>(blocks), type, threads);
}

EXPORT void mv_engine_gather_rows(const Linear* w, const int64_t* rows, int64_t count, float* y) {
  gather_rows(*w, rows, count, y, w->k);
}

EXPORT void mv_engine_linear(const Linear* w, const void* x, int64_t ldx, int64_t x_dtype, int64_t m, void* y,
                             int64_t ldy, int64_t y_dtype, int threads) {
  LinearCall call = {w, static_cast<const float*>(x), ldx, m, y, ldy, static_cast<Dtype>(y_dtype), false, {}};
  static thread_local std::vector<float> converted;
  if (x_dtype == kBFloat) {
    if (converted.size() < static_cast<size_t>(m * w->k)) converted.resize(m * w->k);
    float* to = converted.data();
    over_rows(m, w->k, threads, [&](int64_t begin, int64_t count) {
      for (int64_t r = begin; r < begin + count; ++r) {
        kernels().to_float(at(x, r * ldx, kBFloat), to + r * w->k, w->k, kBFloat);
      }
    });
    call.x = to;
    call.ldx = w->k;
  }
  run_linear(call, threads);
}

EXPORT void mv_engine_attention(const AttentionCall* call, int threads) { run_attention(*call, threads); }

EXPORT void mv_engine_store_kv(const void* k, const void* v, int64_t k_stride, int64_t v_stride, void* k_cache,
                               void* v_cache, const int64_t* slots, int64_t tokens, int64_t kv_heads, int64_t head_dim,
                               int64_t block_size, int64_t block_stride, int64_t slot_stride, int64_t head_stride,
                               int64_t activation_dtype, int64_t cache_dtype, int threads) {
  over_rows(tokens, kv_heads * head_dim, threads, [&](int64_t begin, int64_t count) {
    run_store(at(k, begin * k_stride, activation_dtype), at(v, begin * v_stride, activation_dtype), k_stride, v_stride,
              k_cache, v_cache, slots + begin, count, kv_heads, head_dim, block_size, block_stride, slot_stride,
              head_stride, activation_dtype, cache_dtype);
  });
}

EXPORT void mv_engine_rms_norm(const void* x, const void* residual, const float* weight, void* y, void* sum,
                               int64_t rows, int64_t columns, float eps, float offset, int64_t dtype, int threads) {
  over_rows(rows, columns, threads, [&](int64_t begin, int64_t count) {
    const int64_t i = begin * columns;
    kernels().rms_norm(at(x, i, dtype), residual ? at(residual, i, dtype) : nullptr, weight, at(y, i, dtype),
                       sum ? at(sum, i, dtype) : nullptr, count, columns, columns, eps, offset, dtype);
  });
}

EXPORT void mv_engine_layer_norm(const void* x, const float* weight, const float* bias, void* y, int64_t rows,
                                 int64_t columns, float eps, int64_t dtype, int threads) {
  over_rows(rows, columns, threads, [&](int64_t begin, int64_t count) {
    const int64_t i = begin * columns;
    kernels().layer_norm(at(x, i, dtype), weight, bias, at(y, i, dtype), count, columns, eps, dtype);
  });
}

EXPORT void mv_engine_act_and_mul(const void* x, void* y, int64_t rows, int64_t columns, int64_t activation,
                                  int64_t dtype, int threads) {
  over_rows(rows, columns, threads, [&](int64_t begin, int64_t count) {
    kernels().act_and_mul(at(x, begin * 2 * columns, dtype), at(y, begin * columns, dtype), count, columns, activation,
                          dtype);
  });
}

EXPORT void mv_engine_activate(const void* x, void* y, int64_t count, int64_t activation, int64_t dtype, int threads) {
  over_rows((count + 1023) / 1024, 1024, threads, [&](int64_t begin, int64_t rows) {
    const int64_t i = begin * 1024, n = rows * 1024 < count - i ? rows * 1024 : count - i;
    kernels().activate(at(x, i, dtype), at(y, i, dtype), n, activation, dtype);
  });
}

EXPORT void mv_engine_rotary(void* x, const int64_t* positions, const float* cos_sin, int64_t tokens, int64_t heads,
                             int64_t head_dim, int64_t rotary_dim, int64_t token_stride, int64_t dtype, int threads) {
  over_rows(tokens, heads * head_dim, threads, [&](int64_t begin, int64_t count) {
    kernels().rotary(at(x, begin * token_stride, dtype), positions + begin, cos_sin, count, heads, head_dim, rotary_dim,
                     token_stride, dtype);
  });
}

EXPORT void mv_engine_argmax(const float* x, int64_t rows, int64_t columns, int64_t* out, int threads) {
  over_rows(rows, columns, threads, [&](int64_t begin, int64_t count) {
    for (int64_t r = begin; r < begin + count; ++r) out[r] = kernels().argmax(x + r * columns, columns);
  });
}

EXPORT void mv_engine_sample(const SampleCall* call, int threads) { run_sample(*call, threads); }

EXPORT void mv_engine_decoder(const Decoder* decoder, const DecoderBatch* batch, int threads) {
  run_decoder(*decoder, *batch, threads);
}
