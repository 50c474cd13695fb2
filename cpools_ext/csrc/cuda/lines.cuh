// Lines: inner is 1. In the forward pass the lanes of a warp scan a line together, with shuffles;
// the order of the comparisons does not change a maximum. Gradients are added in scan order, so in
// the backward pass a warp takes 32 lines, one a lane, through shared memory.
#pragma once

#include "values.cuh"

namespace cpools::cuda {

template <typename T, int kVector>
struct alignas(sizeof(T) * kVector) Vector {
  T values[kVector];
};

// `1 << shift` lanes, from 8 / kVector to 32, take a line, kVector neighbours each, in `chunks`
// steps; kVector divides the length. Shifts take the place of divisions, which are slow on a GPU.
template <typename T, bool kReverse, int kVector>
__global__ void __launch_bounds__(kThreads) forward_lines(
    const T* input, T* output, uint8_t* record, int64_t lines, int length, int chunks, int shift) {
  using Value = ValueOf<T>;
  const int width = 1 << shift, chunk = kVector << shift, thread = threadIdx.x;
  const int lane = thread & (width - 1);
  int64_t line = static_cast<int64_t>(blockIdx.x) * (kThreads >> shift) + (thread >> shift);
  const bool has_line = line < lines;
  if (!has_line) line = lines - 1;  // every lane takes part in shuffles
  input += line * length;
  output += line * length;
  record += line * ((length + 7) >> 3);
  Value carry = lowest<Value>();
  for (int step = 0; step < chunks; ++step) {
    const int at = (kReverse ? chunks - 1 - step : step) * chunk + lane * kVector;
    const bool active = has_line && at < length;
    Value x[kVector];
    if (active) {
      const auto loaded = *reinterpret_cast<const Vector<T, kVector>*>(input + at);
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
    bits <<= lane * kVector & 7;
#pragma unroll
    for (int distance = 1; distance < 8 / kVector; distance *= 2) {
      bits |= __shfl_xor_sync(kAllLanes, bits, distance, width);
    }
    if (active) {
      *reinterpret_cast<Vector<T, kVector>*>(output + at) = out;
      if ((at & 7) == 0) record[at >> 3] = static_cast<uint8_t>(bits);
    }
  }
}

// Distance in values between two lines of a warp's tile: odd, so that lanes use different banks.
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
