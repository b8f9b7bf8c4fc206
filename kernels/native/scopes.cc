// Which cues of assertion reach which spans: the native twin of Sentence in medvllm/tasks/assertion_scopes.py, where
// the rules are. Persons are judged there: a first call names them, a second one is given what they are.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <new>
#include <numeric>
#include <vector>

#include "sections.h"

namespace medvllm {
namespace {

// The same numbers stand in medvllm_kernels/scopes.py and medvllm/tasks/assertion_cues.py.
enum Dimension : int32_t { kNeg, kPos, kHist, kHypo, kFam, kOth, kRec };
enum Reach : int32_t { kClause, kPhrase, kAdjacent };
enum Stop : int32_t { kNoStop, kStopAll, kStopPhrase, kStopNeg, kHe, kShe, kThey };
enum Meeting : uint8_t { kNobody, kBearerAhead, kBearerBehind, kSource };
enum CharFlag : uint8_t { kSpace = 2, kWord = 128 };

constexpr int64_t kOutOfMemory = -1;
constexpr int64_t kUnknownChar = -2;
constexpr int64_t kBadSpan = -3;
constexpr int64_t kPhraseLimit = 60;
constexpr int64_t kBackLimit = 100;
constexpr int32_t kMaxEffects = 4;

struct Effect {
  int32_t dimension;
  int32_t reach;
};

struct Kind {
  int32_t forward_count;
  int32_t backward_count;
  Effect forward[kMaxEffects];
  Effect backward[kMaxEffects];
  int32_t stop;
  int32_t person;  // 0, or an experiencer
  int32_t gender;  // 0, kHe or kShe
  int32_t pseudo;

  bool Forward(int32_t dimension, int32_t reach) const {
    for (int32_t i = 0; i < forward_count; ++i) {
      if (forward[i].dimension == dimension && (reach < 0 || forward[i].reach == reach)) return true;
    }
    return false;
  }
  bool BearerBehind() const {
    for (int32_t i = 0; i < backward_count; ++i) {
      if (backward[i].dimension == kFam && backward[i].reach == kClause) return true;
    }
    return false;
  }
};

struct Cue {
  uint32_t start;
  uint32_t end;
  uint32_t kind;
};

// A cue in force; `cue` is its number in the sentence, or -1 for none.
struct Scope {
  int64_t start = 0;
  int64_t end = 0;
  int32_t reach = 0;
  int64_t cue = -1;

  explicit operator bool() const { return cue >= 0; }
};

// (start, end) of the phrase that decided; -1, -1 where none did.
struct Place {
  int32_t start = -1;
  int32_t end = -1;
};

struct Bearer {
  int32_t experiencer = 0;
  Place place;
  int32_t gender = 0;
};

struct Finding {
  Scope polarity;
  int32_t dimension = kNeg;
  bool past = false;
  bool hypothetical = false;
  Place past_cue;
  Place hypothetical_cue;
  Bearer bearer;
};

struct Request {
  const uint8_t* chars;
  const uint32_t* text;
  const Kind* kinds;
  const uint8_t* meetings;  // of the persons in order, or null
  uint32_t* persons;        // (start, end, end of the sentence) of each, where `meetings` is null
  size_t person_room;
  size_t person_count = 0;
  bool unknown = false;
  // Room for the sentences, one after the other.
  std::vector<Finding> ahead = {};
  std::vector<Finding> behind = {};
  std::vector<uint32_t> by_end = {};
  std::vector<uint8_t> answers = {};
  std::vector<uint8_t> used = {};

