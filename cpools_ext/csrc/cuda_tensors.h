// What the operators of CUDA share.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAStream.h>

namespace cpools {

constexpr auto kChannelsLast = at::MemoryFormat::ChannelsLast;

inline void* current_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

}  // namespace cpools
