// The products of AVX-512 with VNNI (vpdpbusd); everything else is AVX-512's.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "engine.h"
#include "scalar.h"

// Below every header: nothing that another file may share is compiled for this instruction set.
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#define MEDVLLM_VNNI

namespace medvllm_engine {
namespace avx512vnni {
namespace {

#include "simd_avx512.h"

#include "elementwise_kernel.h"
#include "integer_kernel.h"
#include "linear_kernel.h"

}  // namespace
}  // namespace avx512vnni

const Kernels& avx512vnni_kernels() {
  static const Kernels kernels = [] {
    Kernels changed = avx512_kernels();
    changed.name = "avx512vnni";
    changed.linear = avx512vnni::linear;
    return changed;
  }();
  return kernels;
}

}  // namespace medvllm_engine
#endif
