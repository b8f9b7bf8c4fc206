// The kernels for AVX-512 (x86-64-v4).
#if defined(__x86_64__)
#include <immintrin.h>

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "engine.h"
#include "scalar.h"

// Below every header: nothing that another file may share is compiled for this instruction set.
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")

namespace medvllm_engine {
namespace avx512 {
namespace {

#include "simd_avx512.h"

#include "elementwise_kernel.h"
#include "integer_kernel.h"
#include "linear_kernel.h"

#include "attention_kernel.h"
#include "isa_table.h"

}  // namespace
}  // namespace avx512

const Kernels& avx512_kernels() { return avx512::table("avx512"); }

}  // namespace medvllm_engine
#endif
