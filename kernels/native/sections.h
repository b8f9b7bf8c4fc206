// Sentences and sections of clinical notes: see medvllm_kernels/sections.py.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

// `lines` is the zero-terminated ASCII text "FLAGS NAME WORD\n" …; the names are numbers from 1 on. Null without memory.
void* mv_lexicon_new(const char* lines);

void mv_lexicon_free(void* lexicon);

// Writes up to `room` pairs (start, end) and returns how many there are in all; -1 where memory ran out; -2 where the
// text has a character that `chars` (one byte of flags for each code point) does not describe.
int64_t mv_sentences(const void* lexicon, const uint8_t* chars, const uint32_t* text, size_t length, uint32_t* pairs,
                     size_t room);

// As mv_sentences, with triples (start, end, number of the name or 0).
int64_t mv_sections(const void* lexicon, const uint8_t* chars, const uint32_t* text, size_t length, uint32_t* triples,
                    size_t room);

}  // extern "C"
