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
inline void row_int8(const uint8_t* p, vf* w) {
  const int8_t* q = reinterpret_cast<const int8_t*>(p);
  for (int j = 0; j < 8; ++j) w[j] = to_floats(vi{q[4 * j], q[4 * j + 1], q[4 * j + 2], q[4 * j + 3]});
}
inline void row_int4(const uint8_t* p, vf* w) {
  for (int j = 0; j < 4; ++j) {
    const vi v = {p[4 * j], p[4 * j + 1], p[4 * j + 2], p[4 * j + 3]};
    w[j] = to_floats(v & 15);
    w[j + 4] = to_floats(v >> 4);
  }
}
