// Numbers and words of time in a note, sorted by what can come of them: the search before the patterns of
// medvllm/tasks/measurements.py and temporal.py, where the rules are. The plain shapes of a laboratory value are read
// here; whatever is rarer is handed to those modules, so what they find is the same with and without this.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <iterator>
#include <new>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace medvllm {
namespace {

// Of each code point, as in medvllm_kernels/sections.py; 0 where it is not described.
enum CharFlag : uint8_t { kSpace = 2, kAlpha = 4, kDigit = 32, kDecimal = 64, kWord = 128 };

// Of each name, as in medvllm_kernels/values.py.
enum NameFlag : uint32_t { kAsk = 1, kCased = 2, kVital = 4, kAskUnit = 8 };

constexpr int64_t kOutOfMemory = -1;
constexpr int64_t kUnknownChar = -2;
// The same numbers stand in medvllm/tasks/measurements.py.
constexpr size_t kReach = 64;  // characters read on the left of a number
constexpr size_t kMaxConnectors = 7;
constexpr size_t kMaxCasedConnectors = 3;
constexpr size_t kLongestNumber = 24;

enum RowKind : int32_t { kTime = 1, kValue = 2, kAskRead = 3 };

struct Row {
  int32_t kind;
  int32_t start;  // of the number
  int32_t end;
  int32_t begin = -1;  // of the name
  int32_t stop = -1;   // of the value, with its unit and flag
  int32_t name = -1;
  int32_t comparator = -1;
  int32_t unit = -1;
  int32_t unit_start = -1;
  int32_t unit_end = -1;
  int32_t flag_start = -1;
  int32_t flag_end = -1;
};
static_assert(sizeof(Row) == 48, "rows are twelve 32-bit numbers");

struct Name {
  uint32_t flags;
  std::string words;
  std::vector<std::string> spellings;  // of a cased one
};

struct Unit {
  std::u32string words;
  uint32_t number;
  bool ask;
};

constexpr size_t kUnitBuckets = 129;  // one for each ASCII letter, and one for all others
inline size_t Bucket(uint32_t c) { return std::min<size_t>(c, kUnitBuckets - 1); }

// Of well-formed UTF-8 without characters of four bytes.
std::u32string Decode(const std::string& words) {
  std::u32string decoded;
  for (size_t i = 0; i < words.size(); ++i) {
    uint32_t c = static_cast<unsigned char>(words[i]);
    const int more = c >= 0xe0 ? 2 : c >= 0xc0 ? 1 : 0;
    if (more) c &= more == 2 ? 0x0f : 0x1f;
    for (int k = 0; k < more && i + 1 < words.size(); ++k) c = c << 6 | (static_cast<unsigned char>(words[++i]) & 0x3f);
    decoded.push_back(c);
  }
  return decoded;
}

// Names of analytes by their last word, words between a name and its number, and units. Made of lines
// "KIND<tab>NUMBER<tab>WORDS", see medvllm_kernels/values.py.
class ValueWords {
 public:
  explicit ValueWords(const char* lines) {
    for (const char* at = lines; *at != '\0';) {
      const char kind = *at;
      char* rest = nullptr;
      const uint32_t number = static_cast<uint32_t>(std::strtoul(at + 2, &rest, 10));
      const char* const first = rest + 1;
      const char* last = first;
      while (*last != '\n' && *last != '\0') ++last;
      Add(kind, number, std::string(first, last));
      at = *last == '\n' ? last + 1 : last;
    }
  }

  std::vector<Name> names;
  std::unordered_map<std::string, std::vector<uint32_t>> by_last_word;  // the longest name first
  std::unordered_map<std::string, bool> connectors;                    // whether the word may not be the last one
  std::vector<Unit> units[kUnitBuckets];  // by first letter, in their order
  std::vector<std::string> beginnings[26 * 27];  // of parts of prescriptions, see Pair

  // By the first letter and the second; the last of 27 is for all that are no letter.
  static size_t Pair(uint32_t first, uint32_t second) {
    return (first - 'a') * 27 + (second >= 'a' && second <= 'z' ? second - 'a' : 26);
  }

