// The kernels of windows: they are read, and their gradients are added up, in one launch each.

#include <c10/cuda/CUDAException.h>

#include "../windows.h"
#include "values.cuh"

namespace cpools::cuda {
namespace {

constexpr int kReaders = 128;   // threads that read a window
constexpr int kTile = 8;        // side of the cells whose gradient a block writes
constexpr int kWarps = kTile;   // of that block; each has a cell in every row
constexpr int kAtOnce = 8;      // vectors that a lane loads before it adds them
constexpr int kGroups = 2048;   // groups of 32 windows of which a block knows if any is near

struct Cell {
  int y, x;
};

__device__ inline Cell middle_of(const Windows& windows, int64_t window) {
  const int number = static_cast<int>(windows.middles[window]);
  return {number / windows.width, number % windows.width};
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kReaders)
    read_windows(Windows windows, const T* maps, T* output) {
  const int64_t window = blockIdx.x, image = window / windows.count;
  const int vectors = windows.channels / kVector, side = windows.side;
  const Cell middle = middle_of(windows, window);
  maps += image * windows.height * windows.width * windows.channels;
  output += window * side * side * windows.channels;
  for (int i = threadIdx.x; i < side * side * vectors; i += kReaders) {
    const int tap = i / vectors, channel = i % vectors * kVector;
    const int y = middle.y - side / 2 + tap / side, x = middle.x - side / 2 + tap % side;
    Vector<T, kVector> vector;
    if (y >= 0 && y < windows.height && x >= 0 && x < windows.width) {
      const int64_t cell = static_cast<int64_t>(y) * windows.width + x;
      vector = load<kVector>(maps + cell * windows.channels + channel);
    } else {
      for (T& value : vector.values) value = Narrow<T>::from(0.f);
    }
    store(output + static_cast<int64_t>(i) * kVector, vector);
  }
}

// The gradient of a tile of cells. A warp takes a cell at a time: each lane looks whether one of 32
// windows has the cell, then all add the channels of those that do.
template <typename T, int kVector>
__global__ void __launch_bounds__(kWarps * kWarp)
    add_windows(Windows windows, const T* grad, T* gradient) {
  static __shared__ bool near[kGroups];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int side = windows.side, reach = side / 2, channels = windows.channels;
  const int across = (windows.width + kTile - 1) / kTile;
  const int down = (windows.height + kTile - 1) / kTile;
  const int tile = static_cast<int>(blockIdx.x % (across * down));
  const int64_t image = blockIdx.x / (across * down);
  const int top = tile / across * kTile, left = tile % across * kTile;
  const int count = static_cast<int>(windows.count), groups = (count + kWarp - 1) / kWarp;
  windows.middles += image * count;
  grad += image * count * side * side * channels;
  gradient += image * windows.height * windows.width * channels;

  for (int group = warp; group < groups && group < kGroups; group += kWarps) {
    const int window = group * kWarp + lane;
    bool touches = false;
    if (window < count) {
      const Cell middle = middle_of(windows, window);
      touches = middle.y + reach >= top && middle.y - reach < top + kTile &&
          middle.x + reach >= left && middle.x - reach < left + kTile;
    }
    const bool any = __ballot_sync(kAllLanes, touches) != 0;
    if (lane == 0) near[group] = any;
  }
  __syncthreads();

  // Every loop and every branch around a ballot or a shuffle is the same for the lanes of a warp.
  for (int row = 0; row < kTile; ++row) {
    // Cells about one that many windows share have different warps.
    const int y = top + row, x = left + (warp + (kTile - 2) * row) % kTile;
    if (y >= windows.height || x >= windows.width) continue;
    T* const to = gradient + (static_cast<int64_t>(y) * windows.width + x) * channels;
    for (int start = 0; start < channels; start += kWarp * kVector) {
      const int channel = start + lane * kVector;
      const bool inside = channel < channels;
      float sums[kVector] = {};
      for (int group = 0; group < groups; ++group) {
        if (group < kGroups && !near[group]) continue;
        const int window = group * kWarp + lane;
        int tap = -1;  // which cell of the window it is
        if (window < count) {
          const Cell middle = middle_of(windows, window);
          const int tap_y = y - middle.y + reach, tap_x = x - middle.x + reach;
          if (tap_y >= 0 && tap_y < side && tap_x >= 0 && tap_x < side) tap = tap_y * side + tap_x;
        }
        unsigned hits = __ballot_sync(kAllLanes, tap >= 0);
        while (hits != 0) {
          Vector<T, kVector> loaded[kAtOnce];
          unsigned left_over = hits;
#pragma unroll
          for (int i = 0; i < kAtOnce; ++i) {
            const int from = left_over != 0 ? __ffs(left_over) - 1 : 0;
            const int its_tap = __shfl_sync(kAllLanes, tap, from, kWarp);
            if (left_over != 0 && inside) {
              const int64_t its_window = group * kWarp + from;
              loaded[i] =
                  load<kVector>(grad + (its_window * side * side + its_tap) * channels + channel);
            }
            left_over &= left_over - 1;
          }
#pragma unroll
          for (int i = 0; i < kAtOnce; ++i) {
            if (hits != 0 && inside) {
              for (int j = 0; j < kVector; ++j) sums[j] += widen(loaded[i].values[j]);
            }
            hits &= hits - 1;
          }
        }
      }
      if (!inside) continue;
      Vector<T, kVector> sum;
      for (int j = 0; j < kVector; ++j) sum.values[j] = Narrow<T>::from(sums[j]);
      store(to + channel, sum);
    }
  }
}

// Calls a function with a value, and with true if 16 bytes of channels can be read together.
template <typename Function>
void with_element(const Windows& windows, const void* a, const void* b, const Function& function) {
  const auto call = [&](auto zero) {
    constexpr int kBytes = 16;
    const bool fits = windows.channels * sizeof(zero) % kBytes == 0 &&
        reinterpret_cast<uintptr_t>(a) % kBytes == 0 && reinterpret_cast<uintptr_t>(b) % kBytes == 0;
    function(zero, fits);
  };
  switch (windows.element) {
    case Element::kFloat32: return call(float{});
    case Element::kBFloat16: return call(__nv_bfloat16{});
    case Element::kFloat16: return call(__half{});
    case Element::kFloat64: TORCH_CHECK(false, "windows have no kernel for float64");
  }
}

}  // namespace

void gather_windows(const Windows& windows, const void* maps, void* output, void* on) {
  const auto stream = static_cast<cudaStream_t>(on);
  const auto blocks = static_cast<unsigned>(windows.images * windows.count);
  with_element(windows, maps, output, [&](auto zero, bool fits) {
    using T = decltype(zero);
    constexpr int kWide = 16 / sizeof(T);
    const auto* from = static_cast<const T*>(maps);
    auto* to = static_cast<T*>(output);
    if (fits) {
      read_windows<T, kWide><<<blocks, kReaders, 0, stream>>>(windows, from, to);
    } else {
      read_windows<T, 1><<<blocks, kReaders, 0, stream>>>(windows, from, to);
    }
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

void gather_windows_backward(
    const Windows& windows, const void* grad, void* gradient, void* on) {
  const auto stream = static_cast<cudaStream_t>(on);
  const int64_t across = (windows.width + kTile - 1) / kTile;
  const int64_t down = (windows.height + kTile - 1) / kTile;
  const auto blocks = static_cast<unsigned>(windows.images * across * down);
  with_element(windows, grad, gradient, [&](auto zero, bool fits) {
    using T = decltype(zero);
    constexpr int kWide = 16 / sizeof(T);
    const auto* from = static_cast<const T*>(grad);
    auto* to = static_cast<T*>(gradient);
    if (fits) {
      add_windows<T, kWide><<<blocks, kWarps * kWarp, 0, stream>>>(windows, from, to);
    } else {
      add_windows<T, 1><<<blocks, kWarps * kWarp, 0, stream>>>(windows, from, to);
    }
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

}  // namespace cpools::cuda
