// Vector operations in the compiler's own vectors of 4 floats, for any processor. Included inside a namespace.

constexpr int kWidth = 4;
constexpr int kDirectRows = 1;  // rows of x multiplied straight from packed weights
constexpr int kTileRows = 1;    // rows of x in a register tile
constexpr int kDotRows = 1;     // queries in a register tile

typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));

inline vf set1(float x) { return vf{x, x, x, x}; }
inline vf zero() { return vf{}; }
inline vf load(const float* p) {
  vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, vf v) { __builtin_memcpy(p, &v, sizeof v); }
inline vf fma(vf a, vf b, vf c) { return a * b + c; }
inline vf max(vf a, vf b) { return a > b ? a : b; }
inline vf min(vf a, vf b) { return a < b ? a : b; }
inline vf below(vf a, vf b, vf yes, vf no) { return a < b ? yes : no; }
inline vi bits(vf v) { return (vi)v; }
inline vf floats(vi v) { return (vf)v; }
inline vf to_floats(vi v) { return __builtin_convertvector(v, vf); }
// To the nearest whole number, for |v| < 2^22.
inline vi nearest(vf v) {
  const vf magic = set1(12582912.0f);
  return bits(v + magic) - bits(magic);
}
// 2^n for whole n.
inline vf power_of_two(vi n) { return floats((n + 127) << 23); }
inline vf copy_sign(vf magnitude, vf sign) {
  const vi mask = bits(set1(-0.0f));
  return floats((bits(magnitude) & ~mask) | (bits(sign) & mask));
}
inline float sum(vf v) { return (v[0] + v[1]) + (v[2] + v[3]); }
inline float largest(vf v) {
  const float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
  return a > b ? a : b;
}
// The sums of four vectors.
inline void sum4(vf a, vf b, vf c, vf d, float* out) {
  out[0] = sum(a);
  out[1] = sum(b);
  out[2] = sum(c);
  out[3] = sum(d);
}

inline vf load_bf16(const uint16_t* p) {
  const vi v = {p[0] << 16, p[1] << 16, p[2] << 16, static_cast<int32_t>(uint32_t{p[3]} << 16)};
  return floats(v);
}
inline void store_bf16(uint16_t* p, vf v) {
  for (int i = 0; i < 4; ++i) p[i] = round_bf16(v[i]);
}
inline vf load_half(const uint16_t* p) { return vf{half(p[0]), half(p[1]), half(p[2]), half(p[3])}; }

constexpr int kVectors = 32 / kWidth;

inline void row_bf16(const uint8_t* p, vf* w) {
  for (int j = 0; j < 4; ++j) {
    vi v;
    __builtin_memcpy(&v, p + 16 * j, sizeof v);
    w[j] = floats(v << 16);
    w[j + 4] = floats(v & static_cast<int32_t>(0xffff0000));
  }
}

// Products of bytes: w holds four k values of each output, Four the same four of x.
constexpr int kIntegerRows = 1;     // rows of x in a register tile, each with
constexpr int kIntegerVectors = 8;  // vectors of outputs

struct Four {
  const int8_t* x;
};
inline Four four(const int8_t* p) { return {p}; }
inline vi signed_start(int32_t) { return vi{}; }
inline vi signed_bytes(const uint8_t* p) {
  vi v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
// Byte i of each lane by itself: little-endian, as all machines that this is built for.
inline vi signed_dot(vi acc, vi w, Four a) {
  for (int i = 0; i < 4; ++i) acc += ((w << (24 - 8 * i)) >> 24) * static_cast<int32_t>(a.x[i]);
  return acc;
}
inline void nibbles(const uint8_t* p, vi& low, vi& high) {
  const vi v = signed_bytes(p), mask = {0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f};
  low = v & mask;
  high = (v >> 4) & mask;
}
inline vi nibble_dot(vi acc, vi low, Four a, vi high, Four c) {
  return signed_dot(signed_dot(acc, low, a), high, c);
}
inline vi nibble_sums(vi acc) { return acc; }
// Eight vectors of whole numbers in [-128, 127] as 32 bytes.
inline void store_bytes(int8_t* p, const vi* q) {
  for (int j = 0; j < 8; ++j)
    for (int i = 0; i < 4; ++i) p[4 * j + i] = static_cast<int8_t>(q[j][i]);
}
