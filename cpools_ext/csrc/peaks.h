// Interface of the CUDA kernel of peaks: plain numbers and pointers, no tensors.
#pragma once

#include <cstdint>

#include "scan.h"

namespace cpools {

// A heatmap [batch, classes, height, width] of any strides, which are counted in elements. It has
// fewer than 2^31 cells.
struct Heatmap {
  Element element;
  const void* data;
  int batch, classes, height, width;
  int64_t strides[4];
};

namespace cuda {
// Writes each cell that no cell within `reach` rows and columns exceeds, and -inf elsewhere, to
// contiguous `peaks`. It runs on `stream`, a cudaStream_t of the current device.
void peaks(const Heatmap& heatmap, int reach, float* peaks, void* stream);

// Writes the classes and cells of `count` peaks whose score and number among the cells of all classes,
// each of `area` cells, are given; 0 where the score is -inf.
void place_peaks(
    int64_t count, int64_t area, const float* scores, const int64_t* numbers, int64_t* labels,
    int64_t* cells, void* stream);
}  // namespace cuda

}  // namespace cpools
