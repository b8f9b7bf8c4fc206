// A linear-chain model over tokens: hashed features and integer Viterbi. The Python twin in medvllm_kernels/crf.py
// gives the same results; the features and the file format are documented there.
#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "crf_kinds.h"
#include "crf_model.h"
#include "text.h"

namespace medvllm {

using namespace crf;

namespace {

struct Row {
  uint32_t start;
  uint32_t end;
  uint32_t kind;  // 0 a phrase of the table, 1 + model a span of the model
  uint32_t payload;  // of a phrase; of a span see MarkFoundElsewhere
  int32_t margin[kModels];  // the least of its tokens' margins
};

}  // namespace

struct CrfResult {
  std::vector<Token> tokens;
  std::vector<Row> rows;
  std::vector<uint32_t> starts;
  std::vector<int32_t> margins;  // (tokens, kModels): best path with the token in a span less best path with it outside
};

namespace {

constexpr size_t kMaxPairs = 48;  // features of a token and others; CollectPairs makes 40 at most
constexpr size_t kPending = 4;    // tokens whose weights are being fetched
constexpr size_t kSeenWords = 64;

class Tagger {
 public:
  Tagger(const CrfView& view, const TableView& table, const uint32_t* text, size_t length,
         const uint32_t* definitions, size_t definition_count, CrfResult& result)
      : view_(view), scorer_(view), text_(text), result_(result), tokens_(result.tokens) {
    Tokenize(text, length, tokens_);
    FindPhrases(table, text, tokens_, false, detect_);
    detect_.erase(std::remove_if(detect_.begin(), detect_.end(),
                                 [](const Match& match) { return !(match.payload >> kPayloadTypeShift & kTypeMask); }),
                  detect_.end());
    std::vector<Match> classed;
    FindClassed(scorer_, tokens_, classed);
    near_.assign(tokens_.size(), 0);
    far_.assign(tokens_.size(), 0);
    CountTopicWords();
    MarkLayer(detect_, kPayloadTypeShift, near_);
    MarkLayer(classed, 0, far_);
    for (size_t i = 0; i < definition_count; ++i) AddDefinition(definitions + 4 * i);
    std::stable_sort(short_forms_.begin(), short_forms_.end(), ByHash);
    for (const uint64_t kind : {kinds::kNearFar, kinds::kNearBeforeHere, kinds::kNearHereAfter}) {
      scorer_.Add(Feature(kind, Pair(0, 0)), plain_.data());
    }
  }

  void Run() {
    const size_t count = tokens_.size();
    result_.margins.assign(count * kModels, 0);
    result_.starts.resize(count);
    for (size_t i = 0; i < count; ++i) result_.starts[i] = tokens_[i].start;
    labels_.assign(count * kModels, 0);
    std::vector<size_t> ends;  // of the sequences of a block
    size_t block = 0;
    for (size_t i = 1, first = 0; i <= count; ++i) {
      if (i < count && i - first < kMaxSequence && !CutsBefore(text_, view_, tokens_, i)) continue;
      ends.push_back(i);
      first = i;
      if (i < count && i - block < kBlock) continue;
      TagBlock(block, ends);
      block = i;
      ends.clear();
    }
    for (const Match& match : detect_) AddRow(match.first_token, match.last_token, 0, match.payload);
    for (int model = 0; model < kModels; ++model) AddSpans(model);
    MarkFoundElsewhere();
    std::sort(result_.rows.begin(), result_.rows.end(), [](const Row& a, const Row& b) {
      if ((a.kind == 0) != (b.kind == 0)) return a.kind == 0;
      if (a.start != b.start) return a.start < b.start;
      return a.end != b.end ? a.end > b.end : a.kind < b.kind;
    });
  }

 private:
  void CountTopicWords() {
    constexpr size_t kAhead = 8;  // tokens
    uint64_t ahead[kAhead];
    const size_t count = tokens_.size();
    const auto prepare = [&](size_t i) {
      if (i < count) scorer_.PrefetchClass(ahead[i % kAhead] = Feature(kinds::kTopicKey, tokens_[i].hash));
    };
    for (size_t i = 0; i < kAhead; ++i) prepare(i);
    for (size_t i = 0; i < count; ++i) {
      if (i % kTopicBlock == 0) topic_words_.push_back(0);
      if (scorer_.ClassOf(ahead[i % kAhead])) ++topic_words_.back();
      prepare(i + kAhead);
    }
  }

