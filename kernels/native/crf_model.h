// What the linear-chain model of crf.cc is made of: its view in memory, the features of tokens, and their weights.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "crf_kinds.h"
#include "text.h"

namespace medvllm::crf {

inline constexpr int kModels = 2;
inline constexpr int kLabels = 5;  // O B I E S
inline constexpr int kWidth = kModels * kLabels;
// Where a token's own features count: at offsets 0, -1, +1, -2, +2, left and right of those.
inline constexpr int kSlots = 7;
inline constexpr int32_t kForbidden = -(1 << 28);
inline constexpr size_t kMaxSequence = 192;  // tokens
inline constexpr size_t kMaxChunk = 16;      // tokens
inline constexpr size_t kReach = 4;          // tokens on each side that features look at
inline constexpr size_t kBlock = 1024;       // tokens scored before their sequences are labelled, about
inline constexpr uint32_t kMaxClassed = 8;   // tokens of a phrase with a class
inline constexpr size_t kTopicBlock = 1024;  // tokens
inline constexpr uint32_t kTopicWords = 2;   // words of genetics that make a block one about genetics
inline constexpr uint64_t kEdge = 1;         // stands for the token before the first and after the last

inline constexpr uint64_t kMulA = 0x9e3779b97f4a7c15ull;
inline constexpr uint64_t kMulB = 0xbf58476d1ce4e5b9ull;
inline constexpr uint64_t kMulC = 0x94d049bb133111ebull;
inline constexpr uint64_t kCharSeed = 0x84222325cbf29ce4ull;

using Scores = std::array<int32_t, kWidth>;

struct CrfView {
  const uint32_t* fingerprints;  // (slots,)
  const uint32_t* cells;         // (slots,) first weight << 4 | number of weights; 0 is an empty slot
  const uint32_t* classes;       // (class_slots,) low 30 bits of a phrase's hash << 2 | class; 0 is an empty slot
  const int16_t* weights;        // (weights,)
  const uint8_t* labels;         // (weights,) model * kLabels + label
  const int16_t* transitions;    // (kModels, kLabels, kLabels) from, to
  const uint32_t* chars;         // (65536,) medvllm_kernels/chars.py
  uint64_t slots;
  uint64_t capacity;
  uint64_t class_slots;
  uint64_t class_capacity;
  uint64_t serial;  // differs between models of one process
};

inline uint64_t Feature(uint64_t kind, uint64_t value) {
  uint64_t x = (value ^ (kind + 1) * kMulA) * kMulB;
  x ^= x >> 32;
  x *= kMulC;
  return x ^ (x >> 29);
}

inline uint64_t Pair(uint64_t a, uint64_t b) { return ((a << 21) | (a >> 43)) ^ b; }

inline uint64_t CharStep(uint64_t hash, uint32_t c) {
  hash = (hash ^ c) * kMulB;
  return hash ^ (hash >> 31);
}

// What of a token takes part in features.
struct Profile {
  uint64_t word = 0;
  uint64_t shape = 0;
  uint64_t prefix[5] = {};  // [2], [3], [4]; 0 where the token is not longer
  uint64_t suffix[6] = {};  // [2] to [5]; 0 where the token is not longer
  uint64_t tail3 = 0;       // the last three letters, or the whole token
  uint64_t tail4 = 0;
  uint64_t head3 = 0;
  uint32_t lexical = 0;  // the class of the word by itself
  bool letters = false;
};

// What is kept of a token between texts, in three cache lines; `wide` where its scores don't fit 16 bits, so that they
// have to be added up again.
struct alignas(64) Cached {
  uint64_t word = 0;
  uint64_t shape = 0;
  uint64_t tail3 = 0;
  uint64_t tail4 = 0;
  uint32_t serial = 0;  // 0 is of no model
  bool letters = false;
  bool wide = false;
  int16_t scores[kSlots][kWidth] = {};
};
static_assert(sizeof(Cached) == 192, "three cache lines");

inline constexpr size_t kCacheSize = 1 << 13;

inline void PrefetchLine(const void* at) {
#if defined(__GNUC__)
  __builtin_prefetch(at);
#else
  (void)at;
#endif
}

// A set of hashes of kKeyBits bits, with false positives: two bits of one 64-bit word for each, so that asking takes
// one cache line.
template <unsigned kKeyBits, unsigned kWordBits>
class Filter {
 public:
  void Clear() { words_.assign(size_t{1} << kWordBits, 0); }
  void Insert(uint32_t key) { words_[Word(key)] |= Mask(key); }
  const uint64_t* data() const { return words_.data(); }

