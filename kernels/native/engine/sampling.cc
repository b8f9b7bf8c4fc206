// Choosing a token from a row of logits: temperature, then top-k, top-p and min-p on the few that can be left.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "engine.h"
#include "pool.h"

namespace medvllm_engine {
namespace {

// More candidates than this are not all put in order.
constexpr size_t kMostInOrder = 512;
// Buckets of log-weight, 64 to a factor of e; the last one holds all weights below e^-31.98.
constexpr int kBuckets = 2048;
constexpr float kBucketsPerNat = 64.0f;

struct Candidate {
  float logit;
  int32_t token;
};
bool less_likely(const Candidate& a, const Candidate& b) {
  return a.logit < b.logit || (a.logit == b.logit && a.token > b.token);
}
bool likelier(const Candidate& a, const Candidate& b) { return less_likely(b, a); }

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
      if (many() || all || (near && distance > -std::log(min_p_) + 0.01f) || settled(cut_p)) break;
    }
    return many() ? from_many(cut_p) : from_candidates(cut_p);
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

  // Whether so many are candidates that they are not put in order; top-k bounds them.
  bool many() const { return top_k_ <= 0 && candidates_.size() > kMostInOrder; }

  void gather(float threshold) {
    candidates_.clear();
    for (int64_t block = 0; block < blocks_ && !many(); ++block) {
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

  // The same for a row so flat that thousands of tokens may be chosen, without top-k: weights are summed by buckets, and
  // only the bucket in which top-p ends and the one in which the number falls are looked into.
  int64_t from_many(bool cut_p) {
    if (!cut_p) weigh();
    fill_buckets();
    std::array<double, kBuckets + 1> sums{};
    for (int64_t i = 0; i < vocab_; ++i) sums[buckets_[i]] += weights_[i];
    const double enough = cut_p ? top_p_ * total_ : INFINITY;
    int last = 0;
    double mass = 0.0;
    while (last + 1 < kBuckets && mass + sums[last] < enough) mass += sums[last++];
    look_into(last);
    size_t kept = candidates_.size();
    if (kept > 0) kept = 1 + first_where(kept, [&](double sum) { return sum >= enough; }, mass);
    const double target = uniform_ * mass;
    int chosen = 0;
    double running = 0.0;
    while (chosen < last && running + sums[chosen] <= target) running += sums[chosen++];
    while (sums[chosen] == 0.0) running -= sums[--chosen];  // nothing is left in the last bucket, or rounding went past it
    if (chosen < last) {
      look_into(chosen);
      kept = candidates_.size();
    }
    return candidates_[first_where(kept, [&](double sum) { return sum > target; }, running)].token;
  }

  // Each token's bucket: it grows as the logit falls, so that the tokens of one are all likelier than those of the next.
  // Tokens that can't be chosen are in one behind the last.
  void fill_buckets() {
    buckets_.resize(vocab_);
    const float scale = kBucketsPerNat / temperature_, furthest = kBuckets - 1;
    for (int64_t i = 0; i < vocab_; ++i) {
      const float distance = (top_ - x_[i]) * scale;
      const int place = static_cast<int>(distance < furthest ? distance : furthest);
      buckets_[i] = weights_[i] > 0.0f && weights_[i] >= min_p_ ? place : kBuckets;
    }
  }

  void look_into(int wanted) {
    candidates_.clear();
    for (int64_t i = 0; i < vocab_; ++i) {
      if (buckets_[i] == wanted) candidates_.push_back({x_[i], static_cast<int32_t>(i)});
    }
  }

  // Of the first `count` candidates, from the likeliest down, the first at which `sum` and their weights `passes`, else
  // the last one; puts it in its place behind those that are likelier, and leaves the sum there in `sum`.
  template <typename Passes>
  size_t first_where(size_t count, Passes passes, double& sum) {
    const auto begin = candidates_.begin();
    size_t low = 0, high = count;
    double before = sum;
    while (high - low > kMostInOrder) {
      const size_t middle = low + (high - low) / 2;
      std::nth_element(begin + low, begin + middle, begin + high, likelier);
      double half = 0.0;
      for (size_t i = low; i < middle; ++i) half += weights_[candidates_[i].token];
      if (passes(before + half)) {
        high = middle;
      } else {
        before += half;
        low = middle;
      }
    }
    std::sort(begin + low, begin + high, likelier);
    sum = before;
    for (size_t i = low; i < high; ++i) {
      sum += weights_[candidates_[i].token];
      if (passes(sum)) return i;
    }
    return high - 1;
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
  std::vector<uint16_t> buckets_;
  std::vector<Candidate> candidates_;
};

}  // namespace

void run_sample(const SampleCall& call, int threads) {
  parallel(call.rows, 1, threads, [&](int64_t row, int) { call.tokens[row] = Row(call, row).choose(); });
}

}  // namespace medvllm_engine
