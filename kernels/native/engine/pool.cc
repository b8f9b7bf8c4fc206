#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace medvllm_engine {
namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// A worker looks for work this long before it sleeps: longer than the gaps within a decoding step, shorter than what a
// caller's own threads would miss.
constexpr std::chrono::microseconds kSpin(150);
constexpr uint64_t kOpen = uint64_t{1} << 31;
constexpr uint64_t kActive = kOpen - 1;

struct Pool {
  std::mutex region;  // held by the caller whose loop runs
  // Number of the loop << 32 | open to workers | workers inside.
  alignas(64) std::atomic<uint64_t> state{0};
  alignas(64) std::atomic<int64_t> next{0};
  int64_t tasks = 0;
  int64_t grain = 1;
  std::atomic<int> threads{1};
  void (*body)(void*, int64_t, int) = nullptr;
  void* context = nullptr;
  std::mutex sleep;
  std::condition_variable wake;
  std::atomic<int> sleepers{0};
  int started = 1;  // threads there are, the caller included

  void work(int thread) {
    for (;;) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= tasks) return;
      const int64_t end = begin + grain < tasks ? begin + grain : tasks;
      for (int64_t task = begin; task < end; ++task) body(context, task, thread);
    }
  }

  // Enters the loop that is open, if there is one other than `seen`; returns its number, or `seen`.
  uint64_t join(uint64_t seen, int thread) {
    uint64_t now = state.load(std::memory_order_acquire);
    while ((now & kOpen) && (now >> 32) != seen && thread < threads.load(std::memory_order_relaxed)) {
      if (!state.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) continue;
      work(thread);
      state.fetch_sub(1, std::memory_order_release);
      return now >> 32;
    }
    return seen;
  }

  void serve(int thread) {
    uint64_t seen = 0;
    for (;;) {
      auto begin = std::chrono::steady_clock::now();
      for (int turn = 1;; ++turn) {
        const uint64_t number = join(seen, thread);
        if (number != seen) {
          seen = number;
          begin = std::chrono::steady_clock::now();
          continue;
        }
        pause();
        if (turn % 64 == 0 && std::chrono::steady_clock::now() - begin > kSpin) break;
      }
      std::unique_lock<std::mutex> lock(sleep);
      sleepers.fetch_add(1);
      wake.wait(lock, [&] {
        const uint64_t now = state.load();
        return (now & kOpen) && (now >> 32) != seen && thread < threads.load();
      });
      sleepers.fetch_sub(1);
    }
  }

  void run(int64_t count, int64_t step, int wanted, void (*function)(void*, int64_t, int), void* argument) {
    std::lock_guard<std::mutex> turn(region);
    while (started < wanted) std::thread(&Pool::serve, this, started++).detach();
    tasks = count;
    grain = step;
    body = function;
    context = argument;
    next.store(0, std::memory_order_relaxed);
    threads.store(wanted, std::memory_order_relaxed);
    const uint64_t number = ((state.load(std::memory_order_relaxed) >> 32) + 1) << 32;
    state.store(number | kOpen);  // sequentially consistent: before the look at the sleepers
    if (sleepers.load() > 0) {
      { std::lock_guard<std::mutex> lock(sleep); }
      wake.notify_all();
    }
    work(0);
    uint64_t now = state.fetch_and(~kOpen, std::memory_order_acq_rel) & kActive;
    for (int turns = 1; now != 0; ++turns) {
      pause();
      if (turns % 1024 == 0) sched_yield();
      now = state.load(std::memory_order_acquire) & kActive;
    }
  }
};

// Never destroyed: its threads may still look at it while the process ends.
std::atomic<Pool*> pool{nullptr};

// The threads do not exist in a forked child: it gets a pool of its own.
void forget_pool() { pool.store(new Pool); }

Pool& current() {
  static const bool ready = [] {
    pool.store(new Pool);
    pthread_atfork(nullptr, nullptr, forget_pool);
    return true;
  }();
  (void)ready;
  return *pool.load();
}

}  // namespace

void parallel_for(int64_t tasks, int64_t grain, int threads, void (*body)(void*, int64_t, int), void* context) {
  if (threads > kMaxThreads) threads = kMaxThreads;
  if (grain < 1) grain = 1;
  const int64_t pieces = (tasks + grain - 1) / grain;
  if (threads > pieces) threads = static_cast<int>(pieces);
  if (threads <= 1) {
    for (int64_t task = 0; task < tasks; ++task) body(context, task, 0);
    return;
  }
  current().run(tasks, grain, threads, body, context);
}

}  // namespace medvllm_engine