 private:
  void Add(char kind, uint32_t number, std::string words) {
    switch (kind) {
      case 'n':
        names.push_back({number, words, {}});
        break;
      case 'l':
        by_last_word[words].push_back(number);
        break;
      case 's':
        names[number].spellings.push_back(words);
        break;
      case 'c':
        connectors[words] = number != 0;
        break;
      case 'u': {
        const std::u32string unit = Decode(words);
        units[Bucket(unit[0])].push_back({unit, units_++, number != 0});
        break;
      }
      case 'b':
        if (words.empty() || words[0] < 'a' || words[0] > 'z') break;
        if (words.size() == 1) {
          for (char second = 'a'; second <= 'z' + 1; ++second) AddBeginning(words, second);
        } else {
          AddBeginning(words, words[1]);
        }
        break;
      default:
        break;
    }
  }

  void AddBeginning(const std::string& words, char second) {
    beginnings[Pair(static_cast<unsigned char>(words[0]), static_cast<unsigned char>(second))].push_back(words);
  }

  uint32_t units_ = 0;
};

constexpr uint32_t kHalf = 0xbd, kTimes = 0xd7;
constexpr uint32_t kMicro = 0xb5, kMu = 0x3bc, kEnDash = 0x2013, kEmDash = 0x2014, kArrow = 0x2192;
constexpr uint32_t kLessEqual = 0x2264, kGreaterEqual = 0x2265, kBullet = 0x2022;

inline bool IsTail(uint32_t c) { return c == '.' || c == ',' || c == ':' || c == '/' || c == '-' || c == kEnDash; }
inline bool IsBlank(uint32_t c) { return c == ' ' || c == '\t'; }

// _SIGNS of measurements.py.
inline bool IsSign(uint32_t c) {
  switch (c) {
    case ' ': case '\t': case '\r': case ':': case '=': case '-': case '~': case '|': case '*': case '(': case '[':
    case '<': case '>': case '#': case '\'': case '"':
    case kEnDash: case kEmDash: case kBullet: case kLessEqual: case kGreaterEqual: case kArrow:
      return true;
    default:
      return false;
  }
}

template <size_t kSize>
inline bool StartsWithOne(const uint32_t* at, const uint32_t* end, const char (&words)[kSize], size_t width) {
  if (static_cast<size_t>(end - at) < width) return false;
  for (const char* word = words; *word != '\0'; word += width) {
    size_t i = 0;
    while (i < width && at[i] == static_cast<unsigned char>(word[i])) ++i;
    if (i == width) return true;
  }
  return false;
}

constexpr char kMonths[] = "janfebmaraprmayjunjulaugsepoctnovdec";
constexpr char kTimeUnits[] = "semihohrdawewkmoyeyr";

// Words that times are found by, in the order of ANCHORS of medvllm/tasks/time_words.py.
constexpr const char* kAnchors[] = {"day",       "week",    "month",    "year",     "hour",    "night", "morning",
                                    "afternoon", "evening", "tomorrow", "since",    "january", "february", "march",
                                    "april",     "may",     "june",     "july",     "august",  "september",
                                    "october",   "november", "december"};
enum Anchor : uint32_t { kDay = 0, kHour = 4, kNight = 5, kMorning = 6, kEvening = 8, kTomorrow = 9, kSince = 10 };

// A name found before a number.
struct Found {
  bool ask = false;
  int32_t name = -1;
  int64_t begin = 0;
  int32_t comparator = -1;
};

class Scan {
 public:
  Scan(const ValueWords& words, const uint8_t* chars, const uint32_t* text, const uint32_t* low, size_t length)
      : words_(words), chars_(chars), text_(text), low_(low), length_(static_cast<int64_t>(length)) {}

  bool unknown() const { return unknown_; }

  void Numbers(std::vector<Row>& rows) {
    for (int64_t at = 0; at < length_;) {
      if (!BeginsNumber(at)) {
        ++at;
        continue;
      }
      int64_t stop = at + 1;
      while (stop < length_ && (IsTail(low_[stop]) || Is(stop, kDecimal))) ++stop;
      int64_t end = stop;
      while (IsTail(low_[end - 1])) --end;
      Judge(at, end, rows);
      at = stop;
    }
  }