  static std::vector<Cached>& Cache() {
    thread_local std::vector<Cached> cache(kCacheSize);
    return cache;
  }

  Cached& EntryOf(const Token& token, uint64_t shape) const {
    return cache_[(token.hash ^ (shape * 3)) >> 7 & (kCacheSize - 1)];
  }

  void Fill(const Token& token, uint64_t shape, Cached& entry) {
    const Profile profile = ProfileOf(view_, scorer_, text_, token, shape, folded_);
    std::array<Scores, kSlots> scores;
    ScoreProfile(scorer_, profile, scores);
    entry.word = token.hash;
    entry.shape = shape;
    entry.tail3 = profile.tail3;
    entry.tail4 = profile.tail4;
    entry.letters = profile.letters;
    entry.serial = static_cast<uint32_t>(view_.serial);
    entry.wide = false;
    for (size_t slot = 0; slot < kSlots; ++slot) {
      for (size_t i = 0; i < kWidth; ++i) {
        entry.scores[slot][i] = static_cast<int16_t>(scores[slot][i]);
        entry.wide = entry.wide || entry.scores[slot][i] != scores[slot][i];
      }
    }
  }

  struct ShortForm {
    uint64_t hash;
    uint64_t code;  // type codes of the phrases, for detection and for lookup, that the long form ends in, plus 1
  };

  static bool ByHash(const ShortForm& a, const ShortForm& b) { return a.hash < b.hash; }

  // The index of the token with this start; the number of tokens where there is none.
  size_t TokenAt(uint32_t start) const {
    const auto found = std::lower_bound(tokens_.begin(), tokens_.end(), start,
                                        [](const Token& token, uint32_t at) { return token.start < at; });
    return found != tokens_.end() && found->start == start ? static_cast<size_t>(found - tokens_.begin())
                                                           : tokens_.size();
  }

  // A definition is (short start, short end, long start, long end); short forms of more than one token are left out.
  void AddDefinition(const uint32_t* definition) {
    const size_t at = TokenAt(definition[0]);
    if (at == tokens_.size() || tokens_[at].end != definition[1]) return;
    const auto after = std::lower_bound(tokens_.begin(), tokens_.end(), definition[3],
                                        [](const Token& token, uint32_t end) { return token.start < end; });
    if (after == tokens_.begin()) return;
    const size_t last = static_cast<size_t>(after - tokens_.begin()) - 1;
    const uint64_t near = near_[last] >> kTypeShift, far = far_[last] >> kTypeShift;
    short_forms_.push_back({tokens_[at].hash, near * 16 + far + 1});
  }

  // The code of the first definition of this token, 0 where it has none.
  uint64_t ShortFormCode(const Token& token) const {
    if (short_forms_.empty() || !(token.flags & kHasUpper)) return 0;
    const auto found = std::lower_bound(short_forms_.begin(), short_forms_.end(), ShortForm{token.hash, 0}, ByHash);
    return found != short_forms_.end() && found->hash == token.hash ? found->code : 0;
  }

  template <typename Number>
  static void Sum(const Number* from, int32_t* to) {
    for (int i = 0; i < kWidth; ++i) to[i] += from[i];
  }

  bool Glued(size_t i) const { return i > 0 && i < tokens_.size() && tokens_[i - 1].end == tokens_[i].start; }

