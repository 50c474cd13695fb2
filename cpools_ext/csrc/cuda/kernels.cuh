// Kernels of corner pooling. Every kernel reads and writes each element once, coalesced, without
// atomics, and gives the same bits every time.
//
//   columns: neighbouring threads take neighbouring columns of [outer, length, inner] and scan them.
//   lines:   inner is 1. Forward, the lanes of a warp share a line and scan it with shuffles; a
//            maximum does not mind the order. Gradients are added in scan order, so backward a warp
//            takes 32 lines, one a lane, through shared memory.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace cpools::cuda {

constexpr int kWarp = 32;
constexpr int kThreads = 128;  // of a block of the forward kernels
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

// The greater of two; NaN where either is.
template <typename Value>
__device__ inline Value greater(Value a, Value b) {
  return a > b || a != a ? a : b;
}

template <typename Value>
__device__ inline Value lowest() {
  return -static_cast<Value>(INFINITY);
}

// Rows that a thread loads before it uses the first, to keep the memory busy: 64 bytes of them.
template <typename T>
constexpr int kRows = sizeof(T) == 2 ? 32 : 16;

struct Column {
  int64_t element, byte;  // offsets of its first element and of its first byte of the record
};

__device__ inline Column column_of(int64_t line, int64_t length, int64_t inner) {
  const int64_t plane = line / inner, column = line - plane * inner;
  return {plane * length * inner + column, plane * ((length + 7) / 8) * inner + column};
}

// `addend` may be null, or `output` itself: what is added to the maxima.
template <typename T, bool kReverse>
__global__ void __launch_bounds__(kThreads, 5) forward_columns(
    const T* input, T* output, uint8_t* record, const T* addend, int64_t lines, int64_t length,
    int64_t inner) {
  using Value = ValueOf<T>;
  const int64_t line = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (line >= lines) return;
  const Column column = column_of(line, length, inner);
  const int64_t batches = (length + kRows<T> - 1) / kRows<T>;
  Value running = lowest<Value>();
  for (int64_t step = 0; step < batches; ++step) {
    const int64_t row = (kReverse ? batches - 1 - step : step) * kRows<T>;
    const int rows = length - row < kRows<T> ? static_cast<int>(length - row) : kRows<T>;
    const int64_t offset = column.element + row * inner;
    T batch[kRows<T>];
#pragma unroll
    for (int k = 0; k < kRows<T>; ++k) {
      if (k < rows) batch[k] = input[offset + k * inner];
    }
    uint32_t bits = step > 0 ? 0 : 1u << (kReverse ? rows - 1 : 0);  // the first always starts one
#pragma unroll
    for (int k = 0; k < kRows<T>; ++k) {
      const int at = kReverse ? kRows<T> - 1 - k : k;
      if (at < rows) {
        const Value x = widen(batch[at]);
        const bool starts = x > running || x != x;
        running = starts ? x : running;
        bits |= static_cast<uint32_t>(starts) << at;
        const int64_t place = offset + at * inner;
        const Value sum = addend == nullptr ? running : running + widen(addend[place]);
        output[place] = Narrow<T>::from(sum);
      }
    }
#pragma unroll
    for (int k = 0; k < kRows<T>; k += 8) {
      if (k < rows) record[column.byte + (row + k) / 8 * inner] = static_cast<uint8_t>(bits >> k);
    }
  }
}

// Blocks of one warp. `scratch`: length * 32 values a block, or null for shared memory of that size.
template <typename T, bool kReverse>
__global__ void backward_columns(
    const T* grad, T* grad_input, const uint8_t* record, ValueOf<T>* scratch, int64_t lines,
    int64_t length, int64_t inner) {
  using Value = ValueOf<T>;
  extern __shared__ double shared[];
  Value* sums = reinterpret_cast<Value*>(shared);  // of a maximum, at the row where it started
  if (scratch != nullptr) sums = scratch + blockIdx.x * length * kWarp;
  sums += threadIdx.x;
  const int64_t line = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x;
  if (line >= lines) return;
  const Column column = column_of(line, length, inner);
  const int64_t batches = (length + kRows<T> - 1) / kRows<T>;
  Value sum = 0;
  int64_t start = kReverse ? length - 1 : 0;
  for (int64_t step = 0; step < batches; ++step) {
    const int64_t row = (kReverse ? batches - 1 - step : step) * kRows<T>;
    const int rows = length - row < kRows<T> ? static_cast<int>(length - row) : kRows<T>;
    const int64_t offset = column.element + row * inner;
    T batch[kRows<T>];
    uint32_t bits = 0;
#pragma unroll
    for (int k = 0; k < kRows<T>; k += 8) {
      if (k < rows) bits |= static_cast<uint32_t>(record[column.byte + (row + k) / 8 * inner]) << k;
    }
#pragma unroll
    for (int k = 0; k < kRows<T>; ++k) {
      if (k < rows) batch[k] = grad[offset + k * inner];
    }
#pragma unroll
    for (int k = 0; k < kRows<T>; ++k) {
      const int at = kReverse ? kRows<T> - 1 - k : k;
      if (at < rows) {
        if (bits >> at & 1) {
          sums[start * kWarp] = sum;
          start = row + at;
          sum = 0;
        }
        sum += widen(batch[at]);
      }
    }
  }
  sums[start * kWarp] = sum;
  for (int64_t row = 0; row < length; row += 8) {
    const uint32_t bits = record[column.byte + row / 8 * inner];
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      if (row + k < length) {
        const Value total = bits >> k & 1 ? sums[(row + k) * kWarp] : Value(0);
        grad_input[column.element + (row + k) * inner] = Narrow<T>::from(total);
      }
    }
  }
}

