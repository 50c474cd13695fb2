// Conversion between stored elements and the values of the kernels' arithmetic.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace cpools::cuda {

constexpr int kWarp = 32;
constexpr int kThreads = 128;  // in a block of the forward kernels
constexpr unsigned kAllLanes = 0xffffffff;

// Half types are widened to float, which keeps every value and adds gradients in float.
__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
struct Narrow {
  __device__ static T from(T x) { return x; }
};
template <>
struct Narrow<__half> {
  __device__ static __half from(float x) { return __float2half_rn(x); }
};
template <>
struct Narrow<__nv_bfloat16> {
  __device__ static __nv_bfloat16 from(float x) { return __float2bfloat16_rn(x); }
};

template <typename T>
using ValueOf = decltype(widen(T{}));

// Neighbouring elements that are loaded and stored together.
template <typename T, int kVector>
struct alignas(sizeof(T) * kVector) Vector {
  T values[kVector];
};

// The greater of two; NaN where either is.
template <typename Value>
__device__ inline Value greater(Value a, Value b) {
  return a > b || a != a ? a : b;
}

template <typename Value>
__device__ inline Value lowest() {
  return -static_cast<Value>(INFINITY);
}

}  // namespace cpools::cuda
