#include <cstdint>

#include "engine.h"
#include "pool.h"

namespace medvllm_engine {

void run_linear(const LinearCall& call, int threads) {
  const int64_t panels = panel_count(*call.w);
  const int64_t blocks = (call.m + kRowBlock - 1) / kRowBlock;
  if (call.m <= 0) return;
  // About four pieces for each thread: enough to even out a busy machine, few enough to stream weights in long runs.
  const int64_t run = panels / (threads * 4) > 1 ? panels / (threads * 4) : 1;
  const Kernels& isa = kernels();
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