  // Emissions of the tokens from `first` on, in sequences with these ends, from everything within four tokens of them.
  void Emit(size_t first, const std::vector<size_t>& ends) {
    const size_t last = ends.back();
    const size_t from = first >= kReach ? first - kReach : 0;
    const size_t to = std::min(last + kReach, tokens_.size());
    near_profiles_.resize(to - from);
    emissions_.assign(last - first, Scores{});
    constexpr size_t kAhead = 8;  // tokens
    uint64_t shapes[kAhead];
    const auto prepare = [&](size_t i) {
      if (i >= to) return;
      const uint64_t shape = shapes[i % kAhead] = ShapeOf(view_, text_, tokens_[i]);
      const char* const entry = reinterpret_cast<const char*>(&EntryOf(tokens_[i], shape));
      for (size_t line = 0; line < sizeof(Cached); line += 64) PrefetchLine(entry + line);
    };
    for (size_t i = from; i < from + kAhead; ++i) prepare(i);
    for (size_t i = from; i < to; ++i) {
      const uint64_t shape = shapes[i % kAhead];
      Cached& token = EntryOf(tokens_[i], shape);
      if (token.word != tokens_[i].hash || token.shape != shape ||
          token.serial != static_cast<uint32_t>(view_.serial)) {
        Fill(tokens_[i], shape, token);
      }
      near_profiles_[i - from] = {token.word, token.shape, token.tail3, token.tail4, token.letters};
      if (token.wide) {
        std::array<Scores, kSlots> scores;
        ScoreProfile(scorer_, ProfileOf(view_, scorer_, text_, tokens_[i], shape, folded_), scores);
        Spread(i, first, last, [&](size_t slot) { return scores[slot].data(); });
      } else {
        Spread(i, first, last, [&](size_t slot) { return token.scores[slot]; });
      }
      prepare(i + kAhead);
    }
    for (size_t begin = first, at = 0; at < ends.size(); begin = ends[at++]) {
      for (size_t i = begin; i < ends[at]; ++i) {
        Pending& pending = pending_[i % kPending];
        Settle(pending);
        pending.scores = emissions_[i - first].data();
        CollectPairs(i, from, begin, ends[at], pending);
        for (size_t k = 0; k < pending.count; ++k) scorer_.PrefetchWeight(pending.features[k]);
      }
    }
    for (Pending& pending : pending_) Settle(pending);
  }

  // Adds the scores of token i alone to those of the tokens near it that lie in [first, last).
  template <typename ScoresOf>
  void Spread(size_t i, size_t first, size_t last, ScoresOf scores_of) {
    const auto add = [&](size_t at, size_t slot) {
      if (at >= first && at < last) Sum(scores_of(slot), emissions_[at - first].data());
    };
    add(i, 0);
    add(i + 1, 1);
    if (i >= 1) add(i - 1, 2);
    add(i + 2, 3);
    if (i >= 2) add(i - 2, 4);
    add(i + 3, 5);
    add(i + 4, 5);
    if (i >= 3) add(i - 3, 6);
    if (i >= 4) add(i - 4, 6);
  }

  // Features of a token that may have weights, to be added when these have been fetched.
  struct Pending {
    uint64_t features[kMaxPairs];
    size_t count = 0;
    int32_t* scores = nullptr;
  };

  void Settle(Pending& pending) const {
    for (size_t k = 0; k < pending.count; ++k) scorer_.AddWeight(pending.features[k], pending.scores);
    pending.count = 0;
  }

  // What pairs need of a token's profile.
  struct Near {
    uint64_t word = kEdge;
    uint64_t shape = kEdge;
    uint64_t tail3 = kEdge;
    uint64_t tail4 = kEdge;
    bool letters = false;
  };

  const Near& At(size_t i, size_t from) const {
    static const Near edge;
    return i < tokens_.size() ? near_profiles_[i - from] : edge;
  }