  // Pairs (number in kAnchors, place) of those at which a time may be.
  void Anchors(std::vector<uint32_t>& pairs) {
    std::vector<uint32_t> places[std::size(kAnchors)];
    static const std::array<std::vector<uint32_t>, 26> by_letter = [] {
      std::array<std::vector<uint32_t>, 26> lists;
      for (uint32_t anchor = 0; anchor < std::size(kAnchors); ++anchor) {
        lists[static_cast<size_t>(kAnchors[anchor][0] - 'a')].push_back(anchor);
      }
      return lists;
    }();
    for (int64_t at = 0; at + 3 <= length_; ++at) {
      const uint32_t c = low_[at];
      if (c < 'a' || c > 'z') continue;
      for (const uint32_t anchor : by_letter[c - 'a']) {
        const char* const word = kAnchors[anchor];
        if (low_[at + 1] != static_cast<unsigned char>(word[1]) || !Reads(at, word)) continue;
        if (MayBeTime(anchor, at, at + static_cast<int64_t>(std::char_traits<char>::length(word)))) {
          places[anchor].push_back(static_cast<uint32_t>(at));
        }
      }
    }
    for (uint32_t anchor = 0; anchor < std::size(kAnchors); ++anchor) {
      for (const uint32_t place : places[anchor]) {
        pairs.push_back(anchor);
        pairs.push_back(place);
      }
    }
  }

  // Pairs (place, end) of those at which a part of a prescription may begin; an end other than 0 where it may only
  // if the text that is read ends there. As BEGINNINGS of dosing_words.py.
  void Beginnings(std::vector<uint32_t>& pairs) {
    bool inside = false;  // the character before is of a word, or "/"
    for (int64_t at = 0; at < length_; ++at) {
      const uint32_t c = low_[at];
      const bool begins = !inside;
      inside = c == '/' || Is(at, kWord);
      if (!begins) continue;
      if (c >= 'a' && c <= 'z') {
        const uint32_t second = at + 1 < length_ ? low_[at + 1] : 0;
        const std::vector<std::string>& known = words_.beginnings[ValueWords::Pair(c, second)];
        if (!known.empty()) AddBeginnings(at, known, pairs);
      } else if (c == '.' || c == kHalf || c == kTimes || Is(at, kDecimal)) {
        pairs.insert(pairs.end(), {static_cast<uint32_t>(at), 0u});
      }
    }
  }

 private:
  void AddBeginnings(int64_t at, const std::vector<std::string>& known, std::vector<uint32_t>& pairs) {
    const size_t before = pairs.size();
    for (const std::string& beginning : known) {
      const int64_t end = EndOfBeginning(at, beginning);
      if (end < 0) continue;
      if (end == 0) pairs.resize(before);
      pairs.insert(pairs.end(), {static_cast<uint32_t>(at), static_cast<uint32_t>(end)});
      if (end == 0) break;
    }
  }

  // 0 where the text goes on so; the place at which it would have to end for that; -1 where it does not.
  int64_t EndOfBeginning(int64_t at, const std::string& beginning) {
    for (size_t i = 1; i < beginning.size(); ++i) {
      ++at;
      const char letter = beginning[i];
      if (letter == '|') return at < length_ && Is(at, kWord) ? at : 0;
      if (at == length_) return -1;
      const bool same = letter == ' '   ? low_[at] == '-' || Is(at, kSpace)
                        : letter == '#' ? Is(at, kDecimal)
                                        : low_[at] == static_cast<unsigned char>(letter);
      if (!same) return -1;
    }
    return 0;
  }

  bool IsChar(uint32_t c, uint8_t flag) {
    const uint8_t held = chars_[c];
    if (held == 0) unknown_ = true;
    return (held & flag) != 0;
  }
  bool Is(int64_t at, uint8_t flag) { return IsChar(low_[at], flag); }
  bool IsAlnum(uint32_t c) { return c != '_' && IsChar(c, kWord); }
  bool Has(int64_t at, uint32_t c) const { return at >= 0 && at < length_ && low_[at] == c; }

