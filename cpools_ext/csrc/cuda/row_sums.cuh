// How the kernels of batch norm divide rows and channels, and add up over rows.
#pragma once

#include <algorithm>

#include "../batch_norm.h"
#include "values.cuh"

namespace cpools::cuda {

extern __shared__ double shared[];

namespace batch_norm {
namespace {

constexpr int kBlock = 256;  // threads in a block
constexpr int kColumns = 8;  // channels that a block combines: 32 bytes of a row; and ...
constexpr int kLanes = kBlock / kColumns;  // ... the threads a channel

template <typename T>
constexpr int kWide = 16 / sizeof(T);  // channels of a thread

// How a launch divides rows and channels: `across` threads lie side by side, and a block has the
// rows of a slab.
struct Division {
  int across, tiles;
  int64_t slab, slabs;
};

Division divide(int64_t rows, int vectors, int64_t blocks) {
  Division division{1, 1, 0, 0};
  int& across = division.across;
  while (across < 32 && vectors % (2 * across) == 0) across *= 2;
  while (across < 4 && across < vectors) across *= 2;  // some threads have nothing to do
  division.tiles = (vectors + across - 1) / across;
  const int64_t high = kBlock / across;
  const int64_t wanted = std::max<int64_t>(1, blocks / division.tiles);
  division.slab = high * std::max<int64_t>(1, (rows + high * wanted - 1) / (high * wanted));
  division.slabs = (rows + division.slab - 1) / division.slab;
  return division;
}

constexpr int64_t kSumBlocks = 528;  // 4 a multiprocessor of an H100
constexpr int64_t kApplyBlocks = 2112;

template <typename T>
Division for_sums(const Normalization& norm) {
  return divide(norm.rows, norm.channels / kWide<T>, kSumBlocks);
}

// The rows and channels of a thread.
template <typename T>
struct Part {
  int channel, down, high;
  int64_t slab, begin, end;
  bool inside;

  __device__ Part(const Division& division, const Normalization& norm) {
    const int tile = static_cast<int>(blockIdx.x) % division.tiles;
    const int thread = static_cast<int>(threadIdx.x);
    slab = static_cast<int>(blockIdx.x) / division.tiles;
    down = thread / division.across;
    high = kBlock / division.across;
    channel = (tile * division.across + thread % division.across) * kWide<T>;
    inside = channel < norm.channels;
    begin = slab * division.slab;
    end = begin + division.slab < norm.rows ? begin + division.slab : norm.rows;
  }
};

template <int kCount>
__device__ inline void read(const float* from, int channel, float (&values)[kCount]) {
  for (int i = 0; i < kCount; i += 4) {
    const auto four = load<4>(from + channel + i);
    for (int j = 0; j < 4; ++j) values[i + j] = four.values[j];
  }
}

template <int kCount>
__device__ inline void write(const float (&values)[kCount], float* to) {
  for (int i = 0; i < kCount; i += 4) {
    store(to + i, Vector<float, 4>{values[i], values[i + 1], values[i + 2], values[i + 3]});
  }
}

// Adds up two sums a channel over the threads of a block that lie below each other; those in the
// first row get the results.
template <int kCount>
__device__ inline void add_up(float (&a)[kCount], float (&b)[kCount], int down, int high) {
  float* cells = reinterpret_cast<float*>(shared);
  const int thread = static_cast<int>(threadIdx.x), across = kBlock / high;
  for (int half = high / 2; half > 0; half /= 2) {
    if (half <= down && down < 2 * half) {
      for (int i = 0; i < kCount; ++i) {
        cells[2 * i * kBlock + thread] = a[i];
        cells[(2 * i + 1) * kBlock + thread] = b[i];
      }
    }
    __syncthreads();
    if (down < half) {
      for (int i = 0; i < kCount; ++i) {
        a[i] += cells[2 * i * kBlock + thread + half * across];
        b[i] += cells[(2 * i + 1) * kBlock + thread + half * across];
      }
    }
  }
}

// The sums of a channel over all blocks, for the first of the channel's threads.
template <typename Value>
__device__ inline void over_blocks(
    const Division& division, int channels, const float* sums, float& a, float& b, Value value) {
  const int thread = static_cast<int>(threadIdx.x), down = thread / kColumns;
  const int channel = static_cast<int>(blockIdx.x) * kColumns + thread % kColumns;
  float first[1] = {}, second[1] = {};
  if (channel < channels) {
#pragma unroll 4
    for (int64_t slab = down; slab < division.slabs; slab += kLanes) {
      const float* cell = sums + 2 * slab * channels + channel;
      value(slab, cell[0], cell[channels], first[0], second[0]);
    }
  }
  add_up(first, second, down, kLanes);
  a = first[0];
  b = second[0];
}

// What normalises the channels of a thread.
template <int kCount>
struct Affine {
  float mean[kCount], scale[kCount], bias[kCount];

  __device__ Affine(const Normalization& norm, int channel) {
    float weight[kCount];
    read(norm.mean, channel, mean);
    read(norm.bias, channel, bias);
    read(norm.weight, channel, weight);
    read(norm.inverse_deviation, channel, scale);
    for (int i = 0; i < kCount; ++i) scale[i] *= weight[i];
  }

  __device__ float operator()(float value, int i) const {
    return (value - mean[i]) * scale[i] + bias[i];
  }
};

}  // namespace
}  // namespace batch_norm
}  // namespace cpools::cuda
