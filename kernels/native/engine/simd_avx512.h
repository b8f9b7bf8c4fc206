// Vector operations in AVX-512 (F, BW, DQ, VL; VNNI with MEDVLLM_VNNI). Included inside a namespace.

constexpr int kWidth = 16;
constexpr int kDirectRows = 4;  // rows of x multiplied straight from packed weights
constexpr int kTileRows = 12;   // rows of x in a register tile: 12 x 2 sums of the 32 registers
constexpr int kDotRows = 4;     // queries in a register tile

typedef __m512 vf;
typedef __m512i vi;

inline vf set1(float x) { return _mm512_set1_ps(x); }
inline vf zero() { return _mm512_setzero_ps(); }
inline vf load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, vf v) { _mm512_storeu_ps(p, v); }
inline vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
inline vf max(vf a, vf b) { return _mm512_max_ps(a, b); }
inline vf min(vf a, vf b) { return _mm512_min_ps(a, b); }
inline vf below(vf a, vf b, vf yes, vf no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
inline vf floats(vi v) { return _mm512_castsi512_ps(v); }
inline vf to_floats(vi v) { return _mm512_cvtepi32_ps(v); }
inline vi nearest(vf v) { return _mm512_cvtps_epi32(v); }
inline vf power_of_two(vi n) {
  return floats(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}
inline vf copy_sign(vf magnitude, vf sign) {
  const vf mask = set1(-0.0f);
  return _mm512_or_ps(_mm512_andnot_ps(mask, magnitude), _mm512_and_ps(mask, sign));
}
inline __m256 upper(vf v) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1)); }
// The two halves added: from there as AVX2 does.
inline __m256 folded(vf v) { return _mm256_add_ps(_mm512_castps512_ps256(v), upper(v)); }
inline float sum(vf v) {
  const __m256 y = folded(v);
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
inline float largest(vf v) {
  const __m256 y = _mm256_max_ps(_mm512_castps512_ps256(v), upper(v));
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
inline void sum4(vf a, vf b, vf c, vf d, float* out) {
  const __m256 e = folded(a), f = folded(b), g = folded(c), h = folded(d);
  const __m256 ef = _mm256_add_ps(_mm256_unpacklo_ps(e, f), _mm256_unpackhi_ps(e, f));
  const __m256 gh = _mm256_add_ps(_mm256_unpacklo_ps(g, h), _mm256_unpackhi_ps(g, h));
  const __m256 all = _mm256_add_ps(_mm256_shuffle_ps(ef, gh, 0x44), _mm256_shuffle_ps(ef, gh, 0xee));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}

inline vf load_bf16(const uint16_t* p) {
  const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return floats(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
}
inline void store_bf16(uint16_t* p, vf v) {
  const vi b = _mm512_castps_si512(v);
  const vi odd = _mm512_and_si512(_mm512_srli_epi32(b, 16), _mm512_set1_epi32(1));
  vi r = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(b, odd), _mm512_set1_epi32(0x7fff)), 16);
  r = _mm512_mask_mov_epi32(r, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(r));
}
inline vf load_half(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

constexpr int kVectors = 32 / kWidth;

inline void row_bf16(const uint8_t* p, vf* w) {
  const vi v = _mm512_loadu_si512(p);
  w[0] = floats(_mm512_slli_epi32(v, 16));
  w[1] = floats(_mm512_and_si512(v, _mm512_set1_epi32(static_cast<int32_t>(0xffff0000))));
}

// Products of bytes: w holds four k values of each output, Four the same four of x in every lane.
constexpr int kIntegerRows = 8;     // rows of x in a register tile, each with
constexpr int kIntegerVectors = 2;  // vectors of outputs

struct Four {
  vi x;
};
inline Four four(const int8_t* p) {
  int32_t bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  return {_mm512_set1_epi32(bytes)};
}
inline void nibbles(const uint8_t* p, vi& low, vi& high) {
  const vi v = _mm512_loadu_si512(p), mask = _mm512_set1_epi8(15);
  low = _mm512_and_si512(v, mask);
  high = _mm512_and_si512(_mm512_srli_epi16(v, 4), mask);
}
#if defined(MEDVLLM_VNNI)
// The instruction multiplies unsigned by signed: w + 128 by x, from -128 times the sum of x on.
inline vi signed_start(int32_t total) { return _mm512_set1_epi32(-128 * total); }
inline vi signed_bytes(const uint8_t* p) {
  return _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(static_cast<char>(0x80)));
}
inline vi signed_dot(vi acc, vi w, Four a) { return _mm512_dpbusd_epi32(acc, w, a.x); }
inline vi nibble_dot(vi acc, vi low, Four a, vi high, Four c) {
  return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(acc, low, a.x), high, c.x);
}
inline vi nibble_sums(vi acc) { return acc; }
#else
inline vi signed_start(int32_t) { return _mm512_setzero_si512(); }
inline vi signed_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
// |w| * (x with the sign of w): pairs of products stay below 2 * 128 * 127 < 2^15.
inline vi signed_dot(vi acc, vi w, Four a) {
  const vi turned = _mm512_mask_sub_epi8(a.x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), a.x);
  const vi pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(w), turned);
  return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
// In 16 bits: a block's eight sums of pairs stay below 8 * 2 * 15 * 127 < 2^15.
inline vi nibble_dot(vi acc, vi low, Four a, vi high, Four c) {
  return _mm512_add_epi16(acc, _mm512_add_epi16(_mm512_maddubs_epi16(low, a.x), _mm512_maddubs_epi16(high, c.x)));
}
inline vi nibble_sums(vi acc) { return _mm512_madd_epi16(acc, _mm512_set1_epi16(1)); }
#endif
// Two vectors of whole numbers in [-128, 127] as 32 bytes.
inline void store_bytes(int8_t* p, const vi* q) {
  for (int j = 0; j < 2; ++j) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 16 * j), _mm512_cvtepi32_epi8(q[j]));
  }
}