  static uint32_t Word(uint32_t key) { return key >> (kKeyBits - kWordBits); }
  static uint64_t Mask(uint32_t key) { return uint64_t{1} << (key & 63) | uint64_t{1} << (key >> 6 & 63); }
  static bool Holds(const uint64_t* words, uint32_t key) { return (words[Word(key)] & Mask(key)) == Mask(key); }

 private:
  std::vector<uint64_t> words_;
};

// The model as a thread scores with it: a fingerprint beside its weights in one cache line, and filters before it and
// the classes. Nine of ten features of a text have no weight, and most of those end at the filter. Between two texts
// the processor's caches lose most of the model, so what a token will need is asked for before it is used.
class Scorer {
 public:
  explicit Scorer(const CrfView& view) : view_(view), capacity_(view.capacity), slots_(view.slots) {
    thread_local Prepared prepared;
    if (prepared.serial != view.serial) Prepare(view, prepared);
    entries_ = prepared.entries.data();
    rows_ = prepared.rows.data();
    features_ = prepared.features.data();
    phrases_ = prepared.phrases.data();
  }

  // The class, 1 to 3, of the phrase with this hash; 0 where none is known.
  uint32_t ClassOf(uint64_t hash) const { return MayHaveClass(hash) ? FindClass(hash) : 0; }

  void PrefetchClass(uint64_t hash) const { PrefetchLine(phrases_ + Phrases::Word(PhraseKey(hash))); }

  bool MayHaveClass(uint64_t hash) const { return Phrases::Holds(phrases_, PhraseKey(hash)); }

  void PrefetchClassSlot(uint64_t hash) const {
    PrefetchLine(view_.classes + std::min(((hash >> 32) * view_.class_capacity) >> 32, view_.class_slots - 1));
  }

  // As ClassOf, where MayHaveClass.
  uint32_t FindClass(uint64_t hash) const {
    const uint32_t print = static_cast<uint32_t>(hash) << 2;
    for (uint64_t slot = ((hash >> 32) * view_.class_capacity) >> 32; slot < view_.class_slots; ++slot) {
      const uint32_t held = view_.classes[slot];
      if (held == 0) return 0;
      if ((held & ~3u) == print) return held & 3;
    }
    return 0;
  }

  bool MayHaveWeight(uint64_t feature) const { return Features::Holds(features_, static_cast<uint32_t>(feature)); }

  void PrefetchWeight(uint64_t feature) const {
    PrefetchLine(entries_ + std::min(((feature >> 32) * capacity_) >> 32, slots_ - 1));
  }

  // Adds the weights of a feature, where MayHaveWeight.
  void AddWeight(uint64_t feature, int32_t* scores) const {
    const uint32_t print = static_cast<uint32_t>(feature);
    for (uint64_t slot = ((feature >> 32) * capacity_) >> 32; slot < slots_; ++slot) {
      const Entry& entry = entries_[slot];
      if (entry.count == kEmpty) return;
      if (entry.print != print) continue;
      if (entry.count <= kInline) {
        for (uint32_t i = 0; i < kInline; ++i) scores[entry.labels[i]] += entry.weights[i];  // those there are not are 0
      } else {
        const int16_t* const row = rows_ + kWidth * entry.Row();
        for (int i = 0; i < kWidth; ++i) scores[i] += row[i];
      }
      return;
    }
  }

  void Add(uint64_t feature, int32_t* scores) const {
    if (MayHaveWeight(feature)) AddWeight(feature, scores);
  }

 private:
  using Features = Filter<32, 13>;  // 64 KiB
  using Phrases = Filter<30, 16>;   // 512 KiB

  static constexpr uint32_t kInline = 3;  // 93 of 100 features have no more weights
  static constexpr uint8_t kEmpty = 255;

  struct Entry {
    uint32_t print;
    uint8_t count;
    uint8_t labels[kInline];
    int16_t weights[kInline];  // where there are more, the first two make the number of their row