  bool Reads(int64_t at, const char* word) const {
    for (; *word != '\0'; ++word, ++at) {
      if (!Has(at, static_cast<unsigned char>(*word))) return false;
    }
    return true;
  }

  bool BeginsNumber(int64_t at) {
    if (!Is(at, kDecimal)) return false;
    if (at == 0) return true;
    const uint32_t before = low_[at - 1];
    return !((before >= 'a' && before <= 'z' && before != 'x') || before == '_' || before == '.' ||
             (before >= '0' && before <= '9'));
  }

  // The last character but white space of the two before `at`; 0 where there is none.
  uint32_t Before(int64_t at) {
    for (int64_t k = at - 1; k >= 0 && k >= at - 2; --k) {
      if (!Is(k, kSpace)) return low_[k];
    }
    return 0;
  }

  bool IsWhole(int64_t start, int64_t end) {
    for (int64_t at = start; at < end; ++at) {
      if (IsTail(low_[at])) return false;
    }
    return true;
  }

  // _is_plain of patterns.py, of a whole number.
  bool IsPlain(int64_t start, int64_t end) {
    const uint32_t before = Before(start);
    const bool digit = before >= '0' && before <= '9';
    if (!digit && before != ',' && before != ';' && before != ')') return false;
    if (digit) {
      int64_t at = start;
      while (at > 0 && at > start - 8 && Is(at - 1, kSpace)) --at;
      for (; at > 0 && at > start - 8 && !Is(at - 1, kSpace); --at) {
        if (!Is(at - 1, kDigit)) return false;
      }
    }
    for (int64_t at = end; at < std::min(end + 2, length_); ++at) {
      const uint32_t c = low_[at];
      if (c == ' ' || c == '-' || c == '\n') continue;
      if (Is(at, kAlpha)) return false;
      break;
    }
    return !Has(end, '%');
  }

  void Judge(int64_t start, int64_t end, std::vector<Row>& rows) {
    const bool whole = IsWhole(start, end);
    if (whole && IsPlain(start, end)) return;
    Row row{kTime, static_cast<int32_t>(start), static_cast<int32_t>(end)};
    if (static_cast<size_t>(end - start) <= kLongestNumber) {
      const Found found = FindName(start);
      if (found.ask || (found.name >= 0 && !ReadValue(start, end, found, row))) {
        row.kind = kAskRead;
      } else if (found.name < 0 && MayBeNameless(start, end, whole)) {
        row.kind = kAskRead;
      }
    }
    if (row.kind != kTime || MayBeNumberedTime(start, end, whole)) rows.push_back(row);
  }

  // "97% on RA" and "120/80 mmHg".
  bool MayBeNameless(int64_t start, int64_t end, bool whole) {
    if (Has(end, '%') && whole) return true;
    if (whole || std::find(low_ + start, low_ + end, uint32_t{'/'}) == low_ + end) return false;
    const int64_t at = end < length_ && Is(end, kSpace) ? end + 1 : end;
    return Has(at, 'm') && Has(at + 1, 'm');
  }

  // As _name of measurements.py.
  Found FindName(int64_t start) {
    int64_t left = std::max<int64_t>(0, start - static_cast<int64_t>(kReach));
    for (int64_t at = start; at > left; --at) {
      if (low_[at - 1] == '\n') left = at;
    }
    size_t size = static_cast<size_t>(start - left);
    std::copy(low_ + left, low_ + start, segment_);
    size = StripSigns(size);
    if (size >= 2 && segment_[size - 1] == '.' && segment_[size - 2] == '.') {
      while (size && (segment_[size - 1] == '.' || segment_[size - 1] == ' ')) --size;
    }
    size_t connectors = 0;
    while (size) {
      size_t first = WordStart(size);
      const std::vector<uint32_t>* names = NamesOf(first, size);
      if (names == nullptr && !IsAlnumWord(first, size)) {
        for (size_t i = 0; i < size; ++i) {
          if (IsSign(segment_[i])) segment_[i] = ' ';
        }
        first = WordStart(size);
        names = NamesOf(first, size);
      }
      const auto connector = words_.connectors.find(word_);
      const bool connects = word_known_ && connector != words_.connectors.end();
      if (names != nullptr) {
        const Found found = LongestName(*names, start, left, size, connectors);
        if (found.ask || found.name >= 0 || !connects) return found;
      }
      if (!connects || (connectors == 0 && connector->second) || connectors == kMaxConnectors) return {};
      ++connectors;
      size = StripSigns(first);
    }
    return {};
  }

