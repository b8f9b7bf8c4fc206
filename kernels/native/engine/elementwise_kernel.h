// Norms, activations, rotary embedding and conversions. Included inside a namespace, after simd_*.h.

// e^x for x in [-87.3, 88], as at the nearest end outside: degree 6 after taking out the power of two (Cephes expf).
inline vf exponential(vf x) {
  const vf clamped = min(max(x, set1(-87.3f)), set1(88.0f));
  const vi n = nearest(clamped * set1(1.44269504f));
  const vf whole = to_floats(n);
  vf r = fma(whole, set1(-0.693359375f), clamped);
  r = fma(whole, set1(2.12194440e-4f), r);
  vf p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, r * r, r) + set1(1.0f);
  return p * power_of_two(n);
}

// From (e^2|x| - 1) / (e^2|x| + 1), with a series where that cancels.
inline vf hyperbolic_tangent(vf x) {
  const vf a = max(x, zero() - x);
  const vf e = exponential(min(a, set1(20.0f)) * set1(2.0f));
  const vf large = set1(1.0f) - set1(2.0f) / (e + set1(1.0f));
  const vf s = x * x;
  vf p = fma(s, set1(-5.70498872745e-3f), set1(2.06390887954e-2f));
  p = fma(p, s, set1(-5.37397155531e-2f));
  p = fma(p, s, set1(1.33314422036e-1f));
  p = fma(p, s, set1(-3.33332819422e-1f));
  const vf small = fma(p * s, a, a);
  return copy_sign(below(a, set1(0.625f), small, large), x);
}

// The C library's, one by one: only the exact gelu needs it.
inline vf error_function(vf x) {
  alignas(64) float v[kWidth];
  store(v, x);
  for (int i = 0; i < kWidth; ++i) v[i] = ::erff(v[i]);
  return load(v);
}

inline vf activation(vf x, int64_t kind) {
  switch (kind) {
    case kSilu:  // below -88 the clamped exponential would leave a large x something
      return below(x, set1(-88.0f), zero(), x / (set1(1.0f) + exponential(zero() - x)));
    case kGeluTanh: {
      const vf inner = set1(0.7978845608f) * fma(set1(0.044715f) * x * x, x, x);
      return set1(0.5f) * x * (set1(1.0f) + hyperbolic_tangent(inner));
    }
    case kGelu: return set1(0.5f) * x * (set1(1.0f) + error_function(x * set1(0.70710678118f)));
    default: return max(x, zero());
  }
}

// Element access by type: float or bf16.
struct Floats {
  typedef float type;
  static constexpr bool packed = false;
  static vf get(const float* p) { return load(p); }
  static void put(float* p, vf v) { store(p, v); }
  static float one(const float* p) { return *p; }
  static void set(float* p, float v) { *p = v; }
};
struct BFloats {
  typedef uint16_t type;
  static constexpr bool packed = true;
  static vf get(const uint16_t* p) { return load_bf16(p); }
  static void put(uint16_t* p, vf v) { store_bf16(p, v); }
  static float one(const uint16_t* p) { return from_bf16(*p); }
  static void set(uint16_t* p, float v) { *p = round_bf16(v); }
};

// The last, partial vector of a row: `count` values, 0 behind them.
template <typename T>
inline vf get_some(const typename T::type* p, int64_t count) {
  alignas(64) float v[kWidth] = {};
  for (int64_t i = 0; i < count; ++i) v[i] = T::one(p + i);
  return load(v);
}
template <typename T>
inline void put_some(typename T::type* p, vf x, int64_t count) {
  alignas(64) float v[kWidth];
  store(v, x);
  for (int64_t i = 0; i < count; ++i) T::set(p + i, v[i]);
}

// visit(index, count) for each vector of a row; count < kWidth in the last.
template <typename Visit>
inline void each_vector(int64_t columns, const Visit& visit) {
  int64_t i = 0;
  for (; i + kWidth <= columns; i += kWidth) visit(i, int64_t{kWidth});
  if (i < columns) visit(i, columns - i);
}
template <typename T>
inline vf get(const typename T::type* p, int64_t count) {
  return count == kWidth ? T::get(p) : get_some<T>(p, count);
}
template <typename T>
inline void put(typename T::type* p, vf v, int64_t count) {
  if (count == kWidth) {
    T::put(p, v);
  } else {
    put_some<T>(p, v, count);
  }
}

