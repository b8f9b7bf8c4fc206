// A pool of threads for loops of a few microseconds to milliseconds.
#pragma once

#include <cstdint>

namespace medvllm_engine {

// Calls body(context, task, thread) for every task in [0, tasks), `grain` of them at a time, on at most `threads`
// threads, the caller among them. Tasks are taken as threads become free: a thread that the system has not scheduled
// holds nobody up unless it has begun a task. Calls from several threads take turns.
void parallel_for(int64_t tasks, int64_t grain, int threads, void (*body)(void* context, int64_t task, int thread),
                  void* context);

template <typename Body>
void parallel(int64_t tasks, int64_t grain, int threads, const Body& body) {
  parallel_for(
      tasks, grain, threads,
      [](void* context, int64_t task, int thread) { (*static_cast<const Body*>(context))(task, thread); },
      const_cast<Body*>(&body));
}

constexpr int kMaxThreads = 256;

}  // namespace medvllm_engine
