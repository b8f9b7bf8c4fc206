// Weights into panels and back. Portable: it runs once per model.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "engine.h"
#include "pool.h"
#include "scalar.h"

namespace medvllm_engine {
namespace {

// A group of weights of one output in four bits.
struct Int4Group {
  uint16_t scale = 0, minimum = 0;  // half precision
  float q[256];  // whole, 0 to 15
  float error = INFINITY;
};

// To the nearest whole number, ties to even, for |x| < 2^22; the compiler makes vectors of it.
inline float nearest(float x) { return (x + 12582912.0f) - 12582912.0f; }

// Nearest nibbles for a scale and a minimum, and their squared error.
void quantise_int4(const float* w, int64_t count, float scale, float minimum, Int4Group& group) {
  group.scale = round_half(scale);
  group.minimum = round_half(minimum);
  const float d = half(group.scale), m = half(group.minimum), inverse = d > 0.0f ? 1.0f / d : 0.0f;
  float error[4] = {};
  for (int64_t i = 0; i < count; ++i) {
    float q = (w[i] - m) * inverse;
    q = q > 0.0f ? q : 0.0f;  // also where it is not a number
    q = nearest(q > 15.0f ? 15.0f : q);
    group.q[i] = q;
    const float difference = d * q + m - w[i];
    error[i % 4] += difference * difference;
  }
  group.error = (error[0] + error[1]) + (error[2] + error[3]);
}

// The best of the full range and four narrower ones, each also with scale and minimum refitted by least squares.
Int4Group best_int4(const float* w, int64_t count) {
  float low = w[0], high = w[0];
  for (int64_t i = 1; i < count; ++i) {
    low = w[i] < low ? w[i] : low;
    high = w[i] > high ? w[i] : high;
  }
  Int4Group best, trial;
  for (int step = 0; step < 5; ++step) {
    const float cut = 0.04f * static_cast<float>(step) * (high - low);
    quantise_int4(w, count, (high - low - 2.0f * cut) / 15.0f, low + cut, trial);
    if (trial.error < best.error) best = trial;
    // At most half a unit in the last place of the half-precision scale and minimum: as good as it gets.
    if (best.error <= 1e-7f * static_cast<float>(count) * (high - low) * (high - low)) break;
    float sq = 0.0f, sqq = 0.0f, sw = 0.0f, sqw = 0.0f;
    for (int64_t i = 0; i < count; ++i) {
      const float centred = w[i] - low;
      sq += trial.q[i];
      sqq += trial.q[i] * trial.q[i];
      sw += centred;
      sqw += trial.q[i] * centred;
    }
    const float n = static_cast<float>(count), determinant = n * sqq - sq * sq;
    if (determinant <= 0.0f) continue;
    const float d = (n * sqw - sq * sw) / determinant;
    quantise_int4(w, count, d, low + (sw - d * sq) / n, trial);
    if (trial.error < best.error) best = trial;
  }
  return best;
}

// Value i of a group for output `lane`, in the blocks behind the group's header.
int64_t int8_place(int64_t lane, int64_t i) { return 128 * (i / 4) + 4 * lane + i % 4; }
int64_t int4_place(int64_t lane, int64_t i) { return 128 * (i / 8) + 4 * lane + i % 4; }
bool int4_high(int64_t i) { return i % 8 >= 4; }
void put_int4(uint8_t* blocks, int64_t lane, int64_t i, uint8_t q) {
  blocks[int4_place(lane, i)] |= static_cast<uint8_t>(int4_high(i) ? q << 4 : q);
}
void put_bf16(uint8_t* row, int64_t lane, uint16_t value) {
  std::memcpy(row + 4 * (lane % 16) + (lane < 16 ? 0 : 2), &value, sizeof value);
}
void put_half(uint8_t* header, int64_t lane, uint16_t scale, uint16_t minimum) {
  std::memcpy(header + 2 * lane, &scale, sizeof scale);
  std::memcpy(header + 64 + 2 * lane, &minimum, sizeof minimum);
}

// One output's group of weights.
void pack_group(const Linear& w, uint8_t* group, int64_t lane, const float* values, int64_t count) {
  uint8_t* rows = group + header_bytes(w.format);
  const int64_t step = row_bytes(w.format);
  if (w.format == kF32) {
    for (int64_t i = 0; i < count; ++i) std::memcpy(rows + i * step + 4 * lane, values + i, sizeof(float));
  } else if (w.format == kBF16) {
    for (int64_t i = 0; i < count; ++i) put_bf16(rows + i * step, lane, round_bf16(values[i]));
  } else if (w.format == kInt8) {
    float top = 0.0f;
    for (int64_t i = 0; i < count; ++i) top = std::fabs(values[i]) > top ? std::fabs(values[i]) : top;
    const float scale = top / 127.0f;
    std::memcpy(group + 4 * lane, &scale, sizeof scale);
    for (int64_t i = 0; i < count; ++i) {
      const float q = scale > 0.0f ? nearest(values[i] / scale) : 0.0f;  // at most 127
      rows[int8_place(lane, i)] = static_cast<uint8_t>(static_cast<int8_t>(q >= -127.0f ? q : -127.0f));
    }
  } else {
    const Int4Group best = best_int4(values, count);
    put_half(group, lane, best.scale, best.minimum);
    for (int64_t i = 0; i < count; ++i) put_int4(rows, lane, i, static_cast<uint8_t>(best.q[i]));
  }
}

// One output's group from a block of 32 weights as GGUF files hold it.
void pack_block(uint8_t* group, int64_t lane, const uint8_t* block, int64_t type) {
  uint16_t scale;
  std::memcpy(&scale, block, sizeof scale);
  if (type == 8) {  // Q8_0: scale, 32 signed bytes
    const float d = half(scale);
    std::memcpy(group + 4 * lane, &d, sizeof d);
    for (int64_t i = 0; i < 32; ++i) group[128 + int8_place(lane, i)] = block[2 + i];
    return;
  }
  uint16_t minimum;  // Q4_1 has one; Q4_0 means scale * (nibble - 8), and 8 times a half is exact
  if (type == 3) {
    std::memcpy(&minimum, block + 2, sizeof minimum);
  } else {
    minimum = round_half(-8.0f * half(scale));
  }
  put_half(group, lane, scale, minimum);
  const uint8_t* nibbles = block + (type == 3 ? 4 : 2);
  for (int64_t i = 0; i < 16; ++i) {  // the low nibbles are weights 0 to 15, the high ones 16 to 31
    put_int4(group + 128, lane, i, nibbles[i] & 15);
    put_int4(group + 128, lane, i + 16, nibbles[i] >> 4);
  }
}

}  // namespace

void pack(const Linear& w, const void* weight, Dtype dtype, int threads) {
  parallel(panel_count(w), 1, threads, [&](int64_t panel, int) {
    uint8_t* data = const_cast<uint8_t*>(w.data) + panel * panel_bytes(w);
    std::memset(data, 0, panel_bytes(w));
    std::vector<float> row(w.k);
    for (int64_t lane = 0; lane < kPanel && panel * kPanel + lane < w.n; ++lane) {
      const int64_t at = (panel * kPanel + lane) * w.k;
      for (int64_t i = 0; i < w.k; ++i) {
        row[i] = dtype == kBFloat ? from_bf16(static_cast<const uint16_t*>(weight)[at + i])
                                  : static_cast<const float*>(weight)[at + i];
      }
      for (int64_t k = 0; k < w.k; k += w.group) {
        pack_group(w, data + k / w.group * group_bytes(w), lane, row.data() + k, k + w.group < w.k ? w.group : w.k - k);
      }
    }
  });
}

void pack_ggml(const Linear& w, const uint8_t* blocks, int64_t type, int threads) {
  const int64_t block_bytes = type == 8 ? 34 : type == 3 ? 20 : 18;
  const int64_t groups = w.k / 32;
  parallel(panel_count(w), 1, threads, [&](int64_t panel, int) {
    uint8_t* data = const_cast<uint8_t*>(w.data) + panel * panel_bytes(w);
    std::memset(data, 0, panel_bytes(w));
    for (int64_t lane = 0; lane < kPanel && panel * kPanel + lane < w.n; ++lane) {
      const uint8_t* row = blocks + (panel * kPanel + lane) * groups * block_bytes;
      for (int64_t g = 0; g < groups; ++g) pack_block(data + g * group_bytes(w), lane, row + g * block_bytes, type);
    }
  });
}

void gather_rows(const Linear& w, const int64_t* rows, int64_t count, float* y, int64_t ldy) {
  const int64_t step = row_bytes(w.format);
  for (int64_t r = 0; r < count; ++r, y += ldy) {
    const int64_t lane = rows[r] % kPanel;
    const uint8_t* panel = w.data + rows[r] / kPanel * panel_bytes(w);
    for (int64_t k = 0; k < w.k; ++k) {
      const uint8_t* group = panel + k / w.group * group_bytes(w);
      const uint8_t* blocks = group + header_bytes(w.format);
      const uint8_t* row = blocks + k % w.group * step;
      const int64_t i = k % w.group;
      if (w.format == kF32) {
        std::memcpy(y + k, row + 4 * lane, sizeof(float));
      } else if (w.format == kBF16) {
        uint16_t value;
        std::memcpy(&value, row + 4 * (lane % 16) + (lane < 16 ? 0 : 2), sizeof value);
        y[k] = from_bf16(value);
      } else if (w.format == kInt8) {
        float scale;
        std::memcpy(&scale, group + 4 * lane, sizeof scale);
        y[k] = static_cast<float>(static_cast<int8_t>(blocks[int8_place(lane, i)])) * scale;
      } else {
        uint16_t scale, minimum;
        std::memcpy(&scale, group + 2 * lane, sizeof scale);
        std::memcpy(&minimum, group + 64 + 2 * lane, sizeof minimum);
        const uint8_t pair = blocks[int4_place(lane, i)];
        const int q = int4_high(i) ? pair >> 4 : pair & 15;
        y[k] = std::fma(static_cast<float>(q), half(scale), half(minimum));  // rounded once
      }
    }
  }
}

}  // namespace medvllm_engine