  size_t StripSigns(size_t size) const {
    while (size && IsSign(segment_[size - 1])) --size;
    return size;
  }

  size_t WordStart(size_t size) const {
    size_t first = size;
    while (first && segment_[first - 1] != ' ') --first;
    return first;
  }

  bool IsAlnumWord(size_t first, size_t last) {
    for (size_t i = first; i < last; ++i) {
      if (!IsAlnum(segment_[i])) return false;
    }
    return last > first;
  }

  // The names that end in this word, which is kept in word_; all names are ASCII.
  const std::vector<uint32_t>* NamesOf(size_t first, size_t last) {
    word_.clear();
    word_known_ = true;
    for (size_t i = first; i < last; ++i) {
      if (segment_[i] > 127) {
        word_known_ = false;
        return nullptr;
      }
      word_.push_back(static_cast<char>(segment_[i]));
    }
    const auto found = words_.by_last_word.find(word_);
    return found == words_.by_last_word.end() ? nullptr : &found->second;
  }

  bool EndsWith(size_t size, std::string_view words) const {
    if (size < words.size()) return false;
    const uint32_t* at = segment_ + size - words.size();
    return std::equal(words.begin(), words.end(), at,
                      [](char a, uint32_t b) { return static_cast<unsigned char>(a) == b; });
  }

  // As _longest_name of measurements.py; pairs and names with a specimen before them are to be asked about.
  Found LongestName(const std::vector<uint32_t>& names, int64_t start, int64_t left, size_t size, size_t connectors) {
    for (const uint32_t number : names) {
      const Name& name = words_.names[number];
      if (!EndsWith(size, name.words)) continue;
      const size_t at = size - name.words.size();
      if (at == 0 ? left > 0 && IsAlnum(text_[left - 1]) : IsAlnum(segment_[at - 1])) continue;
      Found found;
      found.begin = left + static_cast<int64_t>(at);
      found.name = static_cast<int32_t>(number);
      found.ask = (name.flags & kAsk) != 0;
      if (found.ask) return found;
      if (name.flags & kCased) {
        if (connectors > kMaxCasedConnectors) return {};
        if (!IsSpelled(name, found.begin)) {
          found.ask = (name.flags & kVital) != 0;
          return found.ask ? found : Found{};
        }
      }
      size_t before = at;
      const size_t least = at > 10 ? at - 10 : 0;
      while (before > least && IsChar(segment_[before - 1], kSpace)) --before;
      for (const std::string_view word : {"vitamin", "/", "lost", "lose", "gained", "gain", "losing", "gaining"}) {
        if (before - least >= word.size() && EndsWith(before, word)) return {};
      }
      if (name.words == "mg" && before > least && IsChar(segment_[before - 1], kDigit)) return {};
      for (const std::string_view word : {"serum", "plasma", "fasting", "random", "venous", "arterial", "capillary"}) {
        if (before - least >= word.size() && EndsWith(before, word)) {
          found.ask = true;
          return found;
        }
      }
      found.comparator = Comparator(left + static_cast<int64_t>(size), start);
      return found;
    }
    return {};
  }

  bool IsSpelled(const Name& name, int64_t begin) const {
    for (const std::string& spelling : name.spellings) {
      if (std::equal(spelling.begin(), spelling.end(), text_ + begin,
                     [](char a, uint32_t b) { return static_cast<unsigned char>(a) == b; })) {
        return true;
      }
    }
    return false;
  }