  bool Is(int64_t at, uint8_t flag) {
    const uint8_t held = chars[text[at]];
    if (held == 0) unknown = true;
    return (held & flag) != 0;
  }
};

inline uint32_t AsciiLower(uint32_t c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; }
inline bool IsSeparator(uint32_t c) { return c == ',' || c == ';' || c == ':'; }
inline Place PlaceOf(const Scope& scope) { return {static_cast<int32_t>(scope.start), static_cast<int32_t>(scope.end)}; }
inline Place PlaceOf(const Cue& cue) { return {static_cast<int32_t>(cue.start), static_cast<int32_t>(cue.end)}; }

struct Span {
  int64_t start;
  int64_t end;
};

class Sentence {
 public:
  Sentence(Request& request, int64_t end, const Cue* cues, size_t count, bool historical, bool family)
      : request_(request), text_(request.text), end_(end), cues_(cues), count_(static_cast<int64_t>(count)),
        historical_(historical), family_(family), answers_(request.answers), used_(request.used) {
    answers_.assign(count, 0);
    used_.assign(count, 0);
  }

  // Calls set(number, front, back) for each of the spans, whose numbers come ordered by start, then end.
  template <typename Set>
  void Assess(const Span* spans, const uint32_t* order, size_t size, Set set) {
    std::vector<Finding>& ahead = request_.ahead;
    std::vector<Finding>& behind = request_.behind;
    ahead.assign(size, Finding{});
    behind.assign(size, Finding{});
    int64_t at = 0;
    for (size_t i = 0; i < size; ++i) {
      const Span& span = spans[order[i]];
      while (at < count_ && cues_[at].end <= span.start) Advance(at++);
      Forward(span, at, ahead[i]);
    }
    for (; at < count_; ++at) {
      const Kind& kind = KindOf(at);
      if (kind.person) {
        Meet(at);
      } else if (kind.BearerBehind()) {
        AddBearer(at, 1);
      } else if (kind.Forward(kNeg, kClause)) {
        AnswersLabel(at);
      }
    }
    Backward(spans, order, size, behind);
    for (size_t i = 0; i < size; ++i) {
      Combine(spans[order[i]], ahead[i], behind[i]);
      set(order[i], ahead[i]);
    }
  }

 private:
  const Kind& KindOf(int64_t at) const { return request_.kinds[cues_[at].kind]; }
  Scope ScopeOf(int64_t at, int32_t reach) const { return {cues_[at].start, cues_[at].end, reach, at}; }
  void AddBearer(int64_t at, int32_t experiencer) { bearers_.push_back({experiencer, PlaceOf(cues_[at]), 0}); }

  void Advance(int64_t at) {
    const Kind& kind = KindOf(at);
    if (kind.stop) {
      StopAt(kind.stop);
      return;
    }
    if (kind.person) {
      Meet(at);
      return;
    }
    if (kind.BearerBehind()) AddBearer(at, 1);
    for (int32_t i = 0; i < kind.forward_count; ++i) {
      const int32_t dimension = kind.forward[i].dimension, reach = kind.forward[i].reach;
      if (dimension == kRec) {
        open_[2 * kHist] = open_[2 * kHist + 1] = Scope{};
        recent_ = true;
      } else if (dimension == kFam || dimension == kOth) {
        person_ = {dimension == kFam ? 1 : 2, PlaceOf(cues_[at]), 0};
      } else if ((dimension == kNeg && AnswersLabel(at)) || (dimension == kPos && Denied(cues_[at]))) {
        continue;
      } else {
        open_[2 * dimension + (reach != kClause)] = ScopeOf(at, reach);
        if (dimension == kHist) {
          recent_ = false;
        } else if ((dimension == kNeg || dimension == kPos) && reach == kClause) {
          const int32_t other = 2 * (dimension == kNeg ? kPos : kNeg);
          open_[other] = open_[other + 1] = Scope{};
        }
      }
    }
  }

  void StopAt(int32_t stop) {
    const int slots = stop == kStopNeg ? 4 : stop == kStopPhrase ? 6 : 8;
    for (int slot = 0; slot < slots; ++slot) open_[slot] = Scope{};
    if (stop < kHe) return;
    if (!person_.experiencer || person_.gender != stop) {
      person_ = Bearer{};
      patient_ = stop == kThey;
    }
  }

