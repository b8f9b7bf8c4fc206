// Sentences and sections of clinical notes. The Python twin in medvllm_kernels/sections_python.py gives the same results;
// the rules, the patterns these functions follow and the words they know are there.

#include "sections.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <new>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace medvllm {
namespace {

// Of each code point; 0 where the caller has not described it yet. The same numbers stand in medvllm_kernels/sections.py.
enum CharFlag : uint8_t { kKnown = 1, kSpace = 2, kAlpha = 4, kUpper = 8, kLower = 16, kDigit = 32, kDecimal = 64 };

// Of each word or heading, as in medvllm_kernels/sections.py.
enum WordFlag : uint32_t {
  kAbbreviation = 1,
  kNeverLast = 2,
  kOpen = 4,
  kGoingOn = 8,
  kProse = 16,
  kNeedsColon = 32,
  kSystem = 64,
};

constexpr int64_t kOutOfMemory = -1;
constexpr int64_t kUnknownChar = -2;
constexpr int64_t kLongest = 60;  // code points of a heading
constexpr int64_t kWrapped = 55;
constexpr int64_t kShort = 40;

struct Word {
  uint32_t flags = 0;
  uint32_t name = 0;  // 0 where it heads no section
};

// What is known of words; made of lines "FLAGS NAME WORD".
class Lexicon {
 public:
  explicit Lexicon(const char* lines) : lines_(lines) {
    for (const char* at = lines_.c_str(); *at != '\0';) {
      char* rest = nullptr;
      Word word;
      word.flags = static_cast<uint32_t>(std::strtoul(at, &rest, 10));
      word.name = static_cast<uint32_t>(std::strtoul(rest + 1, &rest, 10));
      const char* first = rest + 1;
      const char* last = first;
      while (*last != '\n' && *last != '\0') ++last;
      words_[std::string_view(first, static_cast<size_t>(last - first))] = word;
      at = *last == '\n' ? last + 1 : last;
    }
  }

  Word Find(std::string_view word) const {
    const auto found = words_.find(word);
    return found == words_.end() ? Word{} : found->second;
  }

 private:
  const std::string lines_;  // what the keys point into
  std::unordered_map<std::string_view, Word> words_;
};

inline bool IsAsciiUpper(uint32_t c) { return c >= 'A' && c <= 'Z'; }
inline bool IsAsciiAlpha(uint32_t c) { return (c | 32) >= 'a' && (c | 32) <= 'z'; }
inline bool IsBlank(uint32_t c) { return c == ' ' || c == '\t'; }
inline bool IsMark(uint32_t c) { return c == '.' || c == '!' || c == '?'; }
inline bool IsClosing(uint32_t c) { return c == '"' || c == '\'' || c == ')' || c == ']'; }
inline bool IsListEnd(uint32_t c) { return c == '.' || c == ')'; }

inline bool IsBullet(uint32_t c) {
  return c == '-' || c == '*' || c == '+' || c == '#' || c == '>' || c == 0x2022 || c == 0xb7 || c == 0x2013 || c == 0x2014;
}

// Characters of a heading after its first letter, but for the tab.
inline bool InHeading(uint32_t c) {
  return IsAsciiAlpha(c) || c == '/' || c == '&' || c == ',' || c == '\'' || c == ' ' || c == '-';
}

// One text and what is known of its characters. Positions are signed, so that "before the start" needs no care.
class Note {
 public:
  Note(const Lexicon& lexicon, const uint8_t* chars, const uint32_t* text, size_t length)
      : lexicon_(lexicon), chars_(chars), text_(text), length_(static_cast<int64_t>(length)) {}

  bool unknown() const { return unknown_; }
  int64_t length() const { return length_; }
  uint32_t operator[](int64_t at) const { return text_[at]; }
  bool Has(int64_t at, uint32_t c) const { return at < length_ && text_[at] == c; }

  bool Is(int64_t at, uint8_t flag) const {
    const uint8_t held = chars_[text_[at]];
    if (held == 0) unknown_ = true;
    return (held & flag) != 0;
  }

  // The position after the blanks from `at` on, at most `limit`.
  int64_t SkipBlanks(int64_t at, int64_t limit) const {
    while (at < limit && IsBlank(text_[at])) ++at;
    return at;
  }

  // The word in lower case; a character that is not ASCII stands for no letter.
  std::string_view Lower(int64_t first, int64_t last) const {
    scratch_.clear();
    for (; first < last; ++first) AppendLower(text_[first]);
    return scratch_;
  }

