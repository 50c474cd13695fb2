// Interface of the CUDA kernels of batch norm: plain numbers and pointers, no tensors.
#pragma once

#include <cstdint>

#include "scan.h"

namespace cpools {

// Values of `rows` cells, each of `channels` neighbouring elements, and what normalises them: a
// weight and a bias a channel; and the mean and 1 / deviation of each channel, which `cuda::
// normalization` writes and the others read. What follows: a ReLU that ends at `ceiling`, or nothing.
struct Normalization {
  Element element;  // not float64
  const void* x;
  int64_t rows;
  int channels;  // a multiple of 16 bytes
  const float* weight;
  const float* bias;
  float* mean;
  float* inverse_deviation;
  bool relu;
  float ceiling;
};

// Running statistics, which are moved towards those of a batch; pointers may be null.
struct Running {
  float* mean;
  float* variance;  // unbiased
  int64_t* batches;  // their number, to which one is added
  float momentum;
};

namespace cuda {

// Number of floats that each of the functions below needs to add up in `scratch`.
int64_t batch_norm_scratch(const Normalization& norm);

// All run on `stream`, a cudaStream_t of the current device.

void batch_norm_statistics(
    const Normalization& norm, const Running& running, double epsilon, float* scratch, void* stream);

// Writes `y`, with `added` before the ReLU unless it is null.
void batch_norm_apply(const Normalization& norm, const void* added, void* y, void* stream);

// Writes the gradients of the bias and of the weight. Where something was added before a ReLU, `y`
// is what that gave, and `masked` gets the gradient of what it took; else both are null.
void batch_norm_sums(
    const Normalization& norm, const void* grad, const void* y, void* masked, float* scratch,
    float* bias_grad, float* weight_grad, void* stream);

// Writes the gradient of x. `grad` is that of the output, or `masked`, where no ReLU is left.
void batch_norm_gradient(
    const Normalization& norm, const void* grad, bool masked, const float* bias_grad,
    const float* weight_grad, void* x_grad, void* stream);

}  // namespace cuda
}  // namespace cpools
