// Choosing a token from a row of logits: temperature, then top-k, top-p and min-p on the few that can be left.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "engine.h"
#include "pool.h"

namespace medvllm_engine {
namespace {

struct Candidate {
  float logit;
  int32_t token;
};
bool less_likely(const Candidate& a, const Candidate& b) {
  return a.logit < b.logit || (a.logit == b.logit && a.token > b.token);
}

class Row {
 public:
  Row(const SampleCall& call, int64_t row)
      : x_(call.logits + row * call.vocab), vocab_(call.vocab), temperature_(call.temperature[row]),
        top_k_(call.top_k[row]), top_p_(call.top_p[row]), min_p_(call.min_p[row]), uniform_(call.uniform[row]) {
    blocks_ = (vocab_ + kSampleBlock - 1) / kSampleBlock;
    maxima_.resize(blocks_);
    kernels().maxima(x_, vocab_, maxima_.data());
    top_ = *std::max_element(maxima_.begin(), maxima_.end());
  }

  int64_t choose() {
    if (!(top_ > -INFINITY)) return 0;  // nothing is allowed
    if (top_ == INFINITY) return std::find(x_, x_ + vocab_, top_) - x_;  // nothing else is likely beside it
    const bool cut_p = top_p_ < 1.0f;
    if (top_k_ <= 0 && !cut_p && !(min_p_ > 0.0f)) return from_all();
    if (cut_p && top_k_ <= 0) weigh();
    // Top-k with top-p is of the mass of all k, also of those that min-p then takes away.
    const bool near = min_p_ > 0.0f && !(cut_p && top_k_ > 0);
    // The candidates within some distance of the top, farther and farther until none outside can be left.
    for (float distance = 3.0f;; distance *= 1.5f) {
      const bool all = distance > 128.0f;
      gather(all ? -INFINITY : top_ - distance * temperature_);
      if (all || (near && distance > -std::log(min_p_) + 0.01f) || settled(cut_p)) break;
    }
    return from_candidates(cut_p);
  }

 private:
  float weight(float logit) const { return logit == top_ ? 1.0f : std::exp((logit - top_) / temperature_); }

  // The weight of every token, and the sums of blocks of them.
  void weigh() {
    weights_.resize(vocab_);
    sums_.resize(blocks_);
    kernels().weights(x_, vocab_, top_, 1.0f / temperature_, weights_.data(), sums_.data());
    total_ = 0.0;
    for (float sum : sums_) total_ += sum;
  }

  // In the order of the tokens: the one at which the running sum passes the number's share of all.
  int64_t from_all() {
    weigh();
    const double target = uniform_ * total_;
    double running = 0.0;
    int64_t block = 0;
    while (block + 1 < blocks_ && running + sums_[block] <= target) running += sums_[block++];
    const int64_t begin = block * kSampleBlock, end = std::min(begin + kSampleBlock, vocab_);
    int64_t last = begin;
    for (int64_t i = begin; i < end; ++i) {
      running += weights_[i];
      if (weights_[i] > 0.0f) last = i;
      if (running > target && weights_[i] > 0.0f) return i;
    }
    return last;
  }

  void gather(float threshold) {
    candidates_.clear();
    for (int64_t block = 0; block < blocks_; ++block) {
      if (!(maxima_[block] >= threshold) || maxima_[block] == -INFINITY) continue;
      const int64_t end = std::min((block + 1) * kSampleBlock, vocab_);
      for (int64_t i = block * kSampleBlock; i < end; ++i) {
        if (x_[i] >= threshold && x_[i] > -INFINITY) candidates_.push_back({x_[i], static_cast<int32_t>(i)});
      }
    }
  }

  // Whether top-k or top-p certainly ends among the candidates.
  bool settled(bool cut_p) const {
    if (top_k_ > 0) return static_cast<int64_t>(candidates_.size()) >= top_k_;
    if (!cut_p) return false;
    double mass = 0.0;
    for (const Candidate& each : candidates_) mass += weights_[each.token];
    return mass > top_p_ * total_;
  }

  // From the likeliest down, as far as needed: a heap gives them in order without sorting the others.
  int64_t from_candidates(bool cut_p) {
    std::make_heap(candidates_.begin(), candidates_.end(), less_likely);
    const size_t most = top_k_ > 0 ? std::min<size_t>(top_k_, candidates_.size()) : candidates_.size();
    const double enough = cut_p && top_k_ <= 0 ? top_p_ * total_ : INFINITY;
    const float least = cut_p && top_k_ > 0 ? 0.0f : min_p_;
    std::vector<double> running;
    std::vector<float> weights;
    std::vector<int32_t> tokens;
    auto end = candidates_.end();
    for (double sum = 0.0; tokens.size() < most && (tokens.empty() || sum < enough); --end) {
      const float w = weight(candidates_.front().logit);
      if (!tokens.empty() && w < least) break;
      tokens.push_back(candidates_.front().token);
      weights.push_back(w);
      running.push_back(sum += w);
      std::pop_heap(candidates_.begin(), end, less_likely);
    }
    size_t count = tokens.size();
    if (cut_p && top_k_ > 0) {
      const double limit = top_p_ * running.back();
      size_t kept = 1;
      while (kept < count && running[kept - 1] < limit) ++kept;
      count = kept;
      while (count > 1 && weights[count - 1] < min_p_) --count;
    }
    const double target = uniform_ * running[count - 1];
    const int64_t place = std::upper_bound(running.begin(), running.begin() + count, target) - running.begin();
    return tokens[std::min<int64_t>(place, count - 1)];
  }

  const float* x_;
  const int64_t vocab_;
  const float temperature_;
  const int64_t top_k_;
  const float top_p_, min_p_;
  const double uniform_;
  int64_t blocks_;
  float top_;
  double total_ = 0.0;
  std::vector<float> maxima_, weights_, sums_;
  std::vector<Candidate> candidates_;
};

}  // namespace

void run_sample(const SampleCall& call, int threads) {
  parallel(call.rows, 1, threads, [&](int64_t row, int) { call.tokens[row] = Row(call, row).choose(); });
}

}  // namespace medvllm_engine