    size_t Row() const { return static_cast<uint16_t>(weights[0]) | size_t{static_cast<uint16_t>(weights[1])} << 16; }
    void SetRow(size_t row) {
      weights[0] = static_cast<int16_t>(row & 0xffff);
      weights[1] = static_cast<int16_t>(row >> 16 & 0xffff);
    }
  };
  static_assert(sizeof(Entry) == 16, "four in a cache line");

  struct Prepared {
    uint64_t serial = 0;  // models count from 1
    std::vector<Entry> entries;
    std::vector<int16_t> rows;  // (features with more than kInline weights, kWidth)
    Features features;
    Phrases phrases;
  };

  static uint32_t PhraseKey(uint64_t hash) { return static_cast<uint32_t>(hash) & 0x3fffffff; }

  static void Prepare(const CrfView& view, Prepared& prepared) {
    prepared.serial = 0;
    prepared.entries.assign(view.slots, Entry{0, kEmpty, {}, {}});
    prepared.rows.clear();
    prepared.features.Clear();
    for (uint64_t slot = 0; slot < view.slots; ++slot) {
      const uint32_t cell = view.cells[slot];
      if (cell == 0) continue;
      Entry& entry = prepared.entries[slot];
      entry.print = view.fingerprints[slot];
      entry.count = cell & 15;
      const uint8_t* const labels = view.labels + (cell >> 4);
      const int16_t* const weights = view.weights + (cell >> 4);
      if (entry.count <= kInline) {
        std::copy_n(labels, entry.count, entry.labels);
        std::copy_n(weights, entry.count, entry.weights);
      } else {
        entry.SetRow(prepared.rows.size() / kWidth);
        prepared.rows.resize(prepared.rows.size() + kWidth, 0);
        int16_t* const row = prepared.rows.data() + prepared.rows.size() - kWidth;
        for (uint32_t i = 0; i < entry.count; ++i) {
          if (labels[i] < kWidth) row[labels[i]] = weights[i];
        }
      }
      prepared.features.Insert(entry.print);
    }
    prepared.phrases.Clear();
    for (uint64_t slot = 0; slot < view.class_slots; ++slot) {
      if (view.classes[slot]) prepared.phrases.Insert(view.classes[slot] >> 2);
    }
    prepared.serial = view.serial;
  }