  // The number of the comparator between a name and its value, in the order of _COMPARATORS; -1 where there is none.
  int32_t Comparator(int64_t begin, int64_t start) const {
    static constexpr const char* kWords[] = {"<", nullptr, "less", "below", "under",
                                             ">", nullptr, "greater", "above", "over"};
    for (size_t i = 0; i < std::size(kWords); ++i) {
      for (int64_t at = begin; at < start; ++at) {
        if (kWords[i] == nullptr) {
          if (low_[at] == (i == 1 ? kLessEqual : kGreaterEqual)) return static_cast<int32_t>(i);
        } else if (low_[at] == static_cast<unsigned char>(kWords[i][0]) && Reads(at, kWords[i]) &&
                   at + static_cast<int64_t>(std::char_traits<char>::length(kWords[i])) <= start) {
          return static_cast<int32_t>(i);
        }
      }
    }
    return -1;
  }

  // A plain number with a unit and a flag, or with nothing; false where more of the rules would be needed.
  bool ReadValue(int64_t start, int64_t end, const Found& found, Row& row) {
    if (!IsSimple(start, end)) return false;
    row.begin = static_cast<int32_t>(found.begin);
    row.stop = static_cast<int32_t>(end);
    row.name = found.name;
    row.comparator = found.comparator;
    row.kind = kValue;
    int64_t at = end;
    while (at < std::min(end + 6, length_) && IsBlank(low_[at])) ++at;
    if (at == std::min(end + 6, length_)) return true;
    const uint32_t follows = low_[at];
    if (follows == ',' || follows == ';' || follows == '.' || follows == '\n') return true;
    if (MayTrend(end) || !ReadUnit(end, row)) return false;
    return ReadFlag(row);
  }

  // Digits with at most one full stop between them.
  bool IsSimple(int64_t start, int64_t end) {
    bool stop = false;
    for (int64_t at = start; at < end; ++at) {
      if (low_[at] == '.') {
        if (stop) return false;
        stop = true;
      } else if (IsTail(low_[at])) {
        return false;
      }
    }
    return true;
  }

  // The place after at most `most` characters of white space.
  int64_t SkipSpace(int64_t at, int64_t most) {
    const int64_t limit = std::min(at + most, length_);
    while (at < limit && Is(at, kSpace)) ++at;
    return at;
  }

  bool MayTrend(int64_t end) {
    const int64_t at = SkipSpace(end, 2);
    return Has(at, '-') || Has(at, kArrow) || Has(at, '=') || (Has(at, 't') && Has(at + 1, 'o'));
  }

  // Whether the unit, or that there is none, is plain.
  bool ReadUnit(int64_t end, Row& row) {
    int64_t at = end;
    while (at < std::min(end + 6, length_) && (IsBlank(low_[at]) || low_[at] == '-')) ++at;
    if (at < length_) {
      const uint32_t first = low_[at] == kMicro || low_[at] == kMu ? 'u' : low_[at];
      for (const Unit& unit : words_.units[Bucket(first)]) {
        const int64_t stop = MatchUnit(at, unit.words);
        if (stop < 0) continue;
        if (unit.ask || (words_.names[static_cast<size_t>(row.name)].flags & kAskUnit)) return false;
        row.unit = static_cast<int32_t>(unit.number);
        row.unit_start = static_cast<int32_t>(at);
        row.unit_end = row.stop = static_cast<int32_t>(stop);
        return true;
      }
    }
    at = end;
    while (at < std::min(end + 2, length_) && (low_[at] == '-' || Is(at, kSpace))) ++at;
    if (at == length_) return true;
    const uint32_t c = low_[at];
    if (c == '/' || c == '%') return false;
    if (!IsChar(c, kAlpha)) return true;
    return (c == 'h' || c == 'l') && (at + 1 == length_ || !Is(at + 1, kWord));  // a flag
  }

  int64_t MatchUnit(int64_t at, const std::u32string& unit) {
    for (const char32_t letter : unit) {
      if (at == length_) return -1;
      const uint32_t c = low_[at++];
      if (letter == ' ' ? !IsChar(c, kSpace)
                        : c != letter && !(letter == 'u' && (c == kMicro || c == kMu))) {
        return -1;
      }
    }
    if (at < length_ && (low_[at] == '/' || low_[at] == '^' || Is(at, kWord))) return -1;
    return at;
  }

