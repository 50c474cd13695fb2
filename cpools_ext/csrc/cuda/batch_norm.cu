// The kernels of batch norm in training, for channels that are neighbours in memory.
//
// A thread keeps 16 bytes of channels and walks along the rows. Sums over the rows are made in two
// launches, of the rows of a block and of the blocks, always in one order.

#include <c10/cuda/CUDAException.h>

#include "row_sums.cuh"

namespace cpools::cuda {
namespace batch_norm {  // which their names show in a profile
namespace {

// The mean of each block's rows, and the sum of squared distances from it. Squares are those of the
// distance to the slab's first row, as those of the values themselves could swallow the variance.
template <typename T>
__global__ void __launch_bounds__(kBlock) sum_values(
    Normalization norm, Division division, float* sums) {
  const Part<T> part(division, norm);
  const T* x = static_cast<const T*>(norm.x) + part.channel;
  float origin[kWide<T>], first[kWide<T>] = {}, second[kWide<T>] = {};
  if (part.inside) {
    const auto row = load<kWide<T>>(x + part.begin * norm.channels);
    for (int i = 0; i < kWide<T>; ++i) origin[i] = widen(row.values[i]);
#pragma unroll 4
    for (int64_t at = part.begin + part.down; at < part.end; at += part.high) {
      const auto values = load<kWide<T>>(x + at * norm.channels);
      for (int i = 0; i < kWide<T>; ++i) {
        const float distance = widen(values.values[i]) - origin[i];
        first[i] += distance;
        second[i] += distance * distance;
      }
    }
  }
  add_up(first, second, part.down, part.high);
  if (part.down > 0 || !part.inside) return;
  const float count = static_cast<float>(part.end - part.begin);
  for (int i = 0; i < kWide<T>; ++i) {
    const float mean = first[i] / count;
    second[i] -= first[i] * mean;
    first[i] = origin[i] + mean;
  }
  float* cells = sums + 2 * part.slab * norm.channels + part.channel;
  write(first, cells);
  write(second, cells + norm.channels);
}

__global__ void __launch_bounds__(kBlock) combine_statistics(
    Normalization norm, Division division, const float* sums, Running running, float epsilon) {
  const int channel = static_cast<int>(blockIdx.x) * kColumns + static_cast<int>(threadIdx.x) % kColumns;
  const float origin = channel < norm.channels ? sums[channel] : 0;
  const float rows = static_cast<float>(norm.rows);
  float distance, squares;
  const auto value = [&](int64_t slab, float mean, float square, float& first, float& second) {
    const int64_t left = norm.rows - slab * division.slab;
    const float count = static_cast<float>(left < division.slab ? left : division.slab);
    first += count * (mean - origin);
    second += square + count * (mean - origin) * (mean - origin);
  };
  over_blocks(division, norm.channels, sums, distance, squares, value);
  if (threadIdx.x == 0 && blockIdx.x == 0 && running.batches != nullptr) ++*running.batches;
  if (threadIdx.x >= kColumns || channel >= norm.channels) return;
  const float mean = origin + distance / rows;
  const float spread = squares - distance * (distance / rows);
  norm.mean[channel] = mean;
  norm.inverse_deviation[channel] = 1 / sqrtf(spread / rows + epsilon);
  if (running.mean != nullptr) {
    running.mean[channel] += running.momentum * (mean - running.mean[channel]);
  }
  if (running.variance != nullptr) {
    const float variance = spread / (rows - 1);
    running.variance[channel] += running.momentum * (variance - running.variance[channel]);
  }
}

__device__ inline float clipped(const Normalization& norm, float value) {
  value = value < 0 ? 0 : value;  // NaN stays
  return value > norm.ceiling ? norm.ceiling : value;
}

template <typename T>
__global__ void __launch_bounds__(kBlock) normalize(
    Normalization norm, Division division, const T* __restrict__ x, const T* __restrict__ added,
    T* __restrict__ y) {
  const Part<T> part(division, norm);
  if (!part.inside) return;
  const Affine<kWide<T>> affine(norm, part.channel);
#pragma unroll 2
  for (int64_t at = part.begin + part.down; at < part.end; at += part.high) {
    const int64_t place = at * norm.channels + part.channel;
    const auto values = load<kWide<T>>(x + place);
    Vector<T, kWide<T>> more{};
    if (added != nullptr) more = load<kWide<T>>(added + place);
    Vector<T, kWide<T>> result;
    for (int i = 0; i < kWide<T>; ++i) {
      float value = affine(widen(values.values[i]), i);
      if (added != nullptr) value += widen(more.values[i]);
      result.values[i] = Narrow<T>::from(norm.relu ? clipped(norm, value) : value);
    }
    store(y + place, result);
  }
}

// True where a ReLU of this result passes the gradient.
template <typename T>
__device__ inline bool passes(const Normalization& norm, T result) {
  const float value = widen(result);
  return !(value <= 0) && !(value >= norm.ceiling);
}

template <typename T>
__global__ void __launch_bounds__(kBlock) sum_gradients(
    Normalization norm, Division division, const T* __restrict__ x, const T* __restrict__ grad,
    const T* __restrict__ y, T* __restrict__ masked, float* sums) {
  const Part<T> part(division, norm);
  float first[kWide<T>] = {}, second[kWide<T>] = {};
  if (part.inside) {
    const Affine<kWide<T>> affine(norm, part.channel);
#pragma unroll 2
    for (int64_t at = part.begin + part.down; at < part.end; at += part.high) {
      const int64_t place = at * norm.channels + part.channel;
      const auto values = load<kWide<T>>(x + place);
      auto grads = load<kWide<T>>(grad + place);
      Vector<T, kWide<T>> results{};
      if (y != nullptr) results = load<kWide<T>>(y + place);
      for (int i = 0; i < kWide<T>; ++i) {
        const float value = widen(values.values[i]);
        if (norm.relu) {
          if (y == nullptr) results.values[i] = Narrow<T>::from(affine(value, i));
          if (!passes(norm, results.values[i])) grads.values[i] = Narrow<T>::from(0);
        }
        first[i] += widen(grads.values[i]);
        second[i] += widen(grads.values[i]) * (value - affine.mean[i]);
      }
      if (masked != nullptr) store(masked + place, grads);
    }
  }
  add_up(first, second, part.down, part.high);
  if (part.down > 0 || !part.inside) return;
  float* cells = sums + 2 * part.slab * norm.channels + part.channel;
  write(first, cells);
  write(second, cells + norm.channels);
}

__global__ void __launch_bounds__(kBlock) combine_gradients(
    Normalization norm, Division division, const float* sums, float* bias_grad,
    float* weight_grad) {
  float grads, products;
  const auto value = [](int64_t, float a, float b, float& first, float& second) {
    first += a;
    second += b;
  };
  over_blocks(division, norm.channels, sums, grads, products, value);
  const int channel = static_cast<int>(blockIdx.x) * kColumns + static_cast<int>(threadIdx.x);
  if (threadIdx.x >= kColumns || channel >= norm.channels) return;
  bias_grad[channel] = grads;
  weight_grad[channel] = products * norm.inverse_deviation[channel];
}

template <typename T>
__global__ void __launch_bounds__(kBlock) find_gradient(
    Normalization norm, Division division, const T* __restrict__ x, const T* __restrict__ grad,
    const float* bias_grad, const float* weight_grad, T* __restrict__ x_grad) {
  const Part<T> part(division, norm);
  if (!part.inside) return;
  const Affine<kWide<T>> affine(norm, part.channel);
  const float share = 1 / static_cast<float>(norm.rows);
  float constant[kWide<T>], slope[kWide<T>], inverse_deviation[kWide<T>];
  read(bias_grad, part.channel, constant);
  read(weight_grad, part.channel, slope);
  read(norm.inverse_deviation, part.channel, inverse_deviation);
  for (int i = 0; i < kWide<T>; ++i) {
    constant[i] *= share;
    slope[i] *= share * inverse_deviation[i];
  }
#pragma unroll 2
  for (int64_t at = part.begin + part.down; at < part.end; at += part.high) {
    const int64_t place = at * norm.channels + part.channel;
    const auto values = load<kWide<T>>(x + place);
    const auto grads = load<kWide<T>>(grad + place);
    Vector<T, kWide<T>> result;
    for (int i = 0; i < kWide<T>; ++i) {
      const float value = widen(values.values[i]);
      float own = widen(grads.values[i]);
      if (norm.relu && !passes(norm, Narrow<T>::from(affine(value, i)))) own = 0;
      own -= constant[i] + (value - affine.mean[i]) * slope[i];
      result.values[i] = Narrow<T>::from(own * affine.scale[i]);
    }
    store(x_grad + place, result);
  }
}

unsigned blocks_of(const Division& division) {
  return static_cast<unsigned>(division.tiles * division.slabs);
}

unsigned columns_of(const Normalization& norm) {
  return static_cast<unsigned>((norm.channels + kColumns - 1) / kColumns);
}

template <typename T>
constexpr int64_t kSumBytes = 2 * kWide<T> * kBlock * sizeof(float);
constexpr int64_t kCombineBytes = 2 * kBlock * sizeof(float);

// Calls a function with the type of the elements.
template <typename Function>
auto with_type(Element element, Function function) {
  switch (element) {
    case Element::kBFloat16: return function(__nv_bfloat16{});
    case Element::kFloat16: return function(__half{});
    default: return function(float{});
  }
}

}  // namespace
}  // namespace batch_norm

using namespace batch_norm;

int64_t batch_norm_scratch(const Normalization& norm) {
  return with_type(norm.element, [&](auto type) {
    return 2 * for_sums<decltype(type)>(norm).slabs * norm.channels;
  });
}

void batch_norm_statistics(
    const Normalization& norm, const Running& running, double epsilon, float* scratch, void* on) {
  const auto stream = static_cast<cudaStream_t>(on);
  with_type(norm.element, [&](auto type) {
    using T = decltype(type);
    const Division division = for_sums<T>(norm);
    sum_values<T><<<blocks_of(division), kBlock, kSumBytes<T>, stream>>>(norm, division, scratch);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    combine_statistics<<<columns_of(norm), kBlock, kCombineBytes, stream>>>(
        norm, division, scratch, running, static_cast<float>(epsilon));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

void batch_norm_apply(const Normalization& norm, const void* added, void* y, void* on) {
  const auto stream = static_cast<cudaStream_t>(on);
  with_type(norm.element, [&](auto type) {
    using T = decltype(type);
    const Division division = divide(norm.rows, norm.channels / kWide<T>, kApplyBlocks);
    normalize<T><<<blocks_of(division), kBlock, 0, stream>>>(
        norm, division, static_cast<const T*>(norm.x), static_cast<const T*>(added),
        static_cast<T*>(y));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

void batch_norm_sums(
    const Normalization& norm, const void* grad, const void* y, void* masked, float* scratch,
    float* bias_grad, float* weight_grad, void* on) {
  const auto stream = static_cast<cudaStream_t>(on);
  with_type(norm.element, [&](auto type) {
    using T = decltype(type);
    const Division division = for_sums<T>(norm);
    sum_gradients<T><<<blocks_of(division), kBlock, kSumBytes<T>, stream>>>(
        norm, division, static_cast<const T*>(norm.x), static_cast<const T*>(grad),
        static_cast<const T*>(y), static_cast<T*>(masked), scratch);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    combine_gradients<<<columns_of(norm), kBlock, kCombineBytes, stream>>>(
        norm, division, scratch, bias_grad, weight_grad);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

void batch_norm_gradient(
    const Normalization& norm, const void* grad, bool masked, const float* bias_grad,
    const float* weight_grad, void* x_grad, void* on) {
  const auto stream = static_cast<cudaStream_t>(on);
  Normalization left = norm;
  left.relu = norm.relu && !masked;
  with_type(norm.element, [&](auto type) {
    using T = decltype(type);
    const Division division = divide(norm.rows, norm.channels / kWide<T>, kApplyBlocks);
    find_gradient<T><<<blocks_of(division), kBlock, 0, stream>>>(
        left, division, static_cast<const T*>(norm.x), static_cast<const T*>(grad), bias_grad,
        weight_grad, static_cast<T*>(x_grad));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

}  // namespace cpools::cuda
