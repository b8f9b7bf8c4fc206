// Tokens of clinical text and phrases in them. The Python twins in medvllm_kernels/tokens.py and text.py give the same
// results; the rules are documented there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace medvllm {

enum CharClass : uint32_t { kSpace = 0, kLetter = 1, kDigit = 2, kOther = 3 };

// Bits of Token::flags; the lowest two are the class.
enum TokenFlag : uint8_t {
  kClassMask = 3,
  kIgnored = 4,         // a hyphen inside a compound, or a possessive: no part of a phrase
  kBreakBefore = 8,     // two or more line breaks before it: no phrase goes across
  kSpaceBefore = 16,    // white space, or the start of the text, before it
  kHasLower = 32,
  kHasUpper = 64,
  kNewlineBefore = 128,  // a line break, or the start of the text, before it
};

struct Token {
  uint32_t start;  // code points
  uint32_t end;
  uint64_t hash;  // of the folded token
  uint8_t flags;
};

// A table in memory or in a mapped file. Slots are sorted by hash; 0 is an empty slot.
struct TableView {
  const uint64_t* hashes;  // (slots,)
  const uint32_t* values;  // (slots,); 0 where only a longer phrase goes on
  uint64_t slots;
  uint64_t capacity;  // the slot of hash h is at or after (h >> 32) * capacity >> 32
};

struct Match {
  uint32_t first_token;
  uint32_t last_token;
  uint32_t payload;
};

inline constexpr uint32_t kCased = 1u << 31;
inline constexpr uint32_t kMaxPhraseTokens = 128;

// Replaces the content of `tokens`.
void Tokenize(const uint32_t* text, size_t length, std::vector<Token>& tokens);

// Replaces the content of `matches`: leftmost-longest, or every match ordered by start, then end.
void FindPhrases(const TableView& table, const uint32_t* text, const std::vector<Token>& tokens, bool overlapping,
                 std::vector<Match>& matches);

}  // namespace medvllm

extern "C" {

int32_t mv_abi_version();

// Must be called first, with the 65,536 entries of medvllm_kernels/chars.py; they must outlive every later call.
void mv_set_chars(const uint32_t* chars);

// Each array has room for `length` tokens. Returns their number, or -1 where memory ran out.
int64_t mv_tokenize(const uint32_t* text, size_t length, uint32_t* starts, uint32_t* ends, uint64_t* hashes,
                    uint8_t* flags);

// Writes up to `room` triples (start, end, payload) and returns how many there are in all, or -1 where memory ran out.
int64_t mv_find(const medvllm::TableView* table, const uint32_t* text, size_t length, int32_t overlapping,
                uint32_t* triples, size_t room);

// The payload of the whole phrase, 0 where it is not in the table, or -1 where memory ran out.
int64_t mv_get(const medvllm::TableView* table, const uint32_t* text, size_t length);

// `text` holds `count` phrases one after the other, of lengths[i] code points. Writes at most 16 nodes for each phrase
// and stored[i] = 1, or 0 where it has no token or more than kMaxPhraseTokens. Returns the number of nodes, or -1.
int64_t mv_phrase_nodes(const uint32_t* text, const uint32_t* lengths, const uint32_t* payloads, size_t count,
                        uint64_t* hashes, uint32_t* values, uint8_t* stored);

// Sorts nodes by hash, in place, and keeps one of each: the last value that is not 0. Returns their number, or -1.
int64_t mv_sort_nodes(uint64_t* hashes, uint32_t* values, size_t count);

// Places sorted nodes into slots from `first_slot` on; the arrays begin at that slot and hold zeros, with room for
// `room` slots. Returns the number of slots up to the last node placed; where that is more than `room`, nothing beyond
// `room` was written.
int64_t mv_place_nodes(const uint64_t* hashes, const uint32_t* values, size_t count, uint64_t capacity,
                       uint64_t first_slot, uint64_t* slot_hashes, uint32_t* slot_values, size_t room);

}  // extern "C"
