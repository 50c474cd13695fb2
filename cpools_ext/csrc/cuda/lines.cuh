// Lines: inner is 1. The lanes of a warp scan a line together, with shuffles. The order of the
// comparisons does not change a maximum. That of the additions in the backward pass is always the
// same, and another than that of a loop over the line.
#pragma once

#include "values.cuh"

namespace cpools::cuda {

// Lines of `length` neighbours. `1 << shift` lanes, from 8 / kVector to 32, take a line, kVector
// neighbours each, in `chunks` steps; kVector divides the length. Shifts take the place of
// divisions, which are slow on a GPU.
template <typename T>
struct Lines {
  const T* input;
  T* output;
  uint8_t* record;
  int64_t count;
  int length, chunks, shift;

  __device__ void move_to(int64_t line) {
    input += line * length;
    output += line * length;
    record += line * ((length + 7) >> 3);
  }
};

// Scans a line. Every lane takes part in shuffles: one without a line of its own too. With kAdd the
// maxima are added to the values in the output.
template <typename T, bool kReverse, bool kAdd, int kVector>
__device__ inline void forward_line(Lines<T> lines, int64_t line, bool has_line) {
  using Value = ValueOf<T>;
  const int length = lines.length, chunks = lines.chunks, shift = lines.shift;
  const int width = 1 << shift, chunk = kVector << shift, lane = threadIdx.x & (width - 1);
  lines.move_to(has_line ? line : 0);
  Value carry = lowest<Value>();
  for (int step = 0; step < chunks; ++step) {
    const int at = (kReverse ? chunks - 1 - step : step) * chunk + lane * kVector;
    const bool active = has_line && at < length;
    Value x[kVector];
    Vector<T, kVector> addend = {};
    if (active) {
      const auto loaded = load<kVector>(lines.input + at);
      if (kAdd) addend = load<kVector>(lines.output + at);
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
      out.values[i] = Narrow<T>::from(kAdd ? running + widen(addend.values[i]) : running);
    }
    bits <<= lane * kVector & 7;
#pragma unroll
    for (int distance = 1; distance < 8 / kVector; distance *= 2) {
      bits |= __shfl_xor_sync(kAllLanes, bits, distance, width);
    }
    if (active) {
      store(lines.output + at, out);
      if ((at & 7) == 0) lines.record[at >> 3] = static_cast<uint8_t>(bits);
    }
  }
}

// The gradient up to where the next maximum starts, walking against the scan: a segmented sum from
// the scan's end, first of each lane's elements, then over the lanes. Arguments as for forward_line.
template <typename T, bool kReverse, int kVector>
__device__ inline void backward_line(Lines<T> lines, int64_t line, bool has_line) {
  using Value = ValueOf<T>;
  const int length = lines.length, chunks = lines.chunks, shift = lines.shift;
  const int width = 1 << shift, chunk = kVector << shift, lane = threadIdx.x & (width - 1);
  const int last = kReverse ? 0 : width - 1;  // lane at the scan's end
  lines.move_to(has_line ? line : 0);
  Value carry = 0;  // of the elements behind this chunk, up to the next start
  for (int step = 0; step < chunks; ++step) {
    const int at = (kReverse ? step : chunks - 1 - step) * chunk + lane * kVector;
    const bool active = has_line && at < length;
    Value x[kVector] = {};
    uint32_t starts = 0;
    if (active) {
      const auto loaded = load<kVector>(lines.input + at);
#pragma unroll
      for (int k = 0; k < kVector; ++k) x[k] = widen(loaded.values[k]);
      starts = lines.record[at >> 3] >> (at & 7) & ((1u << kVector) - 1);
    }
    // The sum up to the lane's first start, and over the lanes: up to the first one from here on.
    Value sum = 0;
#pragma unroll
    for (int k = 0; k < kVector; ++k) {
      const int i = kReverse ? k : kVector - 1 - k;
      sum = starts >> i & 1 ? Value(0) : sum + x[i];
    }
    int closed = starts != 0;
    for (int distance = 1; distance < width; distance *= 2) {
      const Value other = kReverse ? __shfl_up_sync(kAllLanes, sum, distance, width)
                                   : __shfl_down_sync(kAllLanes, sum, distance, width);
      const int other_closed = kReverse ? __shfl_up_sync(kAllLanes, closed, distance, width)
                                        : __shfl_down_sync(kAllLanes, closed, distance, width);
      const bool there = kReverse ? lane >= distance : lane + distance < width;
      if (there && !closed) {
        sum += other;
        closed = other_closed;
      }
    }
    if (!closed) sum += carry;
    const Value behind = kReverse ? __shfl_up_sync(kAllLanes, sum, 1, width)
                                  : __shfl_down_sync(kAllLanes, sum, 1, width);
    Value running = lane == last ? carry : behind;
    carry = __shfl_sync(kAllLanes, sum, kReverse ? width - 1 : 0, width);

    Vector<T, kVector> out;
#pragma unroll
    for (int k = 0; k < kVector; ++k) {
      const int i = kReverse ? k : kVector - 1 - k;
      const bool start = starts >> i & 1;
      running += x[i];
      out.values[i] = Narrow<T>::from(start ? running : Value(0));
      running = start ? Value(0) : running;
    }
    if (active) store(lines.output + at, out);
  }
}

// The line of a thread among all.
__device__ inline int64_t line_of_thread(int shift) {
  return static_cast<int64_t>(blockIdx.x) * (kThreads >> shift) + (threadIdx.x >> shift);
}

template <typename T, bool kReverse, int kVector>
__global__ void __launch_bounds__(kThreads) forward_lines(Lines<T> lines) {
  const int64_t line = line_of_thread(lines.shift);
  forward_line<T, kReverse, false, kVector>(lines, line, line < lines.count);
}

template <typename T, bool kReverse, int kVector>
__global__ void __launch_bounds__(kThreads) backward_lines(Lines<T> lines) {
  const int64_t line = line_of_thread(lines.shift);
  backward_line<T, kReverse, kVector>(lines, line, line < lines.count);
}

}  // namespace cpools::cuda