  // A bare H, HH, L or LL; false where brackets or a star follow.
  bool ReadFlag(Row& row) {
    int64_t at = SkipBlanks(row.stop);
    if (Opens(at)) return false;
    if (!Has(at, 'h') && !Has(at, 'l')) return true;
    int64_t stop = at + 1;
    if (Has(stop, low_[at])) ++stop;
    if (stop < length_ && Is(stop, kWord)) return true;
    if (text_[at] == low_[at]) return true;
    if (text_[at] != 'H' && text_[at] != 'L') return false;
    row.flag_start = static_cast<int32_t>(at);
    row.flag_end = row.stop = static_cast<int32_t>(stop);
    return !Opens(SkipBlanks(stop));
  }

  int64_t SkipBlanks(int64_t at) const {
    const int64_t limit = std::min(at + 4, length_);
    while (at < limit && IsBlank(low_[at])) ++at;
    return at;
  }

  bool Opens(int64_t at) const { return Has(at, '(') || Has(at, '[') || Has(at, '*'); }

  // Whether from_number of temporal.py may find something.
  bool MayBeNumberedTime(int64_t start, int64_t end, bool whole) {
    const int64_t size = end - start;
    if (!whole) {
      if (size > 12) return false;
      int stops = 0;
      for (int64_t at = start; at < end; ++at) {
        const uint32_t c = low_[at];
        if (c == '/' || c == '-' || c == ':') return true;
        stops += c == '.';
      }
      return stops > 1 || MayBeUnit(end);
    }
    if (size > 4) return false;
    if (MayBeUnit(end) || IsNumberedDay(start) || MayHaveMonthBefore(start)) return true;
    if (size == 4) return Has(start, '1') || Has(start, '2');
    return size <= 2 && MayHaveMonthAfter(end);
  }

  bool IsTimeUnit(int64_t at) const { return StartsWithOne(low_ + at, low_ + length_, kTimeUnits, 2); }

  bool MayBeUnit(int64_t end) {
    if (end == length_) return false;
    if (IsTimeUnit(end)) return true;
    if ((low_[end] == '-' || Is(end, kSpace)) && IsTimeUnit(end + 1)) return true;
    return low_[end] == '+' && end + 1 < length_ && Is(end + 1, kSpace) && IsTimeUnit(end + 2);
  }

  bool IsNumberedDay(int64_t at) {
    if (at > 0 && Is(at - 1, kSpace)) --at;
    if (Has(at - 1, '#')) --at;
    if (at > 0 && Is(at - 1, kSpace)) --at;
    if (Has(at - 1, 'd')) return (Has(at - 2, 'o') && Has(at - 3, 'p')) || Has(at - 2, 'h');
    return Has(at - 1, 'l') && Has(at - 2, 'o') && Has(at - 3, 'd');
  }

  bool MayHaveMonthBefore(int64_t start) {
    if (start < 4 || !(low_[start - 1] == '-' || Is(start - 1, kSpace))) return false;
    for (int64_t at = std::max<int64_t>(0, start - 14); at + 3 < start; ++at) {
      if (StartsWithOne(low_ + at, low_ + start, kMonths, 3)) return true;
    }
    return false;
  }

  bool MayHaveMonthAfter(int64_t at) {
    if (StartsWithOne(low_ + at, low_ + length_, "stndrdth", 2)) at += 2;
    if (at >= length_ || !(low_[at] == '-' || Is(at, kSpace))) return false;
    ++at;
    if (Has(at, 'o') && Has(at + 1, 'f') && at + 2 < length_ && Is(at + 2, kSpace)) at += 3;
    return StartsWithOne(low_ + at, low_ + length_, kMonths, 3);
  }