  void CollectPairs(size_t i, size_t from, size_t begin, size_t end, Pending& pending) const {
    const Near& p = At(i, from);
    const Near& prev = At(i - 1, from);  // i - 1 wraps round to the edge at 0
    const Near& next = At(i + 1, from);
    const bool before = Glued(i), after = Glued(i + 1);
    uint64_t* const features = pending.features;
    size_t size = 0;
    const auto add = [&](uint64_t kind, uint64_t value) {  // without a branch, which would be guessed wrong too often
      features[size] = Feature(kind, value);
      size += scorer_.MayHaveWeight(features[size]);
    };
    add(kinds::kGluedShape, Pair(p.shape, before * 2 + after));
    if (before) add(kinds::kGluedBefore, Pair(prev.word, p.shape));
    if (after) add(kinds::kGluedAfter, Pair(next.word, p.shape));
    const uint64_t near = near_[i], far = far_[i];
    if (near) {
      add(kinds::kNear, near);
      add(kinds::kNearPlace, near >> kPlaceShift);
      add(kinds::kNearTypeWord, Pair(p.word, near >> kTypeShift));
    }
    if (far) {
      add(kinds::kFar, far);
      add(kinds::kFarPlace, far >> kPlaceShift);
      add(kinds::kFarTypeTail4, Pair(p.tail4, far >> kTypeShift));
    }
    const uint64_t count = tokens_.size();
    // Most tokens have no phrase on or beside them: what that says is added up once.
    const bool plain = !near && !far && i >= 1 && !near_[i - 1] && i + 1 < count && !near_[i + 1];
    if (plain) Sum(plain_.data(), pending.scores);
    if (!plain) add(kinds::kNearFar, Pair(near >> kPlaceShift, far >> kPlaceShift));
    for (uint64_t k = 0; k < 4; ++k) {
      const uint64_t at = i + (k < 2 ? k - 2 : k - 1);
      if (at >= count) continue;
      if (near_[at]) add(kinds::kNearPlaceAt + k, near_[at] >> kPlaceShift);
      if (far_[at]) add(kinds::kFarPlaceAt + k, far_[at] >> kPlaceShift);
    }
    if (const uint64_t code = ShortFormCode(tokens_[i])) {
      add(kinds::kShortForm, code);
      add(kinds::kShortFormNear, Pair(code, near >> kTypeShift));
    }
    if (topic_words_[i / kTopicBlock] >= kTopicWords) {
      add(kinds::kTopicWord, p.word);
      add(kinds::kTopicNear, near >> kPlaceShift);
      add(kinds::kTopicFar, far >> kPlaceShift);
      add(kinds::kTopicNearFar, Pair(near >> kTypeShift, far >> kTypeShift));
      add(kinds::kTopicWordBefore, prev.word);
      add(kinds::kTopicWordAfter, next.word);
      add(kinds::kTopicTail4, p.tail4);
      add(kinds::kTopicShape, p.shape);
    }
    if (before || after) AddChunk(i, from, begin, end, p, add);
    add(kinds::kWordsBeforeHere, Pair(prev.word, p.word));
    add(kinds::kWordsHereAfter, Pair(p.word, next.word));
    add(kinds::kWordsAround, Pair(prev.word, next.word));
    if (!plain) {
      add(kinds::kNearBeforeHere, Pair(i >= 1 ? near_[i - 1] >> kPlaceShift : kEdge, near >> kPlaceShift));
      add(kinds::kNearHereAfter, Pair(near >> kPlaceShift, i + 1 < count ? near_[i + 1] >> kPlaceShift : kEdge));
    }
    if (p.letters) {
      add(kinds::kTailsOfThree, Pair(Pair(prev.tail3, p.tail3), next.tail3));
      add(kinds::kTailsBeforeHere, Pair(prev.tail3, p.tail4));
      add(kinds::kTailsHereAfter, Pair(p.tail4, next.tail3));
    }
    pending.count = size;
  }

  // Features of the run of tokens without white space around token i, as far as it lies in its kMaxChunk tokens and
  // near its sequence [begin, end).
  template <typename Add>
  void AddChunk(size_t i, size_t from, size_t begin, size_t end, const Near& p, Add& add) const {
    const size_t block = i / kMaxChunk * kMaxChunk;
    const size_t low = std::max(block, begin >= kReach ? begin - kReach : 0);
    const size_t high = std::min({block + kMaxChunk, end + kReach, tokens_.size()});
    size_t first = i, last = i;
    while (first > low && Glued(first)) --first;
    while (last + 1 < high && Glued(last + 1)) ++last;
    uint64_t shape = kEdge;
    for (size_t k = first; k <= last; ++k) shape = CharStep(Pair(shape, At(k, from).shape), 0);
    add(kinds::kChunkShape, shape);
    add(kinds::kChunkLastWord, Pair(At(last, from).word, p.shape));
    add(kinds::kChunkFirstWord, Pair(At(first, from).word, p.shape));
    add(kinds::kChunkLastTail4, Pair(At(last, from).tail4, std::min<uint64_t>(i - first, 3)));
  }

  void TagBlock(size_t first, const std::vector<size_t>& ends) {
    Emit(first, ends);
    block_ = first;
    for (const size_t end : ends) {
      for (int model = 0; model < kModels; ++model) Decode(first, end, model);
      first = end;
    }
  }

