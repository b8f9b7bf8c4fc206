#include "text.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <numeric>

namespace medvllm {
namespace {

// The layout of an entry of the character table: see medvllm_kernels/chars.py.
constexpr uint32_t kClassShift = 16;
constexpr uint32_t kExpands = 1u << 18;
constexpr uint32_t kDropped = 1u << 19;
constexpr uint32_t kLower = 1u << 20;
constexpr uint32_t kUpper = 1u << 21;
constexpr uint32_t kNewline = 1u << 22;

constexpr uint64_t kTokenSeed = 0xcbf29ce484222325ull;
constexpr uint64_t kTokenPrime = 0x100000001b3ull;
constexpr uint64_t kPhraseSeed = 0x9ae16a3b2f90404full;
constexpr uint64_t kMixA = 0xff51afd7ed558ccdull;
constexpr uint64_t kMixB = 0xc4ceb9fe1a85ec53ull;

const uint32_t* g_chars = nullptr;

inline uint32_t EntryOf(uint32_t c) { return c < 0x10000 ? g_chars[c] : uint32_t{kOther} << kClassShift; }

inline uint32_t ClassOf(uint32_t entry) { return (entry >> kClassShift) & 3; }

inline uint64_t HashStep(uint64_t hash, uint32_t folded) { return (hash ^ folded) * kTokenPrime; }

inline uint64_t HashEnd(uint64_t hash) {
  hash ^= hash >> 32;
  hash *= kMixA;
  return hash ^ (hash >> 29);
}

inline uint64_t HashChar(uint64_t hash, uint32_t c, uint32_t entry) {
  if (entry & (kExpands | kDropped)) {
    if (entry & kDropped) return hash;
    for (uint32_t letters = entry & 0xffff; letters; letters >>= 5) hash = HashStep(hash, 96 + (letters & 31));
    return hash;
  }
  return HashStep(hash, c < 0x10000 ? (c + entry) & 0xffff : c);
}

uint64_t HashOfAscii(char c) { return HashEnd(HashStep(kTokenSeed, static_cast<uint32_t>(c))); }

const uint64_t kHashOfDash = HashOfAscii('-');
const uint64_t kHashOfApostrophe = HashOfAscii('\'');
const uint64_t kHashOfS = HashOfAscii('s');

inline uint64_t Mix(uint64_t node, uint64_t token) {
  uint64_t x = (((node << 23) | (node >> 41)) ^ token) * kMixA;
  x ^= x >> 29;
  x *= kMixB;
  x ^= x >> 32;
  return x ? x : 1;  // 0 marks an empty slot
}

// The depths at which prefixes are stored: 1, 2, 3, 4, 6, 8, 12, 16, 24, ... Between them a walk goes on after a miss,
// which keeps a chemical name of sixty tokens at a dozen nodes.
inline bool IsCheckpoint(uint32_t depth) {
  while (depth > 4 && depth % 2 == 0) depth /= 2;
  return depth <= 4;
}

constexpr int64_t kMiss = -1;
constexpr size_t kPrefetchTokens = 12;

inline int64_t Lookup(const TableView& table, uint64_t hash) {
  for (uint64_t slot = ((hash >> 32) * table.capacity) >> 32; slot < table.slots; ++slot) {
    const uint64_t held = table.hashes[slot];
    if (held == hash) return table.values[slot];
    if (held == 0 || held > hash) return kMiss;
  }
  return kMiss;
}

inline void Prefetch(const TableView& table, uint64_t hash) {
#if defined(__GNUC__)
  __builtin_prefetch(table.hashes + std::min(((hash >> 32) * table.capacity) >> 32, table.slots - 1));
#else
  (void)table, (void)hash;
#endif
}

inline bool Adjacent(const Token& left, const Token& right) { return left.end == right.start; }

inline bool IsAlphanumeric(const Token& token) { return (token.flags & kClassMask) != kOther; }

// Hyphens inside a compound, 's and a closing apostrophe carry no meaning for a phrase.
void MarkIgnored(std::vector<Token>& tokens) {
  const size_t count = tokens.size();
  for (size_t i = 1; i < count; ++i) {
    if ((tokens[i].flags & kClassMask) != kOther || !Adjacent(tokens[i - 1], tokens[i])) continue;
    const bool joined = i + 1 < count && Adjacent(tokens[i], tokens[i + 1]);
    if (tokens[i].hash == kHashOfDash) {
      const bool doubled = tokens[i - 1].hash == kHashOfDash || (joined && tokens[i + 1].hash == kHashOfDash);
      if (!doubled) tokens[i].flags |= kIgnored;
    } else if (tokens[i].hash == kHashOfApostrophe && (tokens[i - 1].flags & kClassMask) == kLetter) {
      if (!joined || !IsAlphanumeric(tokens[i + 1])) {
        tokens[i].flags |= kIgnored;
      } else if (tokens[i + 1].hash == kHashOfS &&
                 (i + 2 >= count || !Adjacent(tokens[i + 1], tokens[i + 2]) || !IsAlphanumeric(tokens[i + 2]))) {
        tokens[i].flags |= kIgnored;
        tokens[i + 1].flags |= kIgnored;
      }
    }
  }
}

// No lower-case letter, but for a plural s after at least two capitals.
bool SurfaceIsCased(const uint32_t* text, const std::vector<Token>& tokens, size_t first, size_t last) {
  for (size_t i = first; i < last; ++i) {
    if ((tokens[i].flags & (kHasLower | kIgnored)) == kHasLower) return false;
  }
  const Token& token = tokens[last];
  if (!(token.flags & kHasLower)) return true;
  if (text[token.end - 1] != 's') return false;
  uint32_t capitals = 0;
  for (uint32_t at = token.start; at + 1 < token.end; ++at) {
    const uint32_t entry = EntryOf(text[at]);
    if (entry & kLower) return false;
    if (entry & kUpper) ++capitals;
  }
  return capitals >= 2;
}

bool StartsAt(const std::vector<Token>& tokens, size_t i) {
  if (tokens[i].flags & kIgnored) return false;
  return !IsAlphanumeric(tokens[i]) || i == 0 || !Adjacent(tokens[i - 1], tokens[i]) || !IsAlphanumeric(tokens[i - 1]);
}

bool EndsAt(const std::vector<Token>& tokens, size_t i) {
  return !IsAlphanumeric(tokens[i]) || i + 1 == tokens.size() || !Adjacent(tokens[i], tokens[i + 1]) ||
         !IsAlphanumeric(tokens[i + 1]);
}

// Calls accept(last_token, payload) for each phrase that starts at token `first`, shortest first.
template <typename Accept>
void Walk(const TableView& table, const uint32_t* text, const std::vector<Token>& tokens, size_t first, Accept accept) {
  uint64_t node = kPhraseSeed;
  uint32_t depth = 0;
  for (size_t i = first; i < tokens.size() && depth < kMaxPhraseTokens; ++i) {
    if (i > first && (tokens[i].flags & kBreakBefore)) return;
    if (tokens[i].flags & kIgnored) continue;
    node = Mix(node, tokens[i].hash);
    ++depth;
    const int64_t value = Lookup(table, node);
    if (value == kMiss) {
      if (IsCheckpoint(depth)) return;
    } else if (value != 0 && EndsAt(tokens, i)) {
      const uint32_t payload = static_cast<uint32_t>(value);
      if (!(payload & kCased) || SurfaceIsCased(text, tokens, first, i)) accept(static_cast<uint32_t>(i), payload);
    }
  }
}

}  // namespace

void Tokenize(const uint32_t* text, size_t length, std::vector<Token>& tokens) {
  tokens.clear();
  tokens.reserve(length / 4 + 16);
  uint32_t breaks = 2;  // the text's start counts as a line start
  bool space = true;
  for (size_t at = 0; at < length;) {
    uint32_t entry = EntryOf(text[at]);
    const uint32_t kind = ClassOf(entry);
    if (kind == kSpace) {
      space = true;
      if ((entry & kNewline) && !(text[at] == '\r' && at + 1 < length && text[at + 1] == '\n')) ++breaks;
      ++at;
      continue;
    }
    Token token;
    token.start = static_cast<uint32_t>(at);
    uint32_t seen = entry;
    uint64_t hash = HashChar(kTokenSeed, text[at], entry);
    ++at;
    if (kind != kOther) {
      for (; at < length && ClassOf(entry = EntryOf(text[at])) == kind; ++at) {
        seen |= entry;
        hash = HashChar(hash, text[at], entry);
      }
    }
    token.end = static_cast<uint32_t>(at);
    token.hash = HashEnd(hash);
    token.flags = static_cast<uint8_t>(kind | (breaks > 1 ? kBreakBefore : 0) | (breaks > 0 ? kNewlineBefore : 0) |
                                       (space ? kSpaceBefore : 0) | ((seen & kLower) ? kHasLower : 0) |
                                       ((seen & kUpper) ? kHasUpper : 0));
    tokens.push_back(token);
    breaks = 0;
    space = false;
  }
  MarkIgnored(tokens);
}

void FindPhrases(const TableView& table, const uint32_t* text, const std::vector<Token>& tokens, bool overlapping,
                 std::vector<Match>& matches) {
  matches.clear();
  if (table.slots == 0) return;
  for (size_t i = 0, ahead = 0; i < tokens.size(); ++i) {
    // A large table is not in the cache: ask early for the slots of the first two tokens of the walks to come.
    for (; ahead < tokens.size() && ahead <= i + kPrefetchTokens; ++ahead) {
      const uint64_t node = Mix(kPhraseSeed, tokens[ahead].hash);
      Prefetch(table, node);
      if (ahead + 1 < tokens.size()) Prefetch(table, Mix(node, tokens[ahead + 1].hash));
    }
    if (!StartsAt(tokens, i)) continue;
    Match match{static_cast<uint32_t>(i), 0, 0};
    Walk(table, text, tokens, i, [&](uint32_t last, uint32_t payload) {
      match.last_token = last;
      match.payload = payload;
      if (overlapping) matches.push_back(match);
    });
    if (!overlapping && match.payload != 0) {
      matches.push_back(match);
      i = match.last_token;
    }
  }
}

}  // namespace medvllm