  void Meet(int64_t at) {
    const size_t number = request_.person_count++;
    if (!request_.meetings) {
      if (number < request_.person_room) {
        request_.persons[3 * number] = cues_[at].start;
        request_.persons[3 * number + 1] = cues_[at].end;
        request_.persons[3 * number + 2] = static_cast<uint32_t>(end_);
      }
      return;
    }
    const Kind& kind = KindOf(at);
    switch (request_.meetings[number]) {
      case kNobody:
        person_ = Bearer{};
        break;
      case kBearerAhead:
        person_ = {kind.person, PlaceOf(cues_[at]), kind.gender};
        break;
      case kBearerBehind:
        AddBearer(at, kind.person);
        break;
      default:
        break;
    }
  }

  bool AnswersLabel(int64_t at) {
    const Cue& cue = cues_[at];
    answers_[static_cast<size_t>(at)] = cue.end - cue.start <= 8 && (StandsAlone(cue) || IsNone(cue)) && AfterLabel(cue);
    return answers_[static_cast<size_t>(at)];
  }

  bool StandsAlone(const Cue& cue) {
    int64_t at = cue.end;
    if (at > end_) return false;
    while (at < end_ && request_.Is(at, kSpace)) ++at;
    if (at == end_) return true;
    const uint32_t c = text_[at];
    return c == '.' || c == ';' || c == ',' || c == ')' || c == ']';
  }

  bool IsNone(const Cue& cue) const {
    for (const char* word : {"none", "nil"}) {
      uint32_t at = cue.start;
      while (at < cue.end && *word != '\0' && AsciiLower(text_[at]) == static_cast<uint32_t>(*word)) ++at, ++word;
      if (at == cue.end && *word == '\0') return true;
    }
    return false;
  }

  bool AfterLabel(const Cue& cue) {
    if (text_[cue.start] == '(') return true;
    const int64_t low = std::max<int64_t>(0, static_cast<int64_t>(cue.start) - 4);
    int64_t at = cue.start;
    while (at > low && request_.Is(at - 1, kSpace)) --at;
    if (at == low) return false;
    const uint32_t c = text_[at - 1];
    if (c == ':' || c == '?' || c == '(' || c == '=') return true;
    return (c == '-' || c == 0x2013) && at - 1 > low && request_.Is(at - 2, kSpace);
  }

  bool Denied(const Cue& cue) const {
    const Scope& negation = open_[0];
    if (!negation || cue.start - negation.end > 25) return false;
    for (int64_t at = negation.end; at < cue.start; ++at) {
      if (IsSeparator(text_[at])) return false;
    }
    return true;
  }

  void Forward(const Span& span, int64_t following, Finding& found) {
    for (int slot = 0; slot < 4; ++slot) {
      const Scope& scope = open_[slot];
      if (scope && (!found.polarity || scope.start > found.polarity.start) && Reaches(scope, span.start)) {
        found.polarity = scope;
        found.dimension = slot >> 1;
      }
    }
    if (following < count_ && cues_[following].start < span.start && NegatesOverlapped(following)) {
      found.polarity = {cues_[following].start, span.start, kClause, following};
      found.dimension = kNeg;
    }
    if (found.polarity) used_[static_cast<size_t>(found.polarity.cue)] = true;
    for (int slot = 2 * kHist; slot < 2 * kHist + 4; ++slot) {
      const Scope& scope = open_[slot];
      if (!scope || !Reaches(scope, span.start)) continue;
      (slot < 2 * kHypo ? found.past : found.hypothetical) = true;
      (slot < 2 * kHypo ? found.past_cue : found.hypothetical_cue) = PlaceOf(scope);
    }
    if (following < count_ && cues_[following].start == span.start && cues_[following].end < span.end &&
        KindOf(following).Forward(kHist, -1)) {
      found.past = true;
      found.past_cue = PlaceOf(cues_[following]);
    }
    if (person_.experiencer) {
      found.bearer = person_;
    } else if (!patient_) {
      found.bearer.experiencer = family_ ? 1 : 0;
    }
    if (historical_ && !recent_) found.past = true;
  }

