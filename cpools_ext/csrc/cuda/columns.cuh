// Columns: neighbouring threads take neighbouring columns of [outer, length, inner] and scan them.
#pragma once

#include "values.cuh"

namespace cpools::cuda {

// Rows that a thread loads before it uses the first, to keep the memory busy: 64 bytes.
template <typename T>
constexpr int kRows = sizeof(T) == 2 ? 32 : 16;

struct Column {
  int64_t element, byte;  // offsets of its first element and of its first byte of the record
};

__device__ inline Column column_of(int64_t line, int64_t length, int64_t inner) {
  const int64_t plane = line / inner, column = line - plane * inner;
  return {plane * length * inner + column, plane * ((length + 7) / 8) * inner + column};
}

// `addend` is added to the maxima; it may be null, or `output` itself.
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

}  // namespace cpools::cuda
