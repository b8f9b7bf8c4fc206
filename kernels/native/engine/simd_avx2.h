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
inline void row_int8(const uint8_t* p, vf* w) {
  for (int j = 0; j < 4; ++j) {
    w[j] = to_floats(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8 * j))));
  }
}
inline void row_int4(const uint8_t* p, vf* w) {
  for (int j = 0; j < 2; ++j) {
    const vi v = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8 * j)));
    w[j] = to_floats(_mm256_and_si256(v, _mm256_set1_epi32(15)));
    w[j + 2] = to_floats(_mm256_srli_epi32(v, 4));
  }
}
