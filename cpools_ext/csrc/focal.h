// Interface of the CUDA kernels of the focal loss: plain numbers and pointers, no tensors.
#pragma once

#include <cstdint>

#include "scan.h"

namespace cpools {

// Heatmaps that lie in memory in the same order, without gaps.
struct FocalMaps {
  Element element;  // of the logits and of their gradient; not float64
  const void* logits;
  const float* target;
  const uint8_t* valid;  // 0 where a cell costs nothing; or null
  int64_t cells;         // above 0
};

namespace cuda {
// These run on `stream`, a cudaStream_t of the current device, in `blocks` blocks, each of which
// takes as many cells as the others. The loss depends on their number, but only by rounding.

// Writes the loss, and the number of positive cells, at least 1, by which it was divided. `partial`
// is memory for 2 * blocks numbers.
void focal_loss(
    const FocalMaps& maps, int blocks, float* partial, float* loss, float* divisor, void* stream);
// Writes the gradient of the logits from that of the loss.
void focal_loss_backward(
    const FocalMaps& maps, int blocks, const float* upstream, const float* divisor,
    void* gradient, void* stream);
}  // namespace cuda

}  // namespace cpools