  static int32_t Step(const int16_t* transitions, int from, int to) {
    const bool open = from == 1 || from == 2;                // after B and I a span goes on
    const bool goes_on = to == 2 || to == 3;                 // with I or E
    return open == goes_on ? transitions[from * kLabels + to] : kForbidden;
  }

  void Decode(size_t first, size_t last, int model) {
    using Column = std::array<int32_t, kLabels>;
    const size_t count = last - first;
    thread_local std::vector<Column> forward, backward;
    forward.resize(count);
    backward.resize(count);
    int32_t step[kLabels][kLabels];
    for (int a = 0; a < kLabels; ++a) {
      for (int b = 0; b < kLabels; ++b) step[a][b] = Step(view_.transitions + model * kLabels * kLabels, a, b);
    }
    const auto emission = [&](size_t i) { return &emissions_[first - block_ + i][model * kLabels]; };
    const auto outer = [&](const Column& from, int b) {  // to O, B or S
      return std::max({from[0] + step[0][b], from[3] + step[3][b], from[4] + step[4][b]});
    };
    const auto inner = [&](const Column& from, int b) { return std::max(from[1] + step[1][b], from[2] + step[2][b]); };
    for (size_t i = 0; i < count; ++i) {
      const int32_t* own = emission(i);
      Column best{0, 0, kForbidden, kForbidden, 0};
      if (i > 0) {
        const Column& last = forward[i - 1];
        best = {outer(last, 0), outer(last, 1), inner(last, 2), inner(last, 3), outer(last, 4)};
      }
      for (int b = 0; b < kLabels; ++b) forward[i][b] = std::max(best[b] + own[b], kForbidden);
    }
    for (size_t i = count; i-- > 0;) {
      Column best{0, kForbidden, kForbidden, 0, 0};
      if (i + 1 < count) {
        Column next = backward[i + 1];
        for (int b = 0; b < kLabels; ++b) next[b] += emission(i + 1)[b];
        for (const int a : {0, 3, 4}) {
          best[a] = std::max({step[a][0] + next[0], step[a][1] + next[1], step[a][4] + next[4]});
        }
        for (const int a : {1, 2}) best[a] = std::max(step[a][2] + next[2], step[a][3] + next[3]);
      }
      for (int a = 0; a < kLabels; ++a) backward[i][a] = std::max(best[a], kForbidden);
    }
    Backtrack(first, count, model, forward.data(), step);
    for (size_t i = 0; i < count; ++i) {
      int32_t inside = std::numeric_limits<int32_t>::min();
      for (int b = 1; b < kLabels; ++b) inside = std::max(inside, forward[i][b] + backward[i][b]);
      result_.margins[(first + i) * kModels + model] = inside - (forward[i][0] + backward[i][0]);
    }
  }

  // The best path; of equal labels the lowest.
  void Backtrack(size_t first, size_t count, int model, const std::array<int32_t, kLabels>* forward,
                 const int32_t (*step)[kLabels]) {
    int label = 0;
    for (const int b : {3, 4}) {
      if (forward[count - 1][b] > forward[count - 1][label]) label = b;
    }
    for (size_t i = count; i-- > 0;) {
      labels_[(first + i) * kModels + model] = static_cast<uint8_t>(label);
      if (i == 0) break;
      int best = 0;
      for (int a = 1; a < kLabels; ++a) {
        if (forward[i - 1][a] + step[a][label] > forward[i - 1][best] + step[best][label]) best = a;
      }
      label = best;
    }
  }

  void AddRow(size_t first, size_t last, uint32_t kind, uint32_t payload) {
    Row row{tokens_[first].start, tokens_[last].end, kind, payload, {}};
    for (int model = 0; model < kModels; ++model) {
      int32_t least = std::numeric_limits<int32_t>::max();
      for (size_t i = first; i <= last; ++i) least = std::min(least, result_.margins[i * kModels + model]);
      row.margin[model] = least;
    }
    result_.rows.push_back(row);
  }

  void AddSpans(int model) {
    size_t first = 0;
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const uint8_t label = labels_[i * kModels + model];
      if (label == 1 || label == 4) first = i;
      if (label == 3 || label == 4) AddRow(first, i, 1 + model, 0);
    }
  }

