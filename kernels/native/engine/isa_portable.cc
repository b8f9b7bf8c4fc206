// The kernels for any processor.
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "engine.h"
#include "scalar.h"

namespace medvllm_engine {
namespace portable {
namespace {

#include "simd_portable.h"

#include "elementwise_kernel.h"
#include "integer_kernel.h"
#include "linear_kernel.h"

#include "attention_kernel.h"
#include "isa_table.h"

}  // namespace
}  // namespace portable

const Kernels& portable_kernels() { return portable::table("portable"); }

}  // namespace medvllm_engine
