"""Kinds of features of the linear-chain model, and how phrases are packed; native/crf_kinds.h has the same names.

A trained model holds hashes of these numbers, so a number is never given to another feature. Where a comment says
"+ side", the next number is the same seen from the other side: 0 is what stands before the token, 1 after it.
"""

from __future__ import annotations

from typing import Final

# A token has two codes, `near` for a phrase of the table for detection and `far` for one with a class, 0 for none,
# packed as type << TYPE_SHIFT | place << PLACE_SHIFT | tokens: the type is 1 more than the payload's or the class, the
# place one of those below. So `code >> PLACE_SHIFT` leaves out how long the phrase is, and `code >> TYPE_SHIFT` is the
# type alone.
TYPE_SHIFT: Final = 6
PLACE_SHIFT: Final = 3
BEGIN: Final = 1
INSIDE: Final = 2
END: Final = 3
SINGLE: Final = 4
MAX_COUNTED: Final = 4  # tokens of a phrase, longer ones count as these
PAYLOAD_TYPE_SHIFT: Final = 27  # where a payload of the table has its type; a class has it at 0
TYPE_MASK: Final = 15

# Of a token alone.
BIAS: Final = 0
WORD: Final = 1
SHAPE: Final = 2
PREFIX: Final = 3  # + length - 2, lengths 2 to 4
SUFFIX: Final = 6  # + length - 2, lengths 2 to 5
WORD_CLASS: Final = 63
# Of the token beside it, + side.
BESIDE_WORD: Final = 10
BESIDE_SHAPE: Final = 12
BESIDE_HEAD3: Final = 14
BESIDE_TAIL3: Final = 16
BESIDE_TAIL4: Final = 18
BESIDE_WORD_CLASS: Final = 64
# Of the second token from it, and of the third and fourth, + side.
SECOND_WORD: Final = 20
SECOND_TAIL3: Final = 22
AROUND_WORD: Final = 24

# Of the token and those it is glued to, without white space between.
GLUED_SHAPE: Final = 30
GLUED_BEFORE: Final = 31
GLUED_AFTER: Final = 32
# Of the run of glued tokens around it.
CHUNK_SHAPE: Final = 48
CHUNK_LAST_WORD: Final = 49
CHUNK_FIRST_WORD: Final = 50
CHUNK_LAST_TAIL4: Final = 51

# Of the phrases on the token and near it.
NEAR: Final = 33
NEAR_PLACE: Final = 34
NEAR_TYPE_WORD: Final = 35
FAR: Final = 36
FAR_PLACE: Final = 37
FAR_TYPE_TAIL4: Final = 38
NEAR_FAR: Final = 39
NEAR_PLACE_AT: Final = 40  # + 0 to 3 for the tokens at -2, -1, 1, 2
FAR_PLACE_AT: Final = 44  # the same
NEAR_BEFORE_HERE: Final = 55
NEAR_HERE_AFTER: Final = 56

# Of words and endings side by side.
WORDS_BEFORE_HERE: Final = 52
WORDS_HERE_AFTER: Final = 53
WORDS_AROUND: Final = 54
TAILS_OF_THREE: Final = 57
TAILS_BEFORE_HERE: Final = 58
TAILS_HERE_AFTER: Final = 59

# Of a short form that the text defines.
SHORT_FORM: Final = 60
SHORT_FORM_NEAR: Final = 61

# Of a token in a block about genetics.
TOPIC_WORD: Final = 70
TOPIC_NEAR: Final = 71
TOPIC_FAR: Final = 72
TOPIC_NEAR_FAR: Final = 73
TOPIC_WORD_BEFORE: Final = 74
TOPIC_WORD_AFTER: Final = 75
TOPIC_TAIL4: Final = 76
TOPIC_SHAPE: Final = 77

# Keys of PhraseClasses, which are hashes of the same make.
WORD_KEY: Final = 62
TOPIC_KEY: Final = 66
