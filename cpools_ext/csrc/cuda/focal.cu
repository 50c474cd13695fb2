// The kernels of the focal loss: its value and its gradient, each in one pass over the heatmaps.

#include <c10/cuda/CUDAException.h>

#include "../focal.h"
#include "values.cuh"

namespace cpools::cuda {
namespace {

constexpr int kFocalThreads = 256;  // in a block
constexpr int kWide = 4;            // neighbouring cells that a thread takes at once
constexpr float kLeast = 1e-4f, kMost = 1 - 1e-4f;  // limits of a probability

struct Sums {
  float cost, positives;
};

// A cell's probability of the wrong answer and of the right one, before they are clamped.
struct Cell {
  float wrong, right;
  bool positive;
};

__device__ inline Cell cell_of(float logit, float target) {
  const bool positive = target == 1;
  const float exponential = expf(-fabsf(logit));  // at most 1, so nothing overflows
  const float greater = 1 / (1 + exponential), less = exponential * greater;
  return (logit > 0) == positive ? Cell{less, greater, positive} : Cell{greater, less, positive};
}

// NaN stays NaN.
__device__ inline float clamp(float probability) {
  return probability < kLeast ? kLeast : probability > kMost ? kMost : probability;
}

__device__ inline float weight_of(const Cell& cell, float target, bool valid) {
  const float far = (1 - target) * (1 - target);
  return !valid ? 0 : cell.positive ? 1 : far * far;
}

// Adds up the numbers of a block's threads, in the same order every time; all get the sums.
__device__ inline Sums add_in_block(Sums sums) {
  static __shared__ Sums of_warps[kFocalThreads / kWarp];
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    sums.cost += __shfl_xor_sync(kAllLanes, sums.cost, distance, kWarp);
    sums.positives += __shfl_xor_sync(kAllLanes, sums.positives, distance, kWarp);
  }
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = sums;
  __syncthreads();
  sums = {0, 0};
  for (const Sums& each : of_warps) {
    sums.cost += each.cost;
    sums.positives += each.positives;
  }
  return sums;
}

// Cells that a thread has loaded.
template <typename T, int kVector>
struct Loaded {
  Vector<T, kVector> logits;
  Vector<float, kVector> targets;
  Vector<uint8_t, kVector> valid;
};

template <typename T, int kVector>
__device__ inline Loaded<T, kVector> load_cells(const FocalMaps& maps, int64_t at) {
  Loaded<T, kVector> loaded;
  loaded.logits = load<kVector>(static_cast<const T*>(maps.logits) + at);
  loaded.targets = load<kVector>(maps.target + at);
  if (maps.valid != nullptr) {
    loaded.valid = load<kVector>(maps.valid + at);
  } else {
    for (uint8_t& valid : loaded.valid.values) valid = 1;
  }
  return loaded;
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kFocalThreads)
    add_costs(FocalMaps maps, int blocks, float* partial) {
  const int64_t step = static_cast<int64_t>(blocks) * kFocalThreads * kVector;
  int64_t at = (static_cast<int64_t>(blockIdx.x) * kFocalThreads + threadIdx.x) * kVector;
  Sums sums{0, 0};
  for (; at < maps.cells; at += step) {
    const auto loaded = load_cells<T, kVector>(maps, at);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const float target = loaded.targets.values[i];
      const Cell cell = cell_of(widen(loaded.logits.values[i]), target);
      const float wrong = clamp(cell.wrong);
      const float weight = weight_of(cell, target, loaded.valid.values[i] != 0);
      sums.cost -= logf(clamp(cell.right)) * wrong * wrong * weight;
      sums.positives += cell.positive ? 1 : 0;
    }
  }
  sums = add_in_block(sums);
  if (threadIdx.x == 0) {
    partial[2 * blockIdx.x] = sums.cost;
    partial[2 * blockIdx.x + 1] = sums.positives;
  }
}