  // Sets the payload of each span's row to 1 where its first token also stands at a place at which no span begins.
  void MarkFoundElsewhere() {
    struct First {
      uint64_t hash;
      uint32_t row;
      uint32_t elsewhere;  // of the first of those with the same hash
    };
    std::vector<First> firsts;
    std::vector<uint8_t> begun(tokens_.size(), 0);
    for (size_t i = 0; i < result_.rows.size(); ++i) {
      if (result_.rows[i].kind == 0) continue;
      const size_t token = TokenAt(result_.rows[i].start);
      begun[token] = 1;
      firsts.push_back({tokens_[token].hash, static_cast<uint32_t>(i), 0});
    }
    if (firsts.empty()) return;
    std::sort(firsts.begin(), firsts.end(), [](const First& a, const First& b) { return a.hash < b.hash; });
    uint64_t seen[kSeenWords] = {};  // a bit for the low bits of each hash: most tokens end here
    const auto word = [](uint64_t hash) { return hash >> 6 & (kSeenWords - 1); };
    for (const First& first : firsts) seen[word(first.hash)] |= uint64_t{1} << (first.hash & 63);
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const uint64_t hash = tokens_[i].hash;
      if (begun[i] || !(seen[word(hash)] >> (hash & 63) & 1)) continue;
      const auto first = std::lower_bound(firsts.begin(), firsts.end(), hash,
                                          [](const First& a, uint64_t sought) { return a.hash < sought; });
      if (first != firsts.end() && first->hash == hash) first->elsewhere = 1;
    }
    for (size_t i = 0; i < firsts.size(); ++i) {
      if (i && firsts[i].hash == firsts[i - 1].hash) firsts[i].elsewhere = firsts[i - 1].elsewhere;
      result_.rows[firsts[i].row].payload = firsts[i].elsewhere;
    }
  }

  Cached* const cache_ = Cache().data();  // asked for once: finding a thread's own takes a call
  const CrfView& view_;
  const Scorer scorer_;
  const uint32_t* text_;
  CrfResult& result_;
  std::vector<Token>& tokens_;
  std::vector<Match> detect_;
  std::vector<uint16_t> near_, far_;
  std::vector<ShortForm> short_forms_;
  std::vector<uint32_t> topic_words_;  // in each block of kTopicBlock tokens
  std::vector<Near> near_profiles_;
  Pending pending_[kPending];
  std::vector<Scores> emissions_;
  std::vector<uint8_t> labels_;
  std::vector<uint32_t> folded_;
  Scores plain_{};    // of what CollectPairs says of a token without phrases on or beside it
  size_t block_ = 0;  // the token of emissions_[0]
};

}  // namespace
}  // namespace medvllm

extern "C" {

// Tags a text. `definitions` holds the abbreviations that it defines, (definition_count, 4) starts and ends of the
// short and of the long form, in the order of the text. Returns a result to be read with mv_crf_rows and
// mv_crf_tokens and freed with mv_crf_free, or null where memory ran out. counts[0] is the number of rows, counts[1]
// of tokens.
medvllm::CrfResult* mv_crf_run(const medvllm::CrfView* view, const medvllm::TableView* table, const uint32_t* text,
                               size_t length, const uint32_t* definitions, size_t definition_count,
                               uint64_t* counts) try {
  auto* result = new medvllm::CrfResult;
  try {
    medvllm::Tagger(*view, *table, text, length, definitions, definition_count, *result).Run();
  } catch (...) {
    delete result;
    throw;
  }
  counts[0] = result->rows.size();
  counts[1] = result->starts.size();
  return result;
} catch (const std::bad_alloc&) {
  return nullptr;
}

// rows: (counts[0], 6) start, end, kind, payload, margin of each model; see Row.
void mv_crf_rows(const medvllm::CrfResult* result, void* rows) {
  static_assert(sizeof(medvllm::Row) == 24, "rows are six 32-bit numbers");
  if (!result->rows.empty()) std::memcpy(rows, result->rows.data(), result->rows.size() * sizeof(medvllm::Row));
}

// starts: (counts[1],); margins: (counts[1], 2).
void mv_crf_tokens(const medvllm::CrfResult* result, uint32_t* starts, int32_t* margins) {
  std::copy(result->starts.begin(), result->starts.end(), starts);
  std::copy(result->margins.begin(), result->margins.end(), margins);
}

void mv_crf_free(medvllm::CrfResult* result) { delete result; }

}  // extern "C"