  bool NegatesOverlapped(int64_t at) const {
    const Kind& kind = KindOf(at);
    if (kind.Forward(kNeg, kClause)) return true;
    if (!kind.pseudo || cues_[at].end - cues_[at].start < 2) return false;
    const uint32_t a = AsciiLower(text_[cues_[at].start]), b = AsciiLower(text_[cues_[at].start + 1]);
    return (a == 'n' && b == 'o') || (a == 'w' && b == 'i');
  }

  bool Reaches(const Scope& scope, int64_t start) {
    if (scope.reach == kClause) return true;
    const int64_t gap = start - scope.end;
    if (scope.reach == kAdjacent) return gap <= 1;
    if (gap > kPhraseLimit) return false;
    for (int64_t at = scope.end; at < start; ++at) {
      if (IsSeparator(text_[at])) return false;
      if (text_[at] == 'w' && at + 4 <= start && text_[at + 1] == 'i' && text_[at + 2] == 't' && text_[at + 3] == 'h' &&
          (at == 0 || !request_.Is(at - 1, kWord)) && (at + 4 == start || !request_.Is(at + 4, kWord))) {
        return false;
      }
    }
    return true;
  }

  void Backward(const Span* spans, const uint32_t* order, size_t size, std::vector<Finding>& found) {
    bool any = false;
    for (int64_t i = 0; i < count_ && !any; ++i) any = KindOf(i).backward_count > 0 || answers_[static_cast<size_t>(i)];
    if (!any) return;
    std::vector<uint32_t>& by_end = request_.by_end;
    by_end.resize(size);
    std::iota(by_end.begin(), by_end.end(), 0u);
    std::stable_sort(by_end.begin(), by_end.end(),
                     [&](uint32_t a, uint32_t b) { return spans[order[a]].end > spans[order[b]].end; });
    Scope slots[4];
    int64_t at = count_ - 1;
    for (const uint32_t number : by_end) {
      const int64_t end = spans[order[number]].end;
      for (; at >= 0 && cues_[at].start >= end; --at) Retreat(at, slots);
      Finding& finding = found[number];
      for (const int32_t slot : {kNeg, kPos}) {
        const Scope& scope = slots[slot];
        if (scope && (!finding.polarity || scope.start < finding.polarity.start) && ReachesBack(scope, end)) {
          finding.polarity = scope;
          finding.dimension = slot;
        }
      }
      if (slots[kHist] && ReachesBack(slots[kHist], end)) {
        finding.past = true;
        finding.past_cue = PlaceOf(slots[kHist]);
      }
      if (slots[kHypo] && ReachesBack(slots[kHypo], end)) {
        finding.hypothetical = true;
        finding.hypothetical_cue = PlaceOf(slots[kHypo]);
      }
    }
  }

  void Retreat(int64_t at, Scope* slots) {
    const Kind& kind = KindOf(at);
    if (answers_[static_cast<size_t>(at)]) {
      slots[kNeg] = ScopeOf(at, kAdjacent);
      slots[kPos] = Scope{};
    } else if (kind.backward_count) {
      if (used_[static_cast<size_t>(at)] && kind.forward_count) return;
      for (int32_t i = 0; i < kind.backward_count; ++i) {
        const int32_t dimension = kind.backward[i].dimension;
        if (dimension > kHypo) continue;
        slots[dimension] = ScopeOf(at, kind.backward[i].reach);
        if (dimension == kNeg || dimension == kPos) slots[dimension == kNeg ? kPos : kNeg] = Scope{};
      }
    } else if (kind.stop) {
      slots[kNeg] = slots[kPos] = Scope{};
      if (kind.stop != kStopPhrase && kind.stop != kStopNeg) slots[kHist] = slots[kHypo] = Scope{};
    } else if (kind.Forward(kNeg, -1) || kind.Forward(kPos, -1)) {
      slots[kNeg] = slots[kPos] = Scope{};
    }
  }

