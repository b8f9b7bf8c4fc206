// Vector operations in AVX2, FMA and F16C. Included inside a namespace.

constexpr int kWidth = 8;
constexpr int kDirectRows = 2;  // rows of x multiplied straight from packed weights
constexpr int kTileRows = 3;    // rows of x in a register tile: 3 x 4 sums of the 16 registers
constexpr int kDotRows = 3;     // queries in a register tile

typedef __m256 vf;
typedef __m256i vi;

inline vf set1(float x) { return _mm256_set1_ps(x); }
inline vf zero() { return _mm256_setzero_ps(); }
inline vf load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, vf v) { _mm256_storeu_ps(p, v); }
inline vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
inline vf max(vf a, vf b) { return _mm256_max_ps(a, b); }
inline vf min(vf a, vf b) { return _mm256_min_ps(a, b); }
// a < b ? yes : no.
inline vf below(vf a, vf b, vf yes, vf no) { return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
inline vf floats(vi v) { return _mm256_castsi256_ps(v); }
inline vf to_floats(vi v) { return _mm256_cvtepi32_ps(v); }
inline vi nearest(vf v) { return _mm256_cvtps_epi32(v); }
// 2^n for whole n.
inline vf power_of_two(vi n) {
  return floats(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
inline vf copy_sign(vf magnitude, vf sign) {
  const vf mask = set1(-0.0f);
  return _mm256_or_ps(_mm256_andnot_ps(mask, magnitude), _mm256_and_ps(mask, sign));
}
inline float sum(vf v) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
inline float largest(vf v) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
// The sums of four vectors.
inline void sum4(vf a, vf b, vf c, vf d, float* out) {
  const vf ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
  const vf cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
  const vf all = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}

inline vf load_bf16(const uint16_t* p) {
  const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return floats(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
}
inline void store_bf16(uint16_t* p, vf v) {
  const vi b = _mm256_castps_si256(v);
  const vi odd = _mm256_and_si256(_mm256_srli_epi32(b, 16), _mm256_set1_epi32(1));
  vi r = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(b, odd), _mm256_set1_epi32(0x7fff)), 16);
  const vi nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  r = _mm256_blendv_epi8(r, _mm256_set1_epi32(0x7fc0), nan);
  r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(r));
}
inline vf load_half(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

constexpr int kVectors = 32 / kWidth;

inline void row_bf16(const uint8_t* p, vf* w) {
  for (int j = 0; j < 2; ++j) {
    const vi v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32 * j));
    w[j] = floats(_mm256_slli_epi32(v, 16));
    w[j + 2] = floats(_mm256_and_si256(v, _mm256_set1_epi32(static_cast<int32_t>(0xffff0000))));
  }
}

// Products of bytes: w holds four k values of each output, Four the same four of x in every lane.
constexpr int kIntegerRows = 4;     // rows of x in a register tile, each with
constexpr int kIntegerVectors = 2;  // vectors of outputs

struct Four {
  vi x;
};
inline Four four(const int8_t* p) {
  int32_t bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  return {_mm256_set1_epi32(bytes)};
}
inline vi signed_start(int32_t) { return _mm256_setzero_si256(); }
inline vi signed_bytes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
// |w| * (x with the sign of w): pairs of products stay below 2 * 128 * 127 < 2^15.
inline vi signed_dot(vi acc, vi w, Four a) {
  const vi pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a.x, w));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline void nibbles(const uint8_t* p, vi& low, vi& high) {
  const vi v = signed_bytes(p), mask = _mm256_set1_epi8(15);
  low = _mm256_and_si256(v, mask);
  high = _mm256_and_si256(_mm256_srli_epi16(v, 4), mask);
}
// In 16 bits: a block's eight sums of pairs stay below 8 * 2 * 15 * 127 < 2^15.
inline vi nibble_dot(vi acc, vi low, Four a, vi high, Four c) {
  return _mm256_add_epi16(acc, _mm256_add_epi16(_mm256_maddubs_epi16(low, a.x), _mm256_maddubs_epi16(high, c.x)));
}
inline vi nibble_sums(vi acc) { return _mm256_madd_epi16(acc, _mm256_set1_epi16(1)); }
// Four vectors of whole numbers in [-128, 127] as 32 bytes.
inline void store_bytes(int8_t* p, const vi* q) {
  const vi v = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
  const vi order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permutevar8x32_epi32(v, order));
}