template <int kThreads>  // in the only block
__global__ void __launch_bounds__(kThreads)
    divide_costs(const float* partial, int blocks, float* loss, float* divisor) {
  Sums sums{0, 0};
  for (int i = threadIdx.x; i < blocks; i += kThreads) {
    sums.cost += partial[2 * i];
    sums.positives += partial[2 * i + 1];
  }
  sums = add_in_block(sums);
  if (threadIdx.x == 0) {
    *divisor = sums.positives > 1 ? sums.positives : 1;
    *loss = sums.cost / *divisor;
  }
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kFocalThreads)
    write_gradient(
        FocalMaps maps, int blocks, const float* upstream, const float* divisor, T* gradient) {
  const int64_t step = static_cast<int64_t>(blocks) * kFocalThreads * kVector;
  int64_t at = (static_cast<int64_t>(blockIdx.x) * kFocalThreads + threadIdx.x) * kVector;
  const float scale = *upstream / *divisor;
  for (; at < maps.cells; at += step) {
    const auto loaded = load_cells<T, kVector>(maps, at);
    Vector<T, kVector> slopes;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const float target = loaded.targets.values[i];
      const Cell cell = cell_of(widen(loaded.logits.values[i]), target);
      const float wrong = clamp(cell.wrong), right = clamp(cell.right);
      const float weight = weight_of(cell, target, loaded.valid.values[i] != 0);
      float slope = (wrong - 2 * right * logf(right)) * wrong * wrong * weight;
      if (cell.wrong < kLeast || cell.wrong > kMost) slope = 0;
      slopes.values[i] = Narrow<T>::from((cell.positive ? -slope : slope) * scale);
    }
    store<T, kVector>(gradient + at, slopes);
  }
}

template <typename T>
bool aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % (sizeof(T) * kWide) == 0;
}

// True if cells can be loaded kWide at a time; `gradient` may be null.
template <typename T>
bool in_vectors(const FocalMaps& maps, const void* gradient) {
  return maps.cells % kWide == 0 && aligned<T>(maps.logits) && aligned<float>(maps.target) &&
      aligned<uint8_t>(maps.valid) && aligned<T>(gradient);
}

// Calls a function with a logit.
template <typename Function>
void with_element(Element element, const Function& function) {
  switch (element) {
    case Element::kFloat32: return function(float{});
    case Element::kBFloat16: return function(__nv_bfloat16{});
    case Element::kFloat16: return function(__half{});
    case Element::kFloat64: TORCH_CHECK(false, "the focal loss has no kernel for float64");
  }
}

}  // namespace

void focal_loss(
    const FocalMaps& maps, int blocks, float* partial, float* loss, float* divisor, void* on) {
  const auto stream = static_cast<cudaStream_t>(on);
  with_element(maps.element, [&](auto zero) {
    using T = decltype(zero);
    if (in_vectors<T>(maps, nullptr)) {
      add_costs<T, kWide><<<blocks, kFocalThreads, 0, stream>>>(maps, blocks, partial);
    } else {
      add_costs<T, 1><<<blocks, kFocalThreads, 0, stream>>>(maps, blocks, partial);
    }
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  divide_costs<kFocalThreads><<<1, kFocalThreads, 0, stream>>>(partial, blocks, loss, divisor);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

void focal_loss_backward(
    const FocalMaps& maps, int blocks, const float* upstream, const float* divisor,
    void* gradient, void* on) {
  const auto stream = static_cast<cudaStream_t>(on);
  with_element(maps.element, [&](auto zero) {
    using T = decltype(zero);
    T* const to = static_cast<T*>(gradient);
    if (in_vectors<T>(maps, gradient)) {
      write_gradient<T, kWide>
          <<<blocks, kFocalThreads, 0, stream>>>(maps, blocks, upstream, divisor, to);
    } else {
      write_gradient<T, 1>
          <<<blocks, kFocalThreads, 0, stream>>>(maps, blocks, upstream, divisor, to);
    }
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

}  // namespace cpools::cuda