  bool ReachesBack(const Scope& scope, int64_t end) {
    if (scope.reach == kClause) return true;
    if (scope.start - end > kBackLimit) return false;
    bool bare = true, light = true, separated = false;
    for (int64_t at = end; at < scope.start; ++at) {
      const uint32_t c = text_[at];
      const bool dash = c == '-' || c == '(';
      bare = bare && (dash || c == ':' || c == '?' || c == ')' || c == '=' || c == 0x2013 || request_.Is(at, kSpace));
      light = light && (dash || c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == ',');
      separated = separated || IsSeparator(c);
    }
    return scope.reach == kAdjacent ? bare : light || !separated;
  }

  // Leaves in `front` what holds of both directions.
  void Combine(const Span& span, Finding& front, const Finding& back) const {
    if (back.polarity && (!front.polarity || back.polarity.start - span.end < span.start - front.polarity.end)) {
      front.polarity = back.polarity;
      front.dimension = back.dimension;
    }
    if (!front.hypothetical && back.hypothetical) {
      front.hypothetical = true;
      front.hypothetical_cue = back.hypothetical_cue;
    }
    if (back.past) {
      front.past = true;
      front.past_cue = back.past_cue;
    }
    if (bearers_.empty() || (front.bearer.place.start >= span.start)) return;
    const auto next = std::lower_bound(bearers_.begin(), bearers_.end(), span.end,
                                       [](const Bearer& bearer, int64_t end) { return bearer.place.start < end; });
    if (next != bearers_.end() && next->place.start - span.end <= kPhraseLimit) front.bearer = *next;
  }

  Request& request_;
  const uint32_t* const text_;
  const int64_t end_;
  const Cue* const cues_;
  const int64_t count_;
  const bool historical_;
  const bool family_;
  Scope open_[8];  // slot 2 * dimension + (reach is a noun phrase)
  Bearer person_;
  std::vector<Bearer> bearers_;  // of "… in his mother", by start
  bool recent_ = false;          // a cue of the present cancels the section's default
  bool patient_ = false;         // a clause about the patient does so for the experiencer
  std::vector<uint8_t>& answers_;  // of each cue: it answers the label before it ("Fever: no")
  std::vector<uint8_t>& used_;    // of each cue: it has found a span ahead
};

struct Unit {
  int64_t start;
  int64_t end;
  size_t section;
};

// The sentences, cut where a section begins within them.
std::vector<Unit> CutSentences(const std::vector<uint32_t>& pairs, size_t count, const uint32_t* sections,
                               size_t section_count) {
  std::vector<Unit> units;
  units.reserve(count + section_count);
  size_t number = 0;
  for (size_t i = 0; i < count; ++i) {
    int64_t start = pairs[2 * i];
    const int64_t end = pairs[2 * i + 1];
    while (number + 1 < section_count && sections[number + 1] <= start) ++number;
    while (number + 1 < section_count && sections[number + 1] < end) {
      ++number;
      if (sections[number] > start) units.push_back({start, sections[number], number - 1});
      start = sections[number];
    }
    units.push_back({start, end, number});
  }
  return units;
}

// By start, without those that begin inside an earlier one.
std::vector<Cue> MergeCues(const Cue* cues, size_t count) {
  std::vector<Cue> merged(cues, cues + count);
  const auto earlier = [](const Cue& a, const Cue& b) { return a.start < b.start; };
  if (!std::is_sorted(merged.begin(), merged.end(), earlier)) std::stable_sort(merged.begin(), merged.end(), earlier);
  size_t kept = 0;
  uint32_t reached = 0;
  for (const Cue& cue : merged) {
    if (cue.start < reached) continue;
    reached = cue.end;
    merged[kept++] = cue;
  }
  merged.resize(kept);
  return merged;
}

}  // namespace
}  // namespace medvllm