  // Whether _at_word of temporal.py may find something.
  bool MayBeTime(uint32_t anchor, int64_t at, int64_t after) {
    const uint32_t before = at ? low_[at - 1] : ' ';
    if (anchor <= kHour) {
      if (IsChar(before, kAlpha)) {  // Monday … Sunday, yesterday, today
        return anchor == kDay && at >= 2 && StartsWithOne(low_ + at - 2, low_ + at, "onesrsriurunerto", 2);
      }
      return (anchor == kDay && MayBeNumbered(after)) || IsCounted(at);
    }
    if (after < length_ && IsAlnum(low_[after])) return false;
    if (anchor == kSince) {
      if (IsAlnum(before) || after + 1 >= length_ || !Is(after, kSpace)) return false;
      return StartsWithOne(low_ + after + 1, low_ + length_, "ecbiads", 1);
    }
    if (anchor == kTomorrow) return !IsAlnum(before);
    if (anchor == kNight) return before == ' ' || before == 'o' || before == 'r';
    if (anchor >= kMorning && anchor <= kEvening) return before == ' ' && Has(at - 2, 's');  // "this "
    if (low_[at] == 'm' && low_[at + 1] == 'a' && text_[at] == low_[at]) return false;  // march and may are words too
    return before == '-' || IsChar(before, kSpace);
  }

  // "day 3", "day of life 2", "day one"
  bool MayBeNumbered(int64_t at) {
    if (at < length_ && Is(at, kSpace)) ++at;
    if (at == length_) return false;
    return Is(at, kDecimal) || Is(at, kSpace) || StartsWithOne(low_ + at, low_ + length_, "#otfs", 1);
  }

  // Whether the letters before end like those of a number or of "few", _COUNT_ENDS of temporal.py.
  bool IsCounted(int64_t at) const {
    if (at < 2) return false;
    if (low_[at - 2] == 'a') return true;
    return at >= 3 && StartsWithOne(low_ + at - 3, low_ + at - 1, "newoeeurveixenhtalllnyewleofanstisxtusre", 2);
  }

  const ValueWords& words_;
  const uint8_t* const chars_;
  const uint32_t* const text_;
  const uint32_t* const low_;
  const int64_t length_;
  bool unknown_ = false;
  uint32_t segment_[kReach];
  std::string word_;
  bool word_known_ = true;
};

}  // namespace
}  // namespace medvllm

extern "C" {

// `lines` is zero-terminated; null where memory ran out.
void* mv_values_new(const char* lines) try {
  return new medvllm::ValueWords(lines);
} catch (const std::bad_alloc&) {
  return nullptr;
}

void mv_values_free(void* words) { delete static_cast<medvllm::ValueWords*>(words); }

// Writes up to row_room rows (see Row), up to anchor_room pairs (anchor, place) and up to part_room pairs (place, end; see
// Beginnings), and their numbers into counts[0] to counts[2]. `low` is the text in lower case, as long as the text.
// Returns 0; -1 where memory ran out; -2 where the text has a character that `chars` does not describe.
int64_t mv_values(const void* words, const uint8_t* chars, const uint32_t* text, const uint32_t* low, size_t length,
                  int32_t* rows, size_t row_room, uint32_t* anchors, size_t anchor_room, uint32_t* parts,
                  size_t part_room, uint64_t* counts) try {
  using namespace medvllm;
  Scan scan(*static_cast<const ValueWords*>(words), chars, text, low, length);
  std::vector<Row> found;
  std::vector<uint32_t> pairs, beginnings;
  scan.Numbers(found);
  scan.Anchors(pairs);
  scan.Beginnings(beginnings);
  if (scan.unknown()) return kUnknownChar;
  counts[0] = found.size();
  counts[1] = pairs.size() / 2;
  counts[2] = beginnings.size() / 2;
  std::copy_n(reinterpret_cast<const int32_t*>(found.data()), 12 * std::min(row_room, found.size()), rows);
  std::copy_n(pairs.data(), 2 * std::min(anchor_room, pairs.size() / 2), anchors);
  std::copy_n(beginnings.data(), 2 * std::min(part_room, beginnings.size() / 2), parts);
  return 0;
} catch (const std::bad_alloc&) {
  return medvllm::kOutOfMemory;
}

}  // extern "C"