template <typename T>
void rms_norm_of(const void* x, const void* residual, const float* weight, void* y, void* sum_out, int64_t rows,
                 int64_t columns, int64_t stride, float eps, float offset) {
  typedef typename T::type type;
  for (int64_t row = 0; row < rows; ++row) {
    const type* in = static_cast<const type*>(x) + row * stride;
    const type* add = residual ? static_cast<const type*>(residual) + row * columns : nullptr;
    type* total = sum_out ? static_cast<type*>(sum_out) + row * columns : nullptr;
    type* out = static_cast<type*>(y) + row * stride;
    vf squares = zero();
    each_vector(columns, [&](int64_t i, int64_t count) {
      vf v = get<T>(in + i, count);
      if (add) {
        v = v + get<T>(add + i, count);
        put<T>(total + i, v, count);
        v = get<T>(total + i, count);  // as the dtype holds it
      }
      squares = fma(v, v, squares);
    });
    const vf scale = set1(1.0f / ::sqrtf(sum(squares) / static_cast<float>(columns) + eps));
    const type* from = add ? total : in;
    each_vector(columns, [&](int64_t i, int64_t count) {
      const vf g = weight ? get<Floats>(weight + i, count) + set1(offset) : set1(1.0f);
      put<T>(out + i, get<T>(from + i, count) * scale * g, count);
    });
  }
}

template <typename T>
void layer_norm_of(const void* x, const float* weight, const float* bias, void* y, int64_t rows, int64_t columns,
                   float eps) {
  typedef typename T::type type;
  for (int64_t row = 0; row < rows; ++row) {
    const type* in = static_cast<const type*>(x) + row * columns;
    type* out = static_cast<type*>(y) + row * columns;
    vf total = zero();
    each_vector(columns, [&](int64_t i, int64_t count) { total = total + get<T>(in + i, count); });
    const float mean = sum(total) / static_cast<float>(columns);
    vf squares = zero();
    each_vector(columns, [&](int64_t i, int64_t count) {
      alignas(64) float v[kWidth];
      store(v, get<T>(in + i, count) - set1(mean));
      for (int64_t j = count; j < kWidth; ++j) v[j] = 0.0f;
      squares = fma(load(v), load(v), squares);
    });
    const vf scale = set1(1.0f / ::sqrtf(sum(squares) / static_cast<float>(columns) + eps));
    each_vector(columns, [&](int64_t i, int64_t count) {
      vf v = (get<T>(in + i, count) - set1(mean)) * scale;
      if (weight) v = v * get<Floats>(weight + i, count);
      if (bias) v = v + get<Floats>(bias + i, count);
      put<T>(out + i, v, count);
    });
  }
}

template <typename T>
void act_and_mul_of(const void* x, void* y, int64_t rows, int64_t columns, int64_t kind) {
  typedef typename T::type type;
  for (int64_t row = 0; row < rows; ++row) {
    const type* gate = static_cast<const type*>(x) + row * 2 * columns;
    const type* up = gate + columns;
    type* out = static_cast<type*>(y) + row * columns;
    each_vector(columns, [&](int64_t i, int64_t count) {
      put<T>(out + i, activation(get<T>(gate + i, count), kind) * get<T>(up + i, count), count);
    });
  }
}

template <typename T>
void activate_of(const void* x, void* y, int64_t total, int64_t kind) {
  typedef typename T::type type;
  const type* in = static_cast<const type*>(x);
  type* out = static_cast<type*>(y);
  each_vector(total, [&](int64_t i, int64_t count) { put<T>(out + i, activation(get<T>(in + i, count), kind), count); });
}

// Pairs (i, i + rotary_dim / 2) turned by the angle of the position; cos_sin holds rotary_dim / 2 cosines, then sines.
template <typename T>
void rotary_of(void* x, const int64_t* positions, const float* cos_sin, int64_t tokens, int64_t heads,
               int64_t head_dim, int64_t rotary_dim, int64_t token_stride) {
  typedef typename T::type type;
  const int64_t pairs = rotary_dim / 2;
  for (int64_t token = 0; token < tokens; ++token) {
    const float* cosines = cos_sin + positions[token] * rotary_dim;
    const float* sines = cosines + pairs;
    for (int64_t head = 0; head < heads; ++head) {
      type* low = static_cast<type*>(x) + token * token_stride + head * head_dim;
      type* high = low + pairs;
      each_vector(pairs, [&](int64_t i, int64_t count) {
        const vf a = get<T>(low + i, count), b = get<T>(high + i, count);
        const vf c = get<Floats>(cosines + i, count), s = get<Floats>(sines + i, count);
        put<T>(low + i, a * c - b * s, count);
        put<T>(high + i, b * c + a * s, count);
      });
    }
  }
}