extern "C" {

// The assertion of each span. `defaults[i]` is 1 where the section i is of the past, plus 2 where it is about the
// family; `cues` are triples (start, end, kind) in any order, and the first to start counts where two overlap. Of span i, codes[i] = polarity + 3 * time + 9 * experiencer,
// and six numbers of `places` are where their cues stand, -1 for none.
//
// Returns the number of persons met; where `meetings` is null, the first `person_room` of them are in `persons`, and where
// there are any, a second call with their meetings is needed. -1: memory ran out; -2: a character that `chars` does not
// describe; -3: a span that is empty or not in the text.
int64_t mv_assess(const void* lexicon, const uint8_t* chars, const uint32_t* text, size_t length,
                  const uint32_t* sections, const uint8_t* defaults, size_t section_count, const void* kinds,
                  const uint32_t* cues, size_t cue_count, const int64_t* spans, size_t span_count,
                  const uint8_t* meetings, uint32_t* persons, size_t person_room, uint8_t* codes, int32_t* places) try {
  using namespace medvllm;
  const Span* const all = reinterpret_cast<const Span*>(spans);
  for (size_t i = 0; i < span_count; ++i) {
    if (all[i].start < 0 || all[i].start >= all[i].end || all[i].end > static_cast<int64_t>(length)) return kBadSpan;
  }
  std::vector<uint32_t> pairs(length / 8 + 32);
  int64_t count = 0;
  for (;;) {
    count = mv_sentences(lexicon, chars, text, length, pairs.data(), pairs.size() / 2);
    if (count < 0) return count;
    if (2 * static_cast<size_t>(count) <= pairs.size()) break;
    pairs.resize(2 * static_cast<size_t>(count));
  }
  std::vector<uint32_t> order(span_count);
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return all[a].start != all[b].start ? all[a].start < all[b].start : all[a].end < all[b].end;
  });
  std::fill(codes, codes + span_count, uint8_t{0});
  std::fill(places, places + 6 * span_count, -1);
  const auto set = [&](uint32_t number, const Finding& found) {
    const int32_t polarity = found.polarity ? 1 + found.dimension : 0;
    const int32_t time = found.hypothetical ? 2 : found.past ? 1 : 0;
    codes[number] = static_cast<uint8_t>(polarity + 3 * time + 9 * found.bearer.experiencer);
    const Place of_polarity = found.polarity ? PlaceOf(found.polarity) : Place{};
    const Place of_time = found.hypothetical ? found.hypothetical_cue : found.past_cue;
    int32_t at = 0;
    for (const Place& place : {of_polarity, of_time, found.bearer.place}) {
      places[6 * number + static_cast<size_t>(at++)] = place.start;
      places[6 * number + static_cast<size_t>(at++)] = place.end;
    }
  };
  const std::vector<Cue> merged = MergeCues(reinterpret_cast<const Cue*>(cues), cue_count);
  const Cue* const cue = merged.data();
  cue_count = merged.size();
  Request request{chars, text, static_cast<const Kind*>(kinds), meetings, persons, person_room};
  size_t at = 0, cue_at = 0;
  for (const Unit& unit : CutSentences(pairs, static_cast<size_t>(count), sections, section_count)) {
    if (at == span_count) break;
    if (all[order[at]].start >= unit.end) continue;
    const size_t group = at;
    while (at < span_count && all[order[at]].start < unit.end) ++at;
    while (cue_at < cue_count && cue[cue_at].start < unit.start) ++cue_at;
    size_t cue_end = cue_at;
    while (cue_end < cue_count && cue[cue_end].start < unit.end) ++cue_end;
    const uint8_t section = defaults[unit.section];
    if (cue_end > cue_at || section) {
      Sentence(request, unit.end, cue + cue_at, cue_end - cue_at, section & 1, section & 2)
          .Assess(all, order.data() + group, at - group, set);
    }
    cue_at = cue_end;
  }
  return request.unknown ? kUnknownChar : static_cast<int64_t>(request.person_count);
} catch (const std::bad_alloc&) {
  return medvllm::kOutOfMemory;
}

}  // extern "C"