template <typename T, int kVector>
struct alignas(sizeof(T) * kVector) Vector {
  T values[kVector];
};

// `width` lanes, a power of two from 8 / kVector to 32, take a line, kVector neighbours each; kVector
// divides the length.
template <typename T, bool kReverse, int kVector>
__global__ void forward_lines(
    const T* input, T* output, uint8_t* record, int64_t lines, int64_t length, int width) {
  using Value = ValueOf<T>;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int lane = threadIdx.x % width;
  const bool has_line = thread / width < lines;
  const int64_t line = has_line ? thread / width : lines - 1;  // every lane takes part in shuffles
  const int64_t chunk = static_cast<int64_t>(width) * kVector;
  const int64_t chunks = (length + chunk - 1) / chunk;
  Value carry = lowest<Value>();
  for (int64_t step = 0; step < chunks; ++step) {
    const int64_t at = (kReverse ? chunks - 1 - step : step) * chunk + lane * kVector;
    const bool active = has_line && at < length;
    Value x[kVector];
    if (active) {
      const auto loaded = *reinterpret_cast<const Vector<T, kVector>*>(input + line * length + at);
#pragma unroll
      for (int k = 0; k < kVector; ++k) x[k] = widen(loaded.values[k]);
    } else {
#pragma unroll
      for (int k = 0; k < kVector; ++k) x[k] = lowest<Value>();
    }
    Value most = x[0];
#pragma unroll
    for (int k = 1; k < kVector; ++k) most = greater(most, x[k]);
    for (int distance = 1; distance < width; distance *= 2) {
      // Where no lane is that far away, a lane gets its own value, which changes nothing.
      const Value other = kReverse ? __shfl_down_sync(kAllLanes, most, distance, width)
                                   : __shfl_up_sync(kAllLanes, most, distance, width);
      most = greater(other, most);
    }
    const Value before = kReverse ? __shfl_down_sync(kAllLanes, most, 1, width)
                                  : __shfl_up_sync(kAllLanes, most, 1, width);
    Value running = lane == (kReverse ? width - 1 : 0) ? carry : greater(carry, before);
    carry = greater(carry, __shfl_sync(kAllLanes, most, kReverse ? 0 : width - 1, width));

    Vector<T, kVector> out;
    uint32_t bits = 0;
#pragma unroll
    for (int k = 0; k < kVector; ++k) {
      const int i = kReverse ? kVector - 1 - k : k;
      const bool first = at + i == (kReverse ? length - 1 : 0);
      const bool starts = first || x[i] > running || x[i] != x[i];
      running = starts ? x[i] : running;
      bits |= static_cast<uint32_t>(starts && active) << i;
      out.values[i] = Narrow<T>::from(running);
    }
    bits <<= lane * kVector % 8;
#pragma unroll
    for (int distance = 1; distance < 8 / kVector; distance *= 2) {
      bits |= __shfl_xor_sync(kAllLanes, bits, distance, width);
    }
    if (active) {
      *reinterpret_cast<Vector<T, kVector>*>(output + line * length + at) = out;
      if (at % 8 == 0) record[line * ((length + 7) / 8) + at / 8] = static_cast<uint8_t>(bits);
    }
  }
}

// Values between two lines of a warp's tile: odd, so that its lanes meet no two in one bank.
__host__ __device__ constexpr int64_t pitch(int64_t length) { return length | 1; }

// Blocks of one warp. `scratch`: 32 * pitch(length) values a block, or null for shared memory of
// that size.
template <typename T, bool kReverse>
__global__ void backward_lines(
    const T* grad, T* grad_input, const uint8_t* record, ValueOf<T>* scratch, int64_t lines,
    int64_t length) {
  using Value = ValueOf<T>;
  extern __shared__ double shared[];
  Value* tile = reinterpret_cast<Value*>(shared);
  if (scratch != nullptr) tile = scratch + blockIdx.x * pitch(length) * kWarp;
  const int64_t line = static_cast<int64_t>(blockIdx.x) * kWarp;
  const int count = lines - line < kWarp ? static_cast<int>(lines - line) : kWarp;
  const int lane = threadIdx.x;
  for (int64_t at = lane; at < length; at += kWarp) {
#pragma unroll 16
    for (int i = 0; i < kWarp; ++i) {
      if (i < count) tile[i * pitch(length) + at] = widen(grad[(line + i) * length + at]);
    }
  }
  __syncwarp();
  if (lane < count) {
    const int64_t bytes = (length + 7) / 8;
    const uint8_t* own_record = record + (line + lane) * bytes;
    Value* own = tile + lane * pitch(length);
    Value sum = 0;
    int64_t start = kReverse ? length - 1 : 0;
    for (int64_t step = 0; step < bytes; ++step) {
      const int64_t byte = kReverse ? bytes - 1 - step : step;
      const uint32_t bits = own_record[byte];
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const int64_t at = 8 * byte + (kReverse ? 7 - k : k);
        if (at < length) {
          const Value value = own[at];
          if (bits >> at % 8 & 1) {
            own[start] = sum;
            start = at;
            sum = 0;
          } else {
            own[at] = 0;
          }
          sum += value;
        }
      }
    }
    own[start] = sum;
  }
  __syncwarp();
  for (int64_t at = lane; at < length; at += kWarp) {
#pragma unroll 16
    for (int i = 0; i < kWarp; ++i) {
      if (i < count) {
        grad_input[(line + i) * length + at] = Narrow<T>::from(tile[i * pitch(length) + at]);
      }
    }
  }
}

}  // namespace cpools::cuda
