// Conversion between stored elements and the values of the kernels' arithmetic.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

namespace cpools::cuda {

constexpr int kWarp = 32;
constexpr int kThreads = 128;  // in a block of the kernels for columns or lines
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

// The same in one word of at most 8 bytes, where they wait to be used: halves that are taken apart
// occupy a register each.
template <int kBytes>
struct WordOf;
template <>
struct WordOf<1> {
  using type = uint8_t;
};
template <>
struct WordOf<2> {
  using type = uint16_t;
};
template <>
struct WordOf<4> {
  using type = uint32_t;
};
template <>
struct WordOf<8> {
  using type = uint64_t;
};
template <typename T, int kVector = 1>
using Word = typename WordOf<sizeof(T) * kVector>::type;

template <typename T, int kVector>
__device__ inline T element(Word<T, kVector> word, int i) {
  const auto bits = static_cast<Word<T>>(word >> 8 * sizeof(T) * i);
  T value;
  memcpy(&value, &bits, sizeof(T));
  return value;
}

template <int kVector, typename T>
__device__ inline Vector<T, kVector> load(const T* from) {
  return *reinterpret_cast<const Vector<T, kVector>*>(from);
}

template <typename T, int kVector>
__device__ inline void store(T* to, const Vector<T, kVector>& vector) {
  *reinterpret_cast<Vector<T, kVector>*>(to) = vector;
}

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
