// Interface of the CUDA kernels of corners: plain numbers and pointers, no tensors.
#pragma once

#include <cstdint>

#include "scan.h"

namespace cpools {

// Vectors of cells: a map [images, channels, height, width], or only the vectors of some corners
// [images, count, channels]. Strides are counted in elements, and are 0 for dimensions that it lacks.
struct Vectors {
  Element element;
  const void* data;
  int64_t width;  // of the map; 1 without one
  int64_t image, channel, row, column, corner;
};

// `count` corners of each kind in each of `images` images. Arrays are contiguous [2, images, count],
// those of the top-left corners first; points have (x, y) in cells.
struct Corners {
  int64_t images, count;
  const float *points, *scores;
  const int64_t *labels, *cells;
  const bool* found;
};

// The heatmaps of corners; without a border, corners at the outer edges are not found.
struct Grid {
  int64_t height, width;
  bool no_border;
};

namespace cuda {
// These run on `stream`, a cudaStream_t of the current device.

// Writes points, probabilities and `found` of the corners at `cells` whose logits are given.
void read_corners(
    int64_t images, int64_t count, const float* logits, const int64_t* cells, const Vectors& tl,
    const Vectors& br, const Grid& grid, float* points, float* scores, bool* found, void* stream);

// Writes the scores of all pairs, [images, count, count]: -1 for those that are no object.
void score_pairs(
    const Corners& corners, const Vectors& tl, const Vectors& br, float max_distance,
    float* pairs, void* stream);

// Writes rows [images, kept, 8] of the pairs with these scores and numbers.
void join_pairs(
    const Corners& corners, int64_t kept, const float* pairs, const int64_t* numbers, float* rows,
    void* stream);
}  // namespace cuda

}  // namespace cpools
