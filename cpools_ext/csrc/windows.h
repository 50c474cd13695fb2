// Interface of the CUDA kernels of windows: plain numbers and pointers, no tensors.
#pragma once

#include <cstdint>

#include "scan.h"

namespace cpools {

// Windows of side x side cells of maps [images, height, width, channels], `count` in each image.
struct Windows {
  Element element;  // of the maps and the windows; not float64
  int64_t images, count;
  int height, width, channels, side;
  const int64_t* middles;  // [images, count], each y * width + x
};

namespace cuda {
// These run on `stream`, a cudaStream_t of the current device.

// Writes the windows [images, count, side, side, channels], not none of them. Cells that lie outside
// the map are 0.
void gather_windows(const Windows& windows, const void* maps, void* output, void* stream);
// Writes the gradient of the maps, not empty, from that of the windows. A cell's sum is in float32,
// in the order of the windows.
void gather_windows_backward(
    const Windows& windows, const void* grad, void* gradient, void* stream);
}  // namespace cuda

}  // namespace cpools
