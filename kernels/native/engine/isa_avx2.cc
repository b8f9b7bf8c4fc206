// The kernels for AVX2, FMA and F16C (x86-64-v3).
#if defined(__x86_64__)
#include <immintrin.h>

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "engine.h"
#include "scalar.h"

// Below every header: nothing that another file may share is compiled for this instruction set.
#pragma GCC target("avx2,fma,f16c")

namespace medvllm_engine {
namespace avx2 {
namespace {

#include "simd_avx2.h"

#include "elementwise_kernel.h"
#include "integer_kernel.h"
#include "linear_kernel.h"

#include "attention_kernel.h"
#include "isa_table.h"

}  // namespace
}  // namespace avx2

const Kernels& avx2_kernels() { return avx2::table("avx2"); }

}  // namespace medvllm_engine
#endif
