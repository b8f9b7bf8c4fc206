#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "engine.h"
#include "pool.h"
#include "scalar.h"

namespace medvllm_engine {
namespace {

// A tile of rows of one sequence and one KV head; a row is (token, query head of the group).
struct Task {
  int64_t sequence, kv_head, row_begin, row_end;
  int64_t key_begin, key_end;  // keys that any of its rows sees
  int64_t first_part;          // its chunks' place among the partial results

  int64_t chunk_begin() const { return key_begin / kKeyChunk; }
  int64_t chunks() const { return key_end <= key_begin ? 0 : (key_end + kKeyChunk - 1) / kKeyChunk - chunk_begin(); }
  int64_t rows() const { return row_end - row_begin; }
};

std::vector<Task> make_tasks(const AttentionCall& call) {
  std::vector<Task> tasks;
  const int64_t heads = call.query_heads / call.kv_heads;
  int64_t parts = 0;
  for (int64_t s = 0; s < call.sequences; ++s) {
    const int64_t tokens = call.cu_seqlens_q[s + 1] - call.cu_seqlens_q[s];
    const int64_t context = call.context_lens[s];
    for (int64_t begin = 0; begin < tokens * heads; begin += kRowTile) {
      const int64_t end = begin + kRowTile < tokens * heads ? begin + kRowTile : tokens * heads;
      const int64_t first = context - tokens + begin / heads, last = context - tokens + (end - 1) / heads;
      const int64_t key_end = call.causal ? last + 1 : context;
      int64_t key_begin = call.window ? first - call.window + 1 : 0;
      if (key_begin < 0) key_begin = 0;
      for (int64_t h = 0; h < call.kv_heads; ++h) {
        tasks.push_back({s, h, begin, end, key_begin, key_end, parts});
        parts += tasks.back().chunks();
      }
    }
  }
  return tasks;
}

struct Worker {
  const AttentionCall& call;
  const Kernels& isa;

  // The scaled queries of a task as floats, (rows, head_dim).
  void load_queries(const Task& task, float* q) const {
    const int64_t heads = call.query_heads / call.kv_heads, d = call.head_dim;
    for (int64_t r = task.row_begin; r < task.row_end; ++r, q += d) {
      const int64_t token = call.cu_seqlens_q[task.sequence] + r / heads;
      const int64_t at = token * call.q_stride + (task.kv_head * heads + r % heads) * d;
      const char* from = static_cast<const char*>(call.q) + at * (call.activation_dtype == kBFloat ? 2 : 4);
      isa.to_float(from, q, d, call.activation_dtype);
      for (int64_t i = 0; i < d; ++i) q[i] *= call.scale;
    }
  }

  void attend_chunk(const Task& task, int64_t chunk, const float* q, AttentionState& state) const {
    const int64_t begin = chunk * kKeyChunk, end = begin + kKeyChunk;
    isa.attend(call, task.sequence, task.kv_head, task.row_begin, task.row_end, q,
               begin > task.key_begin ? begin : task.key_begin, end < task.key_end ? end : task.key_end, state);
  }

