#include <cstdint>
#include <cstdlib>
#include <memory>

#include "engine.h"
#include "pool.h"

namespace medvllm_engine {
namespace {

struct Free {
  void operator()(void* p) const { std::free(p); }
};

// Room for the rows of a call in 8 bits: memory of the calling thread, kept between calls and never cleared.
Activations room(int64_t rows, int64_t blocks) {
  static thread_local std::unique_ptr<int8_t, Free> memory;
  static thread_local int64_t size = 0;
  const int64_t count = rows * blocks;
  if (count > size) {
    memory.reset();
    const int64_t bytes = count * (kBlock + sizeof(float) + sizeof(int32_t));
    memory.reset(static_cast<int8_t*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
    size = count;
  }
  int8_t* q = memory.get();
  float* scale = reinterpret_cast<float*>(q + count * kBlock);
  return {q, scale, reinterpret_cast<int32_t*>(scale + count), blocks};
}

}  // namespace

void run_linear(LinearCall call, int threads) {
  const int64_t panels = panel_count(*call.w);
  const int64_t blocks = (call.m + kRowBlock - 1) / kRowBlock;
  if (call.m <= 0) return;
  // About four pieces for each thread: enough to even out a busy machine, few enough to stream weights in long runs.
  const int64_t run = panels / (threads * 4) > 1 ? panels / (threads * 4) : 1;
  const Kernels& isa = kernels();
  if (in_blocks(call.w->format)) {
    call.quantised = room(call.m, block_count(call.w->k));
    parallel(call.m, 16384 / call.w->k + 1, threads, [&](int64_t m, int) { isa.quantise(call, m); });
  }
  if (blocks == 1) {
    const int64_t pieces = (panels + run - 1) / run;
    parallel(pieces, 1, threads, [&](int64_t piece, int) {
      const int64_t end = (piece + 1) * run;
      isa.linear(call, piece * run, end < panels ? end : panels, 0, call.m);
    });
    return;
  }
  parallel(panels * blocks, 1, threads, [&](int64_t task, int) {
    const int64_t panel = task / blocks, begin = task % blocks * kRowBlock;
    const int64_t end = begin + kRowBlock;
    isa.linear(call, panel, panel + 1, begin, end < call.m ? end : call.m);
  });
}

}  // namespace medvllm_engine