using medvllm::Match;
using medvllm::TableView;
using medvllm::Token;

int32_t mv_abi_version() { return 3; }

void mv_set_chars(const uint32_t* chars) { medvllm::g_chars = chars; }

int64_t mv_tokenize(const uint32_t* text, size_t length, uint32_t* starts, uint32_t* ends, uint64_t* hashes,
                    uint8_t* flags) try {
  std::vector<Token> tokens;
  medvllm::Tokenize(text, length, tokens);
  for (size_t i = 0; i < tokens.size(); ++i) {
    starts[i] = tokens[i].start;
    ends[i] = tokens[i].end;
    hashes[i] = tokens[i].hash;
    flags[i] = tokens[i].flags;
  }
  return static_cast<int64_t>(tokens.size());
} catch (const std::bad_alloc&) {
  return -1;
}

int64_t mv_find(const TableView* table, const uint32_t* text, size_t length, int32_t overlapping, uint32_t* triples,
                size_t room) try {
  std::vector<Token> tokens;
  std::vector<Match> matches;
  medvllm::Tokenize(text, length, tokens);
  medvllm::FindPhrases(*table, text, tokens, overlapping != 0, matches);
  for (size_t i = 0; i < std::min(room, matches.size()); ++i) {
    triples[3 * i] = tokens[matches[i].first_token].start;
    triples[3 * i + 1] = tokens[matches[i].last_token].end;
    triples[3 * i + 2] = matches[i].payload;
  }
  return static_cast<int64_t>(matches.size());
} catch (const std::bad_alloc&) {
  return -1;
}