  const CrfView& view_;
  uint64_t capacity_;
  uint64_t slots_;
  const Entry* entries_;
  const int16_t* rows_;
  const uint64_t* features_;
  const uint64_t* phrases_;
};

// The shape: A, a, x for capital, small and other letters, 0 for digits, a run of one kind as two of it.
inline uint64_t ShapeOf(const CrfView& view, const uint32_t* text, const Token& token) {
  uint64_t hash = kCharSeed;
  uint32_t last = 0;
  bool doubled = false;
  const uint32_t kind = token.flags & kClassMask;
  for (uint32_t at = token.start; at < token.end; ++at) {
    const uint32_t entry = text[at] < 0x10000 ? view.chars[text[at]] : 0;
    uint32_t code = text[at];
    if (kind == kDigit) code = '0';
    if (kind == kLetter) code = (entry & (1u << 21)) ? 'A' : (entry & (1u << 20)) ? 'a' : 'x';
    if (code == last) {
      if (!doubled) hash = CharStep(hash, '+');
      doubled = true;
      continue;
    }
    hash = CharStep(hash, code);
    last = code;
    doubled = false;
  }
  return hash;
}

inline void FoldToken(const CrfView& view, const uint32_t* text, const Token& token, std::vector<uint32_t>& folded) {
  folded.clear();
  for (uint32_t at = token.start; at < token.end; ++at) {
    const uint32_t c = text[at];
    const uint32_t entry = c < 0x10000 ? view.chars[c] : 0;
    if (c >= 0x10000) {
      folded.push_back(c);
    } else if (entry & (1u << 19)) {
      continue;
    } else if (entry & (1u << 18)) {
      for (uint32_t letters = entry & 0xffff; letters; letters >>= 5) folded.push_back(96 + (letters & 31));
    } else {
      folded.push_back((c + entry) & 0xffff);
    }
  }
}

inline Profile ProfileOf(const CrfView& view, const Scorer& scorer, const uint32_t* text, const Token& token,
                         uint64_t shape, std::vector<uint32_t>& folded) {
  Profile profile;
  profile.lexical = scorer.ClassOf(Feature(kinds::kWordKey, token.hash));
  profile.word = token.hash;
  profile.shape = shape;
  profile.letters = (token.flags & kClassMask) == kLetter;
  FoldToken(view, text, token, folded);
  const size_t length = folded.size();
  uint64_t hash = kCharSeed;
  for (size_t k = 1; k <= 4 && k <= length; ++k) {
    hash = CharStep(hash, folded[k - 1]);
    if (k >= 2 && length > k && profile.letters) profile.prefix[k] = hash;
    if (k <= 3) profile.head3 = hash;
  }
  hash = kCharSeed;
  for (size_t k = 1; k <= 5 && k <= length; ++k) {
    hash = CharStep(hash, folded[length - k]);
    if (k >= 2 && length > k && profile.letters) profile.suffix[k] = hash;
    if (k <= 3) profile.tail3 = hash;
    if (k <= 4) profile.tail4 = hash;
  }
  return profile;
}

inline void ScoreProfile(const Scorer& scorer, const Profile& p, std::array<Scores, kSlots>& scores) {
  for (Scores& slot : scores) slot.fill(0);
  int32_t* here = scores[0].data();
  scorer.Add(Feature(kinds::kBias, 0), here);
  scorer.Add(Feature(kinds::kWord, p.word), here);
  scorer.Add(Feature(kinds::kShape, p.shape), here);
  for (uint64_t k = 2; k <= 4; ++k) {
    if (p.prefix[k]) scorer.Add(Feature(kinds::kPrefix + k - 2, p.prefix[k]), here);
  }
  for (uint64_t k = 2; k <= 5; ++k) {
    if (p.suffix[k]) scorer.Add(Feature(kinds::kSuffix + k - 2, p.suffix[k]), here);
  }
  if (p.lexical) scorer.Add(Feature(kinds::kWordClass, p.lexical), here);
  for (uint64_t side = 0; side < 2; ++side) {
    int32_t* near = scores[1 + side].data();
    if (p.lexical) scorer.Add(Feature(kinds::kBesideWordClass + side, p.lexical), near);
    scorer.Add(Feature(kinds::kBesideWord + side, p.word), near);
    scorer.Add(Feature(kinds::kBesideShape + side, p.shape), near);
    scorer.Add(Feature(kinds::kBesideHead3 + side, p.head3), near);
    scorer.Add(Feature(kinds::kBesideTail3 + side, p.tail3), near);
    scorer.Add(Feature(kinds::kBesideTail4 + side, p.tail4), near);
    int32_t* next = scores[3 + side].data();
    scorer.Add(Feature(kinds::kSecondWord + side, p.word), next);
    scorer.Add(Feature(kinds::kSecondTail3 + side, p.tail3), next);
    scorer.Add(Feature(kinds::kAroundWord + side, p.word), scores[5 + side].data());
  }
}

// A step of the hash of a phrase, as text.cc makes it.
inline uint64_t PhraseStep(uint64_t node, uint64_t token) {
  node = (((node << 23) | (node >> 41)) ^ token) * 0xff51afd7ed558ccdull;
  node = (node ^ (node >> 29)) * 0xc4ceb9fe1a85ec53ull;
  node ^= node >> 32;
  return node ? node : 1;
}

inline bool IsAlphanumeric(const Token& token) { return (token.flags & kClassMask) != kOther; }

inline bool InsideRun(const std::vector<Token>& tokens, size_t right) {
  return right > 0 && right < tokens.size() && tokens[right - 1].end == tokens[right].start &&
         IsAlphanumeric(tokens[right - 1]) && IsAlphanumeric(tokens[right]);
}

inline bool MayStartClassed(const std::vector<Token>& tokens, size_t i) {
  return IsAlphanumeric(tokens[i]) && !(tokens[i].flags & kIgnored) && !InsideRun(tokens, i);
}

inline bool HasLower(const std::vector<Token>& tokens, size_t first, size_t last) {
  for (size_t i = first; i <= last; ++i) {
    if ((tokens[i].flags & (kIgnored | kHasLower)) == kHasLower) return true;
  }
  return false;
}

// The phrases of at most kMaxClassed tokens from one token on: their hashes, and where they end.
struct Starting {
  uint64_t hashes[kMaxClassed];
  uint32_t last[kMaxClassed];
  uint32_t count = 0;

