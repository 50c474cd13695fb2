// Columns: neighbouring threads take neighbouring columns of [outer, length, inner] and scan them.
#pragma once

#include "values.cuh"

namespace cpools::cuda {

// Neighbouring columns of a thread, so that it loads 4 bytes; 8 of float64.
template <typename T>
constexpr int kColumns = sizeof(T) == 2 ? 2 : 1;

// Rows that a thread loads before it uses the first, to keep the memory busy: 64 bytes.
template <typename T>
constexpr int kRows = 64 / (sizeof(T) * kColumns<T>);

// The rows [first, first + count), at most kRows; `first` is a multiple of kRows.
struct Rows {
  int first, count;
};

// All columns of all planes; after `move_to`, those of a thread.
template <typename T>
struct Columns {
  const T* input;
  T* output;
  uint8_t* record;
  int64_t count, inner;
  int length;

  __device__ void move_to(int64_t plane, int64_t column) {
    input += plane * length * inner + column;
    output += plane * length * inner + column;
    record += plane * ((length + 7) / 8) * inner + column;
  }

  __device__ int steps() const { return (length + kRows<T> - 1) / kRows<T>; }

  // Rows of a step of the walk, which begins with the last rows where kFromEnd.
  template <bool kFromEnd>
  __device__ Rows rows_of(int step) const {
    const int first = (kFromEnd ? steps() - 1 - step : step) * kRows<T>;
    return {first, length - first < kRows<T> ? length - first : kRows<T>};
  }
};

// Loads `count` rows of kVector neighbours, at most kMost. Addresses move from row to row: those of
// all rows at once would take most of a thread's registers.
template <typename T, int kVector, int kMost>
__device__ inline void load_rows(
    const T* from, int64_t inner, int count, Word<T, kVector> (&rows)[kMost]) {
#pragma unroll
  for (int k = 0; k < kMost; ++k) {
    if (k < count) {
      rows[k] = *reinterpret_cast<const Word<T, kVector>*>(from);
      from += inner;
    }
  }
}

// Scans rows of a thread's columns. With kAdd the maxima are added to the values in the output.
// `opening`: the scan begins with these rows.
template <typename T, bool kReverse, bool kAdd, int kVector>
__device__ inline void forward_rows(
    const Columns<T>& columns, Rows rows, bool opening, ValueOf<T> (&running)[kVector]) {
  using Value = ValueOf<T>;
  const int64_t inner = columns.inner, offset = rows.first * inner;
  Word<T, kVector> batch[kRows<T>], addends[kAdd ? kRows<T> : 1];
  load_rows<T, kVector>(columns.input + offset, inner, rows.count, batch);
  if constexpr (kAdd) load_rows<T, kVector>(columns.output + offset, inner, rows.count, addends);
  T* output = columns.output + offset + (kReverse ? rows.count - 1 : 0) * inner;
  uint32_t bits[kVector];
#pragma unroll
  for (int i = 0; i < kVector; ++i) {  // the first position always starts a maximum
    bits[i] = static_cast<uint32_t>(opening) << (kReverse ? rows.count - 1 : 0);
  }
#pragma unroll
  for (int k = 0; k < kRows<T>; ++k) {
    const int at = kReverse ? kRows<T> - 1 - k : k;
    if (at < rows.count) {
      Vector<T, kVector> out;
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const Value x = widen(element<T, kVector>(batch[at], i));
        const bool starts = x > running[i] || x != x;
        running[i] = starts ? x : running[i];
        bits[i] |= static_cast<uint32_t>(starts) << at;
        const Value addend = kAdd ? widen(element<T, kVector>(addends[kAdd ? at : 0], i)) : Value(0);
        out.values[i] = Narrow<T>::from(kAdd ? running[i] + addend : running[i]);
      }
      store(output, out);
      output += kReverse ? -inner : inner;
    }
  }
  uint8_t* record = columns.record + rows.first / 8 * inner;
#pragma unroll
  for (int k = 0; k < kRows<T>; k += 8) {
    if (k < rows.count) {
      Vector<uint8_t, kVector> bytes;
#pragma unroll
      for (int i = 0; i < kVector; ++i) bytes.values[i] = static_cast<uint8_t>(bits[i] >> k);
      store(record, bytes);
      record += inner;
    }
  }
}

// A maximum takes the gradients from where it starts up to where the next one does: walking against
// the scan, they are added up, written where a maximum starts, and the sum begins at 0 again.
template <typename T, bool kReverse, int kVector>
__device__ inline void backward_rows(
    const Columns<T>& columns, Rows rows, ValueOf<T> (&sums)[kVector]) {
  using Value = ValueOf<T>;
  const int64_t inner = columns.inner, offset = rows.first * inner;
  Word<T, kVector> batch[kRows<T>];
  Word<uint8_t, kVector> starts[kRows<T> / 8];
  load_rows<T, kVector>(columns.input + offset, inner, rows.count, batch);
  load_rows<uint8_t, kVector>(
      columns.record + rows.first / 8 * inner, inner, (rows.count + 7) / 8, starts);
  T* grad_input = columns.output + offset + (kReverse ? 0 : rows.count - 1) * inner;
#pragma unroll
  for (int k = 0; k < kRows<T>; ++k) {
    const int at = kReverse ? k : kRows<T> - 1 - k;
    if (at < rows.count) {
      Vector<T, kVector> out;
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const bool start = starts[at / 8] >> (8 * i + at % 8) & 1;
        sums[i] += widen(element<T, kVector>(batch[at], i));
        out.values[i] = Narrow<T>::from(start ? sums[i] : Value(0));
        sums[i] = start ? Value(0) : sums[i];
      }
      store(grad_input, out);
      grad_input += kReverse ? inner : -inner;
    }
  }
}

// The first of a thread's columns among all.
template <int kVector>
__device__ inline int64_t column_of_thread() {
  return (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kVector;
}

// kVector divides `inner`.
template <typename T, bool kReverse, bool kAdd, int kVector>
__global__ void __launch_bounds__(kThreads, 5) forward_columns(Columns<T> columns) {
  const int64_t number = column_of_thread<kVector>();
  if (number >= columns.count) return;
  columns.move_to(number / columns.inner, number % columns.inner);
  ValueOf<T> running[kVector];
#pragma unroll
  for (int i = 0; i < kVector; ++i) running[i] = lowest<ValueOf<T>>();
  for (int step = 0; step < columns.steps(); ++step) {
    const Rows rows = columns.template rows_of<kReverse>(step);
    forward_rows<T, kReverse, kAdd, kVector>(columns, rows, step == 0, running);
  }
}

template <typename T, bool kReverse, int kVector>
__global__ void __launch_bounds__(kThreads, 5) backward_columns(Columns<T> columns) {
  const int64_t number = column_of_thread<kVector>();
  if (number >= columns.count) return;
  columns.move_to(number / columns.inner, number % columns.inner);
  ValueOf<T> sums[kVector] = {};
  for (int step = 0; step < columns.steps(); ++step) {
    const Rows rows = columns.template rows_of<!kReverse>(step);
    backward_rows<T, kReverse, kVector>(columns, rows, sums);
  }
}

}  // namespace cpools::cuda