  // In lower case, with one space for each run of white space and none at the ends.
  std::string_view LowerWords(int64_t first, int64_t last) const {
    scratch_.clear();
    for (; first < last; ++first) {
      if (!IsBlank(text_[first])) {
        AppendLower(text_[first]);
      } else if (!scratch_.empty() && scratch_.back() != ' ') {
        scratch_.push_back(' ');
      }
    }
    if (!scratch_.empty() && scratch_.back() == ' ') scratch_.pop_back();
    return scratch_;
  }

  Word Find(std::string_view word) const { return lexicon_.Find(word); }

  // A capital and no lower-case letter in ASCII text.
  bool AllCapitals(int64_t first, int64_t last) const {
    bool capital = false;
    for (; first < last; ++first) {
      if (text_[first] >= 'a' && text_[first] <= 'z') return false;
      capital = capital || IsAsciiUpper(text_[first]);
    }
    return capital;
  }

 private:
  void AppendLower(uint32_t c) const {
    if (c == 0x212a) c = 'k';  // the kelvin sign
    scratch_.push_back(IsAsciiUpper(c) ? static_cast<char>(c + 32) : c < 0x80 ? static_cast<char>(c) : '\x01');
  }

  const Lexicon& lexicon_;
  const uint8_t* const chars_;
  const uint32_t* const text_;
  const int64_t length_;
  mutable bool unknown_ = false;
  mutable std::string scratch_;
};

struct Span {
  uint32_t start;
  uint32_t end;
};

void AddStripped(const Note& note, int64_t start, int64_t end, std::vector<Span>& sentences) {
  while (start < end && note.Is(start, kSpace)) ++start;
  while (start < end && note.Is(end - 1, kSpace)) --end;
  if (start < end) sentences.push_back({static_cast<uint32_t>(start), static_cast<uint32_t>(end)});
}

bool StopEnds(const Note& note, int64_t start, int64_t at, int64_t end) {
  const int64_t low = std::max(start, at - 12);
  int64_t first = at;
  while (first > low && !note.Is(first - 1, kSpace)) --first;
  while (first < at && (note[first] == '(' || note[first] == '[' || note[first] == '"' || note[first] == '\'')) ++first;
  if (first == at) return true;
  int64_t size = 0;
  bool digits = true, stops = false;
  for (int64_t i = first; i < at; ++i) {
    size += note[i] == 0x130 ? 2 : 1;  // the one character whose lower case has two
    digits = digits && note.Is(i, kDigit);
    stops = stops || note[i] == '.';
  }
  const Word word = note.Find(note.Lower(first, at));
  if (word.flags & kNeverLast) return false;
  if (digits && size <= 2) {
    if (at - start > 12) return true;
    for (int64_t i = start; i < at - size; ++i) {
      if (!note.Is(i, kSpace)) return true;
    }
    return false;
  }
  if (size == 1 && note.Is(first, kAlpha)) return !note.Is(at - 1, kUpper) || note[at - 1] == 'I';
  if (!stops && !(word.flags & kAbbreviation)) return true;
  while (end < note.length() && note.Is(end, kSpace)) ++end;
  return end == note.length() || note.Is(end, kUpper);
}

bool MarkEnds(const Note& note, int64_t start, int64_t at, int64_t end) {
  if (note[at] == '?') return at > start && !note.Is(at - 1, kSpace);
  return note[at] != '.' || end - at > 1 || StopEnds(note, start, at, end);
}

bool StartsItem(const Note& note, int64_t at) {
  const int64_t length = note.length();
  at = note.SkipBlanks(at, length);
  if (at == length) return true;
  if (note[at] == '\n' || (note[at] == '\r' && note.Has(at + 1, '\n'))) return true;
  if (IsBullet(note[at])) return at + 1 < length && IsBlank(note[at + 1]);
  if (note[at] == '(') ++at;
  int64_t digits = 0;
  while (at + digits < length && digits < 3 && note.Is(at + digits, kDecimal)) ++digits;
  if (digits == 0 && at < length && IsAsciiAlpha(note[at])) digits = 1;
  at += digits;
  return digits > 0 && at + 1 < length && IsListEnd(note[at]) && IsBlank(note[at + 1]);
}

bool StartsLabel(const Note& note, int64_t at) {
  const int64_t length = note.length();
  at = note.SkipBlanks(at, length);
  if (at == length || !IsAsciiUpper(note[at])) return false;
  const int64_t first = ++at;
  while (at < length && at - first < 40 && note[at] != ',' && InHeading(note[at])) ++at;
  return at > first && note.Has(at, ':');
}

bool LineEnds(const Note& note, int64_t line, int64_t at, int64_t end) {
  const int64_t low = std::max(line, at - 24);
  int64_t last = at;
  while (last > low && note.Is(last - 1, kSpace)) --last;
  if (last == low) return true;
  const int64_t limit = std::min(note.length(), end + 16);
  int64_t first = end;
  while (first < limit && note.Is(first, kSpace)) ++first;
  int64_t first_end = first;
  while (first_end < limit && !note.Is(first_end, kSpace)) ++first_end;

  const uint32_t c = note[last - 1];
  bool goes_on = c == ',' || c == '-' || c == '/' || c == '(' || c == '&';
  if (!goes_on) {
    int64_t word = last;
    while (word > low && IsAsciiAlpha(note[word - 1])) --word;
    goes_on = word < last && (note.Find(note.Lower(word, last)).flags & kOpen);
  }
  if (!goes_on && first < first_end) goes_on = (note.Find(note.Lower(first, first_end)).flags & kGoingOn) != 0;
  if (!goes_on) goes_on = at - line >= (first < first_end && note.Is(first, kLower) ? kShort : kWrapped);
  return !goes_on || StartsItem(note, end) || StartsLabel(note, end);
}

void SplitSentences(const Note& note, std::vector<Span>& sentences) {
  const int64_t length = note.length();
  int64_t start = 0, line = 0;
  for (int64_t at = 0; at < length;) {
    const uint32_t c = note[at];
    if (c > '?') {
      ++at;
      continue;
    }
    int64_t end = at + 1;
    bool ends = false;
    if (c == '\n' || (c == '\r' && !note.Has(end, '\n'))) {
      ends = LineEnds(note, line, at, end);
      line = end;
    } else if (IsMark(c)) {
      while (end < length && IsMark(note[end])) ++end;
      int64_t closed = end;
      while (closed < length && IsClosing(note[closed])) ++closed;
      if (closed < length && note.Is(closed, kSpace)) {
        end = closed;
        ends = MarkEnds(note, start, at, end);
      }
    }
    if (ends) {
      AddStripped(note, start, end, sentences);
      start = end;
    }
    at = end;
  }
  AddStripped(note, start, length, sentences);
}

struct Heading {
  int64_t start;
  uint32_t name;  // 0 for an unknown one
};

// Whether only white space and a list mark stand before `start` on its line.
bool BeginsLine(const Note& note, int64_t start) {
  const int64_t low = std::max<int64_t>(0, start - 12);
  int64_t at = start;
  while (at > low && note[at - 1] != '\n' && note[at - 1] != '\r') --at;
  if (at == low && low > 0) return false;
  at = note.SkipBlanks(at, start);
  int64_t marks = 0;
  while (at < start && marks < 6 && (note[at] == '#' || note[at] == '*' || note[at] == '-')) ++at, ++marks;
  if (marks) at = note.SkipBlanks(at, start);
  if (at == start) return true;
  if (note[at] == '(') ++at;
  int64_t letters = 0;
  while (at < start && letters < 2 && (IsAsciiAlpha(note[at]) || note.Is(at, kDecimal))) ++at, ++letters;
  if (letters == 0 || at == start || !IsListEnd(note[at])) return false;
  return note.SkipBlanks(at + 1, start) == start;
}

bool EndsSentence(const Note& note, int64_t start) {
  const int64_t low = std::max<int64_t>(0, start - 8);
  while (start > low && note.Is(start - 1, kSpace)) --start;
  if (start == low) return true;
  const uint32_t c = note[start - 1];
  return IsMark(c) || c == ';' || c == ':' || c == ')' || c == ']';
}

// The start of what follows the last mark of a sentence's end in [low, high), or `low`.
int64_t AfterSentenceMarks(const Note& note, int64_t low, int64_t high) {
  int64_t first = low;
  const auto after = [&](uint32_t mark) {
    for (int64_t at = high - 2; at >= first; --at) {
      if (note[at] == mark && note[at + 1] == ' ') {
        first = at + 2;
        return;
      }
    }
  };
  for (const uint32_t mark : {'.', ';', '!', '?', ')'}) after(mark);
  for (int64_t at = high - 1; at >= first; --at) {
    if (note[at] == '\t') {
      first = at + 1;
      break;
    }
  }
  after(' ');
  return first;
}

// A known heading in capitals at the end of the surface: "ROOM 12 CLINICAL HISTORY:".
bool KnownSuffix(const Note& note, int64_t start, int64_t high, Heading& heading) {
  bool found = false;
  int64_t at = high;
  for (int i = 0; i < 5; ++i) {
    --at;
    while (at >= start && note[at] != ' ') --at;
    if (at < start) break;
    const uint32_t name = note.Find(note.LowerWords(at + 1, high)).name;
    if (name && note.AllCapitals(at + 1, high) && !(note.Find(note.Lower(at + 1, high)).flags & kProse)) {
      heading = {at + 1, name};
      found = true;
    }
  }
  return found;
}

bool NamesSystem(const Note& note, int64_t start, int64_t high) {
  while (start < high) {
    int64_t end = start;
    while (end < high && !IsBlank(note[end])) ++end;
    if (end > start && (note.Find(note.Lower(start, end)).flags & kSystem)) return true;
    start = end + 1;
  }
  return false;
}

// Sets the heading that ends at `high` and starts at or after `low`; false where there is none.
bool HeadingBefore(const Note& note, int64_t low, int64_t high, Heading& heading) {
  if (!IsAsciiAlpha(note[high - 1])) return false;
  int64_t line = high;
  while (line > low && note[line - 1] != '\n' && note[line - 1] != '\r') --line;
  const int64_t first = AfterSentenceMarks(note, line, high);
  int64_t start = high;
  while (start > first && (InHeading(note[start - 1]) || note[start - 1] == '\t')) --start;
  while (start < high && !IsAsciiAlpha(note[start])) ++start;
  if (start == high) return false;
  const Word word = note.Find(note.LowerWords(start, high));
  const bool at_line = start == 0 || BeginsLine(note, start);
  const bool capitals = note.AllCapitals(start, high);
  if (word.name) {
    if (!at_line && !capitals) {
      if (!IsAsciiUpper(note[start]) || (word.flags & kProse) || !EndsSentence(note, start)) return false;
    }
    heading = {start, word.name};
    return true;
  }
  if (KnownSuffix(note, start, high, heading)) return true;
  if (at_line && capitals && high - start > 3 && !NamesSystem(note, start, high)) {
    heading = {start, 0};
    return true;
  }
  return false;
}

void ColonHeadings(const Note& note, std::vector<Heading>& headings) {
  std::vector<Heading> soap;
  uint32_t letters = 0;
  int64_t after = 0;
  for (int64_t colon = 0; colon < note.length(); ++colon) {
    if (note[colon] != ':') continue;
    const int64_t before = colon && note[colon - 1] == ' ' ? colon - 1 : colon;
    if (before > 1 && !IsBlank(note[before - 2]) && note[before - 2] != '\r' && note[before - 2] != '\n' &&
        note[before - 2] != ':') {
      Heading heading;
      if (HeadingBefore(note, std::max(after, before - kLongest), before, heading)) headings.push_back(heading);
    }
    after = colon + 1;
    if (colon == 0 || after == note.length()) continue;
    const uint32_t c = note[colon - 1];
    if (c != 'S' && c != 'O' && c != 'A' && c != 'P') continue;
    if (!IsBlank(note[after]) && note[after] != '\r' && note[after] != '\n') continue;
    if (colon > 1 && !note.Is(colon - 2, kSpace)) continue;
    const char letter[] = {static_cast<char>(c)};
    soap.push_back({colon - 1, note.Find(std::string_view(letter, 1)).name});
    letters |= 1u << (c - 'A');
  }
  if (letters & (letters - 1)) headings.insert(headings.end(), soap.begin(), soap.end());
}

// Sets the heading that alone makes up the line [at, end); false where there is none.
bool HeadingLine(const Note& note, int64_t at, int64_t end, Heading& heading) {
  at = note.SkipBlanks(at, end);
  if (at < end && note[at] == '#') {
    int64_t marks = 0;
    while (at < end && note[at] == '#') ++at, ++marks;
    if (marks > 6 || at == end || note[at] != ' ') return false;
    ++at;
  } else if (at + 1 < end && note[at] == '*' && note[at + 1] == '*') {
    at += 2;
  }
  int64_t digits = 0;
  while (at + digits < end && digits < 2 && note.Is(at + digits, kDecimal)) ++digits;
  if (digits) {
    at += digits;
    if (at == end || !IsListEnd(note[at])) return false;
    at = note.SkipBlanks(at + 1, end);
  }
  if (at == end || !IsAsciiAlpha(note[at])) return false;
  const int64_t start = at;
  int64_t last = start + 1;  // after the last character of the heading that is no space
  for (++at; at < end && at - start < kLongest && InHeading(note[at]); ++at) {
    if (note[at] != ' ') last = at + 1;
  }
  // The spaces after the heading may be part of its sixty characters; twenty more blanks may follow, and asterisks.
  if (at + 1 < end && note[at] == '*' && note[at + 1] == '*') at += 2;
  const int64_t limit = std::min(end, at + 20);
  at = note.SkipBlanks(at, limit);
  if (at < end && note[at] == '\r') ++at;
  if (at != end) return false;
  if (!IsAsciiUpper(note[start])) {
    int64_t i = start;
    while (i < last && note[i] != ' ') ++i;
    if (i == last) return false;
  }
  const Word word = note.Find(note.LowerWords(start, last));
  if (!word.name || (word.flags & kNeedsColon)) return false;
  heading = {start, word.name};
  return true;
}

void LineHeadings(const Note& note, std::vector<Heading>& headings) {
  for (int64_t at = 0; at <= note.length();) {
    int64_t end = at;
    while (end < note.length() && note[end] != '\n') ++end;
    Heading heading;
    if (HeadingLine(note, at, end, heading)) headings.push_back(heading);
    at = end + 1;
  }
}

struct Section {
  uint32_t start;
  uint32_t end;
  uint32_t name;
};

void FindSections(const Note& note, std::vector<Section>& sections) {
  const int64_t length = note.length();
  if (length == 0) return;
  std::vector<Heading> headings;
  ColonHeadings(note, headings);
  bool lines = length <= kLongest;
  for (int64_t at = 0; at < length && !lines; ++at) lines = note[at] == '\n';
  if (lines) LineHeadings(note, headings);
  std::stable_sort(headings.begin(), headings.end(),
                   [](const Heading& a, const Heading& b) { return a.start < b.start; });
  Section section{0, 0, 0};
  for (const Heading& heading : headings) {
    if (heading.start > section.start) {
      section.end = static_cast<uint32_t>(heading.start);
      sections.push_back(section);
    }
    section = {static_cast<uint32_t>(heading.start), 0, heading.name};
  }
  section.end = static_cast<uint32_t>(length);
  sections.push_back(section);
}

}  // namespace
}  // namespace medvllm

