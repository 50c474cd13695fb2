// Both scans of a corner over a plane, a block a plane: down its columns, a few rows at a time, and
// along those rows, which then still are in the cache. The horizontal map's rows are requested
// while the vertical one's are scanned.
#pragma once

#include "columns.cuh"
#include "lines.cuh"

namespace cpools::cuda {

constexpr int kPlaneThreads = 256;  // the most in a block; each takes columns of the plane

// Neighbours that a thread takes at once, where kWide says that they divide the width.
template <typename T, bool kWide>
constexpr int kAcross = kWide ? kColumns<T> : 1;
template <typename T, bool kWide>
constexpr int kAlong = kWide ? 16 / sizeof(T) : 1;

__device__ inline void prefetch(const void* from) {
#ifdef __CUDA_ARCH__
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
#endif
}

// Prefetches rows of a plane to which `lines` was moved.
template <typename T>
__device__ inline void prefetch_rows(const Lines<T>& lines, Rows rows) {
  constexpr int kSector = 32;  // bytes that the cache fetches
  const int64_t first = static_cast<int64_t>(rows.first) * lines.length;
  const char* const from = reinterpret_cast<const char*>(lines.input + first);
  const int bytes = static_cast<int>(sizeof(T)) * rows.count * lines.length;
  for (int at = threadIdx.x * kSector; at < bytes; at += blockDim.x * kSector) {
    prefetch(from + at);
  }
}

// Adds the maxima along the rows of the horizontal map to those down the columns of the vertical
// one. The columns' outer size counts planes; a block has a thread for each kAcross columns.
template <typename T, bool kReverse, bool kWide>
__global__ void __launch_bounds__(kPlaneThreads, 4)
    forward_planes(Columns<T> columns, Lines<T> lines) {
  const int column = threadIdx.x * kAcross<T, kWide>;
  columns.move_to(blockIdx.x, column);
  lines.move_to(static_cast<int64_t>(blockIdx.x) * columns.length);
  ValueOf<T> running[kAcross<T, kWide>];
#pragma unroll
  for (int i = 0; i < kAcross<T, kWide>; ++i) running[i] = lowest<ValueOf<T>>();
  for (int step = 0; step < columns.steps(); ++step) {
    const Rows rows = columns.template rows_of<kReverse>(step);
    prefetch_rows(lines, rows);
    if (column < columns.inner) {
      forward_rows<T, kReverse, false>(columns, rows, step == 0, running);
    }
    __syncthreads();  // the next step writes other rows
    for (int row = 0; row < rows.count; row += blockDim.x >> lines.shift) {
      const int own = row + (threadIdx.x >> lines.shift);
      forward_line<T, kReverse, true, kAlong<T, kWide>>(lines, rows.first + own, own < rows.count);
    }
  }
}

// The gradients of both maps from that of the sum, which is the input of both scans.
template <typename T, bool kReverse, bool kWide>
__global__ void __launch_bounds__(kPlaneThreads, 4)
    backward_planes(Columns<T> columns, Lines<T> lines) {
  const int column = threadIdx.x * kAcross<T, kWide>;
  columns.move_to(blockIdx.x, column);
  lines.move_to(static_cast<int64_t>(blockIdx.x) * columns.length);
  ValueOf<T> sums[kAcross<T, kWide>] = {};
  for (int step = 0; step < columns.steps(); ++step) {
    const Rows rows = columns.template rows_of<!kReverse>(step);
    if (column < columns.inner) backward_rows<T, kReverse>(columns, rows, sums);
    for (int row = 0; row < rows.count; row += blockDim.x >> lines.shift) {
      const int own = row + (threadIdx.x >> lines.shift);
      backward_line<T, kReverse, kAlong<T, kWide>>(lines, rows.first + own, own < rows.count);
    }
  }
}

}  // namespace cpools::cuda