  void write(const Task& task, const AttentionState& state) const {
    const int64_t heads = call.query_heads / call.kv_heads, d = call.head_dim;
    for (int64_t r = task.row_begin; r < task.row_end; ++r) {
      float* value = state.value + (r - task.row_begin) * d;
      const float sum = state.sum[r - task.row_begin];
      const float factor = sum > 0.0f ? 1.0f / sum : 0.0f;  // a row that sees no key is 0
      for (int64_t i = 0; i < d; ++i) value[i] *= factor;
      const int64_t token = call.cu_seqlens_q[task.sequence] + r / heads;
      const int64_t at = token * call.out_stride + (task.kv_head * heads + r % heads) * d;
      char* to = static_cast<char*>(call.out) + at * (call.activation_dtype == kBFloat ? 2 : 4);
      isa.from_float(value, to, d, call.activation_dtype);
    }
  }
};

void clear(AttentionState& state) {
  for (int64_t r = 0; r < kRowTile; ++r) {
    state.maximum[r] = -INFINITY;
    state.sum[r] = 0.0f;
  }
}

// Chunk by chunk in this thread.
void run_whole(const Worker& worker, const Task& task) {
  alignas(64) float q[kRowTile * kMaxHeadDim];
  alignas(64) float values[2][kRowTile * kMaxHeadDim];
  AttentionState total, part;
  total.value = values[0];
  part.value = values[1];
  clear(total);
  std::memset(values[0], 0, sizeof(float) * task.rows() * worker.call.head_dim);
  worker.load_queries(task, q);
  for (int64_t c = 0; c < task.chunks(); ++c) {
    worker.attend_chunk(task, task.chunk_begin() + c, q, part);
    worker.isa.merge(total, part, task.rows(), worker.call.head_dim);
  }
  worker.write(task, total);
}

// Chunks of all tasks side by side, then their sums in order: for few sequences with long contexts.
void run_split(const Worker& worker, const std::vector<Task>& tasks, int64_t parts, int threads) {
  const int64_t d = worker.call.head_dim;
  std::vector<AttentionState> states(parts);
  std::vector<int64_t> owner(parts);
  int64_t values = 0;
  for (size_t t = 0; t < tasks.size(); ++t) {
    for (int64_t c = 0; c < tasks[t].chunks(); ++c) owner[tasks[t].first_part + c] = t;
    values += tasks[t].chunks() * tasks[t].rows() * d;
  }
  std::unique_ptr<float[]> memory(new float[values]);
  float* next = memory.get();
  for (int64_t p = 0; p < parts; ++p) {
    states[p].value = next;
    next += tasks[owner[p]].rows() * d;
  }
  parallel(parts, 1, threads, [&](int64_t p, int) {
    alignas(64) float q[kRowTile * kMaxHeadDim];
    const Task& task = tasks[owner[p]];
    worker.load_queries(task, q);
    worker.attend_chunk(task, task.chunk_begin() + p - task.first_part, q, states[p]);
  });
  alignas(64) float total_values[kRowTile * kMaxHeadDim];
  for (const Task& task : tasks) {
    AttentionState total;
    total.value = total_values;
    clear(total);
    std::memset(total_values, 0, sizeof(float) * task.rows() * d);
    for (int64_t c = 0; c < task.chunks(); ++c) worker.isa.merge(total, states[task.first_part + c], task.rows(), d);
    worker.write(task, total);
  }
}

}  // namespace

void run_attention(const AttentionCall& call, int threads) {
  const std::vector<Task> tasks = make_tasks(call);
  if (tasks.empty()) return;
#if defined(__x86_64__)
  // Heads that AVX-512 vectors do not divide go to AVX2.
  const Kernels& isa = call.head_dim % kernels().width == 0 ? kernels() : avx2_kernels();
#else
  const Kernels& isa = kernels();
#endif
  const Worker worker{call, isa};
  const int64_t count = static_cast<int64_t>(tasks.size());
  const int64_t parts = tasks.back().first_part + tasks.back().chunks();
  if (threads > 1 && count < 4 * threads && parts > count) return run_split(worker, tasks, parts, threads);
  parallel(count, 1, threads, [&](int64_t t, int) { run_whole(worker, tasks[t]); });
}

void run_store(const void* k, const void* v, int64_t k_stride, int64_t v_stride, void* k_cache, void* v_cache,
               const int64_t* slots, int64_t tokens, int64_t kv_heads, int64_t head_dim, int64_t block_size,
               int64_t block_stride, int64_t slot_stride, int64_t head_stride, int64_t activation_dtype,
               int64_t cache_dtype) {
  const int64_t in_size = activation_dtype == kBFloat ? 2 : 4, out_size = cache_dtype == kBFloat ? 2 : 4;
  const Kernels& isa = kernels();
  for (int64_t t = 0; t < tokens; ++t) {
    if (slots[t] < 0) continue;
    const int64_t to = slots[t] / block_size * block_stride + slots[t] % block_size * slot_stride;
    for (int which = 0; which < 2; ++which) {
      const char* from = static_cast<const char*>(which ? v : k) + t * (which ? v_stride : k_stride) * in_size;
      char* cache = static_cast<char*>(which ? v_cache : k_cache) + to * out_size;
      for (int64_t h = 0; h < kv_heads; ++h) {
        const char* x = from + h * head_dim * in_size;
        char* y = cache + h * head_stride * out_size;
        if (in_size == out_size) {
          std::memcpy(y, x, head_dim * out_size);
        } else if (activation_dtype == kBFloat) {
          isa.to_float(x, reinterpret_cast<float*>(y), head_dim, kBFloat);
        } else {
          isa.from_float(reinterpret_cast<const float*>(x), y, head_dim, kBFloat);
        }
      }
    }
  }
}

}  // namespace medvllm_engine
