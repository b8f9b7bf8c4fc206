// Kinds of features of the linear-chain model, and how phrases are packed, as in medvllm_kernels/crf_kinds.py.
#pragma once

#include <cstdint>

namespace medvllm::crf {

// A token has two codes, `near` for a phrase of the table for detection and `far` for one with a class, 0 for none,
// packed as type << kTypeShift | place << kPlaceShift | tokens: the type is 1 more than the payload's or the class, the
// place one of those below. So `code >> kPlaceShift` leaves out how long the phrase is, and `code >> kTypeShift` is the
// type alone.
inline constexpr uint32_t kTypeShift = 6;
inline constexpr uint32_t kPlaceShift = 3;
inline constexpr uint32_t kBegin = 1;
inline constexpr uint32_t kInside = 2;
inline constexpr uint32_t kEnd = 3;
inline constexpr uint32_t kSingle = 4;
inline constexpr uint32_t kMaxCounted = 4;  // tokens of a phrase, longer ones count as these
inline constexpr uint32_t kPayloadTypeShift = 27;  // where a payload of the table has its type; a class has it at 0
inline constexpr uint32_t kTypeMask = 15;

// A number is never given to another feature, for trained models hold hashes of them. "+ side": 0 is what stands before
// the token, 1 after it.
namespace kinds {

// Of a token alone.
inline constexpr uint64_t kBias = 0;
inline constexpr uint64_t kWord = 1;
inline constexpr uint64_t kShape = 2;
inline constexpr uint64_t kPrefix = 3;  // + length - 2, lengths 2 to 4
inline constexpr uint64_t kSuffix = 6;  // + length - 2, lengths 2 to 5
inline constexpr uint64_t kWordClass = 63;
// Of the token beside it, + side.
inline constexpr uint64_t kBesideWord = 10;
inline constexpr uint64_t kBesideShape = 12;
inline constexpr uint64_t kBesideHead3 = 14;
inline constexpr uint64_t kBesideTail3 = 16;
inline constexpr uint64_t kBesideTail4 = 18;
inline constexpr uint64_t kBesideWordClass = 64;
// Of the second token from it, and of the third and fourth, + side.
inline constexpr uint64_t kSecondWord = 20;
inline constexpr uint64_t kSecondTail3 = 22;
inline constexpr uint64_t kAroundWord = 24;

// Of the token and those it is glued to, without white space between.
inline constexpr uint64_t kGluedShape = 30;
inline constexpr uint64_t kGluedBefore = 31;
inline constexpr uint64_t kGluedAfter = 32;
// Of the run of glued tokens around it.
inline constexpr uint64_t kChunkShape = 48;
inline constexpr uint64_t kChunkLastWord = 49;
inline constexpr uint64_t kChunkFirstWord = 50;
inline constexpr uint64_t kChunkLastTail4 = 51;

// Of the phrases on the token and near it.
inline constexpr uint64_t kNear = 33;
inline constexpr uint64_t kNearPlace = 34;
inline constexpr uint64_t kNearTypeWord = 35;
inline constexpr uint64_t kFar = 36;
inline constexpr uint64_t kFarPlace = 37;
inline constexpr uint64_t kFarTypeTail4 = 38;
inline constexpr uint64_t kNearFar = 39;
inline constexpr uint64_t kNearPlaceAt = 40;  // + 0 to 3 for the tokens at -2, -1, 1, 2
inline constexpr uint64_t kFarPlaceAt = 44;  // the same
inline constexpr uint64_t kNearBeforeHere = 55;
inline constexpr uint64_t kNearHereAfter = 56;

// Of words and endings side by side.
inline constexpr uint64_t kWordsBeforeHere = 52;
inline constexpr uint64_t kWordsHereAfter = 53;
inline constexpr uint64_t kWordsAround = 54;
inline constexpr uint64_t kTailsOfThree = 57;
inline constexpr uint64_t kTailsBeforeHere = 58;
inline constexpr uint64_t kTailsHereAfter = 59;

// Of a short form that the text defines.
inline constexpr uint64_t kShortForm = 60;
inline constexpr uint64_t kShortFormNear = 61;

// Of a token in a block about genetics.
inline constexpr uint64_t kTopicWord = 70;
inline constexpr uint64_t kTopicNear = 71;
inline constexpr uint64_t kTopicFar = 72;
inline constexpr uint64_t kTopicNearFar = 73;
inline constexpr uint64_t kTopicWordBefore = 74;
inline constexpr uint64_t kTopicWordAfter = 75;
inline constexpr uint64_t kTopicTail4 = 76;
inline constexpr uint64_t kTopicShape = 77;

// Keys of PhraseClasses, which are hashes of the same make.
inline constexpr uint64_t kWordKey = 62;
inline constexpr uint64_t kTopicKey = 66;

}  // namespace kinds
}  // namespace medvllm::crf