int64_t mv_get(const TableView* table, const uint32_t* text, size_t length) try {
  std::vector<Token> tokens;
  medvllm::Tokenize(text, length, tokens);
  uint64_t node = medvllm::kPhraseSeed;
  uint32_t depth = 0;
  for (const Token& token : tokens) {
    if (token.flags & medvllm::kIgnored) continue;
    if (++depth > medvllm::kMaxPhraseTokens) return 0;
    node = medvllm::Mix(node, token.hash);
  }
  return depth ? std::max<int64_t>(medvllm::Lookup(*table, node), 0) : 0;
} catch (const std::bad_alloc&) {
  return -1;
}

int64_t mv_phrase_nodes(const uint32_t* text, const uint32_t* lengths, const uint32_t* payloads, size_t count,
                        uint64_t* hashes, uint32_t* values, uint8_t* stored) try {
  std::vector<Token> tokens;
  size_t nodes = 0;
  for (size_t i = 0; i < count; text += lengths[i], ++i) {
    medvllm::Tokenize(text, lengths[i], tokens);
    const size_t kept = static_cast<size_t>(std::count_if(
        tokens.begin(), tokens.end(), [](const Token& token) { return !(token.flags & medvllm::kIgnored); }));
    stored[i] = kept >= 1 && kept <= medvllm::kMaxPhraseTokens;
    if (!stored[i]) continue;
    uint64_t node = medvllm::kPhraseSeed;
    uint32_t depth = 0;
    for (const Token& token : tokens) {
      if (token.flags & medvllm::kIgnored) continue;
      node = medvllm::Mix(node, token.hash);
      ++depth;
      if (depth < kept && !medvllm::IsCheckpoint(depth)) continue;
      hashes[nodes] = node;
      values[nodes++] = depth == kept ? payloads[i] : 0;
    }
  }
  return static_cast<int64_t>(nodes);
} catch (const std::bad_alloc&) {
  return -1;
}

int64_t mv_sort_nodes(uint64_t* hashes, uint32_t* values, size_t count) try {
  struct Node {
    uint64_t hash;
    uint32_t order;
    uint32_t value;
  };
  std::vector<Node> nodes(count);
  for (size_t i = 0; i < count; ++i) nodes[i] = {hashes[i], static_cast<uint32_t>(i), values[i]};
  std::sort(nodes.begin(), nodes.end(), [](const Node& a, const Node& b) {
    return a.hash != b.hash ? a.hash < b.hash : a.order < b.order;
  });
  size_t kept = 0;
  for (const Node& node : nodes) {
    if (kept == 0 || hashes[kept - 1] != node.hash) {
      hashes[kept] = node.hash;
      values[kept++] = node.value;
    } else if (node.value != 0) {
      values[kept - 1] = node.value;
    }
  }
  return static_cast<int64_t>(kept);
} catch (const std::bad_alloc&) {
  return -1;
}

int64_t mv_place_nodes(const uint64_t* hashes, const uint32_t* values, size_t count, uint64_t capacity,
                       uint64_t first_slot, uint64_t* slot_hashes, uint32_t* slot_values, size_t room) {
  uint64_t next = first_slot;
  for (size_t i = 0; i < count; ++i) {
    const uint64_t slot = std::max(next, ((hashes[i] >> 32) * capacity) >> 32);
    next = slot + 1;
    if (slot - first_slot >= room) continue;
    slot_hashes[slot - first_slot] = hashes[i];
    slot_values[slot - first_slot] = values[i];
  }
  return static_cast<int64_t>(next - first_slot);
}
