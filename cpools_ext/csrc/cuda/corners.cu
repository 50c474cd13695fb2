// The kernels of corners: a thread a corner, a pair, or a number of a row.

#include <c10/cuda/CUDAException.h>

#include "../corners.h"
#include "values.cuh"

namespace cpools::cuda {
namespace {

constexpr int kBlock = 128;  // threads

unsigned blocks_of(int64_t threads) {
  return static_cast<unsigned>((threads + kBlock - 1) / kBlock);
}

__device__ inline int64_t thread_number() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// A number of the vector of a corner, the `corner`-th of its image, which is at `cell`.
__device__ inline float read(
    const Vectors& from, int64_t image, int64_t corner, int64_t cell, int channel) {
  const int64_t place = image * from.image + channel * from.channel + corner * from.corner +
      cell / from.width * from.row + cell % from.width * from.column;
  switch (from.element) {
    case Element::kFloat32: return static_cast<const float*>(from.data)[place];
    case Element::kFloat64:
      return static_cast<float>(static_cast<const double*>(from.data)[place]);
    case Element::kBFloat16: return widen(static_cast<const __nv_bfloat16*>(from.data)[place]);
    case Element::kFloat16: return widen(static_cast<const __half*>(from.data)[place]);
  }
  return 0;
}

__global__ void __launch_bounds__(kBlock) read_each(
    int64_t images, int64_t count, const float* logits, const int64_t* cells, Vectors tl,
    Vectors br, Grid grid, float* points, float* scores, bool* found) {
  const int64_t number = thread_number(), of_a_kind = images * count;
  if (number >= 2 * of_a_kind) return;
  const bool top_left = number < of_a_kind;
  const int64_t place = top_left ? number : number - of_a_kind;
  const int64_t image = place / count, corner = place % count;
  const int64_t cell = cells[number], y = cell / grid.width, x = cell % grid.width;
  const Vectors& offsets = top_left ? tl : br;
  points[2 * number] = static_cast<float>(x) + read(offsets, image, corner, cell, 0);
  points[2 * number + 1] = static_cast<float>(y) + read(offsets, image, corner, cell, 1);
  const float logit = logits[number];
  scores[number] = 1 / (1 + expf(-logit));
  const bool inside = top_left ? x > 0 && y > 0 : x < grid.width - 1 && y < grid.height - 1;
  found[number] = logit > lowest<float>() && (inside || !grid.no_border);
}

__global__ void __launch_bounds__(kBlock) score_each(
    Corners corners, Vectors tl, Vectors br, float max_distance, float* pairs) {
  const int64_t number = thread_number(), count = corners.count;
  if (number >= corners.images * count * count) return;
  const int64_t image = number / (count * count);
  const int64_t first = number / count % count, second = number % count;
  const int64_t a = image * count + first, b = (corners.images + image) * count + second;
  const float *from = corners.points + 2 * a, *to = corners.points + 2 * b;
  float score = -1;
  // Comparisons with NaN are false.
  if (corners.found[a] && corners.found[b] && corners.labels[a] == corners.labels[b] &&
      to[0] >= from[0] && to[1] >= from[1]) {
    const float distance = fabsf(
        read(tl, image, first, corners.cells[a], 0) - read(br, image, second, corners.cells[b], 0));
    if (distance <= max_distance) score = (corners.scores[a] + corners.scores[b]) / 2;
  }
  pairs[number] = score;
}

__global__ void __launch_bounds__(kBlock) join_each(
    Corners corners, int64_t kept, const float* pairs, const int64_t* numbers, float* rows) {
  const int64_t number = thread_number(), place = number / 8, count = corners.count;
  if (place >= corners.images * kept) return;
  const int64_t image = place / kept, pair = numbers[place];
  const int64_t a = image * count + pair / count;
  const int64_t b = (corners.images + image) * count + pair % count;
  const int column = static_cast<int>(number % 8);
  float value = 0;
  switch (column) {
    case 0:
    case 1: value = corners.points[2 * a + column]; break;
    case 2:
    case 3: value = corners.points[2 * b + column - 2]; break;
    case 4: value = pairs[place]; break;
    case 5: value = corners.scores[a]; break;
    case 6: value = corners.scores[b]; break;
    default: value = static_cast<float>(corners.labels[a]);
  }
  rows[number] = value;
}

}  // namespace

void read_corners(
    int64_t images, int64_t count, const float* logits, const int64_t* cells, const Vectors& tl,
    const Vectors& br, const Grid& grid, float* points, float* scores, bool* found, void* on) {
  const auto stream = static_cast<cudaStream_t>(on);
  read_each<<<blocks_of(2 * images * count), kBlock, 0, stream>>>(
      images, count, logits, cells, tl, br, grid, points, scores, found);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

void score_pairs(
    const Corners& corners, const Vectors& tl, const Vectors& br, float max_distance,
    float* pairs, void* on) {
  const auto stream = static_cast<cudaStream_t>(on);
  const int64_t threads = corners.images * corners.count * corners.count;
  score_each<<<blocks_of(threads), kBlock, 0, stream>>>(corners, tl, br, max_distance, pairs);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

void join_pairs(
    const Corners& corners, int64_t kept, const float* pairs, const int64_t* numbers, float* rows,
    void* on) {
  const auto stream = static_cast<cudaStream_t>(on);
  join_each<<<blocks_of(corners.images * kept * 8), kBlock, 0, stream>>>(
      corners, kept, pairs, numbers, rows);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace cpools::cuda
