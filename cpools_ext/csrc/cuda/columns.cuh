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

// A maximum takes the gradients from where it starts up to where the next one does: walking against
// the scan, they are added up, written where a maximum starts, and the sum begins at 0 again. Each
// thread takes kVector neighbouring columns, which divides `inner`.
template <typename T, bool kReverse, int kVector>
__global__ void __launch_bounds__(kThreads, 5) backward_columns(
    const T* grad, T* grad_input, const uint8_t* record, int64_t lines, int64_t length,
    int64_t inner) {
  using Value = ValueOf<T>;
  constexpr int kLoaded = kRows<T> / kVector;
  const int64_t line =
      (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kVector;
  if (line >= lines) return;
  const Column column = column_of(line, length, inner);
  const int64_t batches = (length + kLoaded - 1) / kLoaded;
  Value sums[kVector] = {};
  for (int64_t step = 0; step < batches; ++step) {
    const int64_t row = (kReverse ? step : batches - 1 - step) * kLoaded;
    const int rows = length - row < kLoaded ? static_cast<int>(length - row) : kLoaded;
    const int64_t offset = column.element + row * inner;
    Vector<T, kVector> batch[kLoaded];
    Vector<uint8_t, kVector> starts[kLoaded / 8];
#pragma unroll
    for (int k = 0; k < kLoaded; ++k) {
      if (k < rows) {
        batch[k] = *reinterpret_cast<const Vector<T, kVector>*>(grad + offset + k * inner);
      }
    }
#pragma unroll
    for (int k = 0; k < kLoaded; k += 8) {
      if (k < rows) {
        starts[k / 8] = *reinterpret_cast<const Vector<uint8_t, kVector>*>(
            record + column.byte + (row + k) / 8 * inner);
      }
    }
#pragma unroll
    for (int k = 0; k < kLoaded; ++k) {
      const int at = kReverse ? k : kLoaded - 1 - k;
      if (at < rows) {
        Vector<T, kVector> out;
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          const bool start = starts[at / 8].values[i] >> at % 8 & 1;
          sums[i] += widen(batch[at].values[i]);
          out.values[i] = Narrow<T>::from(start ? sums[i] : Value(0));
          sums[i] = start ? Value(0) : sums[i];
        }
        *reinterpret_cast<Vector<T, kVector>*>(grad_input + offset + at * inner) = out;
      }
    }
  }
}

}  // namespace cpools::cuda