  void Walk(const std::vector<Token>& tokens, size_t first) {
    uint64_t node = 0x9ae16a3b2f90404full;
    count = 0;
    for (size_t i = first; i < tokens.size() && count < kMaxClassed; ++i) {
      if (i > first && (tokens[i].flags & kBreakBefore)) break;
      if (tokens[i].flags & kIgnored) continue;
      node = PhraseStep(node, tokens[i].hash);
      hashes[count] = node;
      last[count++] = static_cast<uint32_t>(i);
    }
  }
};

// Leftmost-longest phrases that have a class, of at most kMaxClassed tokens; of class 3 only without small letters. The
// class is in the place of the payload. The hashes of some tokens are made, and the filter asked for them, before the
// first is looked up.
inline void FindClassed(const Scorer& scorer, const std::vector<Token>& tokens, std::vector<Match>& matches) {
  constexpr size_t kAhead = 8;  // tokens
  Starting ring[kAhead];
  const auto prepare = [&](size_t i) {
    Starting& starting = ring[i % kAhead];
    starting.count = 0;
    if (i >= tokens.size() || !MayStartClassed(tokens, i)) return;
    starting.Walk(tokens, i);
    for (uint32_t k = 0; k < starting.count; ++k) scorer.PrefetchClass(starting.hashes[k]);
  };
  size_t free = 0;  // the first token that no match has taken
  for (size_t i = 0; i < std::min(kAhead, tokens.size()); ++i) prepare(i);
  for (size_t first = 0; first < tokens.size(); prepare(first + kAhead), ++first) {
    const Starting& starting = ring[first % kAhead];
    if (first < free || starting.count == 0) continue;
    Match best{static_cast<uint32_t>(first), 0, 0};
    for (uint32_t k = 0; k < starting.count; ++k) {
      if (!scorer.MayHaveClass(starting.hashes[k])) continue;
      const uint32_t held = scorer.FindClass(starting.hashes[k]);
      if (held == 0 || InsideRun(tokens, starting.last[k] + 1)) continue;
      if (held == 3 && HasLower(tokens, first, starting.last[k])) continue;
      best.last_token = starting.last[k];
      best.payload = held;
    }
    if (best.payload == 0) continue;
    matches.push_back(best);
    free = best.last_token + 1;
  }
}

// The code of the phrase on each token, packed as crf_kinds.h says; `shift` is where a payload has its type.
inline void MarkLayer(const std::vector<Match>& matches, uint32_t shift, std::vector<uint16_t>& codes) {
  for (const Match& match : matches) {
    const uint32_t type = 1 + (match.payload >> shift & kTypeMask);
    const uint32_t tokens = std::min<uint32_t>(match.last_token - match.first_token + 1, kMaxCounted);
    for (uint32_t i = match.first_token; i <= match.last_token; ++i) {
      const uint32_t inner = i == match.first_token ? kBegin : i == match.last_token ? kEnd : kInside;
      const uint32_t place = tokens == 1 ? kSingle : inner;
      codes[i] = static_cast<uint16_t>(type << kTypeShift | place << kPlaceShift | tokens);
    }
  }
}

inline bool CutsBefore(const uint32_t* text, const CrfView& view, const std::vector<Token>& tokens, size_t i) {
  const Token& token = tokens[i];
  if (token.flags & kBreakBefore) return true;
  if (!(token.flags & kSpaceBefore)) return false;
  const uint32_t kind = token.flags & kClassMask;
  const uint32_t entry = text[token.start] < 0x10000 ? view.chars[text[token.start]] : 0;
  const bool opens = kind == kDigit || (kind == kLetter && (entry & (1u << 21)));
  if (token.flags & kNewlineBefore) return opens || kind == kOther;
  const uint32_t last = text[tokens[i - 1].end - 1];
  return opens && (last == '.' || last == '?' || last == '!');
}

}  // namespace medvllm::crf