using medvllm::Lexicon;
using medvllm::Note;
using medvllm::Section;
using medvllm::Span;

extern "C" {

void* mv_lexicon_new(const char* lines) try {
  return new Lexicon(lines);
} catch (const std::bad_alloc&) {
  return nullptr;
}

void mv_lexicon_free(void* lexicon) { delete static_cast<Lexicon*>(lexicon); }

int64_t mv_sentences(const void* lexicon, const uint8_t* chars, const uint32_t* text, size_t length, uint32_t* pairs,
                     size_t room) try {
  const Note note(*static_cast<const Lexicon*>(lexicon), chars, text, length);
  std::vector<Span> sentences;
  medvllm::SplitSentences(note, sentences);
  if (note.unknown()) return medvllm::kUnknownChar;
  for (size_t i = 0; i < std::min(room, sentences.size()); ++i) {
    pairs[2 * i] = sentences[i].start;
    pairs[2 * i + 1] = sentences[i].end;
  }
  return static_cast<int64_t>(sentences.size());
} catch (const std::bad_alloc&) {
  return medvllm::kOutOfMemory;
}

int64_t mv_sections(const void* lexicon, const uint8_t* chars, const uint32_t* text, size_t length, uint32_t* triples,
                    size_t room) try {
  const Note note(*static_cast<const Lexicon*>(lexicon), chars, text, length);
  std::vector<Section> sections;
  medvllm::FindSections(note, sections);
  if (note.unknown()) return medvllm::kUnknownChar;
  for (size_t i = 0; i < std::min(room, sections.size()); ++i) {
    triples[3 * i] = sections[i].start;
    triples[3 * i + 1] = sections[i].end;
    triples[3 * i + 2] = sections[i].name;
  }
  return static_cast<int64_t>(sections.size());
} catch (const std::bad_alloc&) {
  return medvllm::kOutOfMemory;
}

}  // extern "C"
