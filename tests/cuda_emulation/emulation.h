// Just enough of CUDA to run corner_pool.cu on the CPU, so that its logic is tested without a GPU:
// each thread of a block is an OS thread, and lanes of a warp meet at barriers.
#pragma once

#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

using cudaStream_t = void*;
#define C10_CUDA_KERNEL_LAUNCH_CHECK()
#define __CUDA_ARCH_LIST__ 0
#define TORCH_CHECK(condition, message) ((condition) ? void() : throw message)

struct __half {
  _Float16 value;
};
inline float __half2float(__half x) { return static_cast<float>(x.value); }
inline __half __float2half_rn(float x) { return {static_cast<_Float16>(x)}; }

struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  if (x != x) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

#define __global__
#define __device__
#define __host__
#define __shared__
#define __launch_bounds__(...)

struct Index {
  unsigned x = 0;
};
inline thread_local Index threadIdx, blockIdx, blockDim;

struct Warp {
  std::barrier<> meeting{32};
  unsigned char values[32][8];
};
inline thread_local Warp* warp;
inline thread_local int lane_number;
inline thread_local std::barrier<>* block_meeting;
inline void __syncthreads() { block_meeting->arrive_and_wait(); }
namespace cpools::cuda {
inline double shared[48 * 1024 / sizeof(double)];  // blocks run one after another
}
inline void __syncwarp() { warp->meeting.arrive_and_wait(); }

// Every lane shows its value; each takes the one of lane `from`.
template <typename T>
T exchange(T value, int from) {
  std::memcpy(warp->values[lane_number], &value, sizeof(T));
  __syncwarp();
  T result;
  std::memcpy(&result, warp->values[from], sizeof(T));
  __syncwarp();
  return result;
}

template <typename T>
T __shfl_sync(unsigned, T value, int lane, int width) {
  return exchange(value, lane_number / width * width + lane % width);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned distance, int width) {
  const int place = lane_number % width, from = place - static_cast<int>(distance);
  return exchange(value, from < 0 ? lane_number : lane_number - static_cast<int>(distance));
}
template <typename T>
T __shfl_down_sync(unsigned, T value, unsigned distance, int width) {
  const int from = lane_number % width + static_cast<int>(distance);
  return exchange(value, from >= width ? lane_number : lane_number + static_cast<int>(distance));
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask, int width) {
  const int from = lane_number % width ^ mask;
  return exchange(value, from >= width ? lane_number : lane_number / width * width + from);
}

inline unsigned __ballot_sync(unsigned, bool mine) {
  warp->values[lane_number][0] = mine;
  __syncwarp();
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane) votes |= unsigned{warp->values[lane][0]} << lane;
  __syncwarp();
  return votes;
}
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }

inline void run_blocks(unsigned blocks, unsigned threads, const std::function<void()>& kernel) {
  for (unsigned block = 0; block < blocks; ++block) {
    std::vector<std::unique_ptr<Warp>> warps(threads / 32);
    for (auto& each : warps) each = std::make_unique<Warp>();
    std::barrier<> meeting(threads);
    std::vector<std::thread> team;
    for (unsigned thread = 0; thread < threads; ++thread) {
      team.emplace_back([&, thread] {
        threadIdx.x = thread;
        blockIdx.x = block;
        blockDim.x = threads;
        warp = warps[thread / 32].get();
        block_meeting = &meeting;
        lane_number = static_cast<int>(thread % 32);
        kernel();
        warp->meeting.arrive_and_drop();
        meeting.arrive_and_drop();
      });
    }
    for (auto& thread : team) thread.join();
  }
}

inline int launch_count = 0;

// Takes the place of kernel<<<blocks, threads, shared, stream>>>(arguments...).
template <typename Kernel>
auto emulate(Kernel kernel, unsigned blocks, unsigned threads, int64_t bytes, cudaStream_t) {
  TORCH_CHECK(bytes <= static_cast<int64_t>(sizeof(cpools::cuda::shared)), "too much shared memory");
  ++launch_count;
  return [=](auto... arguments) { run_blocks(blocks, threads, [=] { kernel(arguments...); }); };
}
