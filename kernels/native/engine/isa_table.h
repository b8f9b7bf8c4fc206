// The table of this namespace's kernels. Included last inside a namespace.

inline const Kernels& table(const char* name) {
  static const Kernels kernels = {name,       kWidth,      linear,   quantise, attend,   merge,     rms_norm,
                                  layer_norm, act_and_mul, activate, rotary,   to_float, from_float, argmax,
                                  maxima,     weights};
  return kernels;
}
