// Scalar conversions, for the portable kernels and for ends of rows.
#pragma once

#include <cstdint>
#include <cstring>

namespace medvllm_engine {

static inline float from_bf16(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float y;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}

// Rounds to the nearest, ties to even; NaN stays NaN.
static inline uint16_t round_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float half(uint16_t x) {
  const uint32_t sign = static_cast<uint32_t>(x & 0x8000) << 16;
  const uint32_t exponent = (x >> 10) & 31;
  uint32_t fraction = x & 0x3ff;
  uint32_t bits;
  float y;
  if (exponent == 31) {
    bits = sign | 0x7f800000 | fraction << 13;
  } else if (exponent != 0) {
    bits = sign | (exponent + 112) << 23 | fraction << 13;
  } else {  // zero and subnormal: fraction * 2^-24
    y = static_cast<float>(fraction) * 5.9604644775390625e-8f;
    return sign ? -y : y;
  }
  std::memcpy(&y, &bits, sizeof y);
  return y;
}

// Rounds to the nearest, ties to even.
static inline uint16_t round_half(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return sign | 0x7e00;
  if (bits >= 0x477ff000) return sign | 0x7c00;  // 65520 and above
  if (bits < 0x38800000) {                       // below 2^-14: a multiple of 2^-24
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof magnitude);
    magnitude += 0.5f;  // leaves the multiple in the low bits, rounded
    std::memcpy(&bits, &magnitude, sizeof bits);
    return sign | static_cast<uint16_t>(bits - 0x3f000000);
  }
  return sign | static_cast<uint16_t>((bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13);
}

}  // namespace medvllm_engine