inline void rms_norm(const void* x, const void* residual, const float* weight, void* y, void* sum_out, int64_t rows,
                     int64_t columns, int64_t stride, float eps, float offset, int64_t dtype) {
  (dtype == kBFloat ? rms_norm_of<BFloats> : rms_norm_of<Floats>)(x, residual, weight, y, sum_out, rows, columns,
                                                                  stride, eps, offset);
}
inline void layer_norm(const void* x, const float* weight, const float* bias, void* y, int64_t rows, int64_t columns,
                       float eps, int64_t dtype) {
  (dtype == kBFloat ? layer_norm_of<BFloats> : layer_norm_of<Floats>)(x, weight, bias, y, rows, columns, eps);
}
inline void act_and_mul(const void* x, void* y, int64_t rows, int64_t columns, int64_t kind, int64_t dtype) {
  (dtype == kBFloat ? act_and_mul_of<BFloats> : act_and_mul_of<Floats>)(x, y, rows, columns, kind);
}
inline void activate(const void* x, void* y, int64_t count, int64_t kind, int64_t dtype) {
  (dtype == kBFloat ? activate_of<BFloats> : activate_of<Floats>)(x, y, count, kind);
}
inline void rotary(void* x, const int64_t* positions, const float* cos_sin, int64_t tokens, int64_t heads,
                   int64_t head_dim, int64_t rotary_dim, int64_t token_stride, int64_t dtype) {
  (dtype == kBFloat ? rotary_of<BFloats> : rotary_of<Floats>)(x, positions, cos_sin, tokens, heads, head_dim,
                                                              rotary_dim, token_stride);
}
inline void to_float(const void* x, float* y, int64_t total, int64_t dtype) {
  each_vector(total, [&](int64_t i, int64_t count) {
    put<Floats>(y + i, dtype == kBFloat ? get<BFloats>(static_cast<const uint16_t*>(x) + i, count)
                                        : get<Floats>(static_cast<const float*>(x) + i, count), count);
  });
}
inline void from_float(const float* x, void* y, int64_t total, int64_t dtype) {
  each_vector(total, [&](int64_t i, int64_t count) {
    if (dtype == kBFloat) {
      put<BFloats>(static_cast<uint16_t*>(y) + i, get<Floats>(x + i, count), count);
    } else {
      put<Floats>(static_cast<float*>(y) + i, get<Floats>(x + i, count), count);
    }
  });
}

// The first of the largest values; NaN is never the largest.
inline int64_t argmax(const float* x, int64_t total) {
  vf best = set1(-__builtin_inff());
  int64_t i = 0;
  for (; i + kWidth <= total; i += kWidth) best = max(load(x + i), best);
  float top = largest(best);
  for (; i < total; ++i) top = x[i] > top ? x[i] : top;
  for (int64_t begin = 0; begin < total; begin += kSampleBlock) {
    const int64_t end = total - begin < kSampleBlock ? total : begin + kSampleBlock;
    bool here = false;  // looked at together, which the compiler makes vectors of
    for (i = begin; i < end; ++i) here |= x[i] == top;
    if (!here) continue;
    for (i = begin; x[i] != top;) ++i;
    return i;
  }
  return 0;
}

inline void maxima(const float* x, int64_t total, float* y) {
  for (int64_t begin = 0; begin < total; begin += kSampleBlock) {
    const int64_t count = total - begin < kSampleBlock ? total - begin : kSampleBlock;
    vf best = set1(-__builtin_inff());
    int64_t i = 0;
    for (; i + kWidth <= count; i += kWidth) best = max(load(x + begin + i), best);
    float top = largest(best);
    for (; i < count; ++i) top = x[begin + i] > top ? x[begin + i] : top;
    *y++ = top;
  }
}

inline void weights(const float* x, int64_t total, float top, float scale, float* y, float* sums) {
  for (int64_t begin = 0; begin < total; begin += kSampleBlock) {
    const int64_t count = total - begin < kSampleBlock ? total - begin : kSampleBlock;
    vf all = zero();
    each_vector(count, [&](int64_t i, int64_t some) {
      alignas(64) float v[kWidth] = {};
      const vf logit = get<Floats>(x + begin + i, some);
      const vf e = exponential((logit - set1(top)) * set1(scale));
      // Below the exponential's range, what is not allowed (-inf) included, is nothing; and NaN is no weight.
      store(v, below(set1(-87.0f), (logit - set1(top)) * set1(scale), e, zero()));
      for (int64_t j = some; j < kWidth; ++j) v[j] = 0.0f;
      const vf w = load(v);
      put<Floats>(y + begin + i, w, some);
      all = all + w;
    });
    *sums++ = sum(all);
  }
}
