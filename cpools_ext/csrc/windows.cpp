// The operators of windows, which have native kernels on CUDA only; windows.py has the rest.

#ifdef CPOOLS_CUDA

#include "windows.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <limits>

#include "cuda_tensors.h"
#include "element.h"

namespace cpools {
namespace {

// `x` has the type and channels of the maps; `middles` are contiguous.
Windows windows_of(
    const at::Tensor& x, const at::Tensor& middles, int64_t height, int64_t width, int64_t side) {
  TORCH_CHECK_VALUE(
      x.dim() == 4 && x.scalar_type() != at::kDouble,
      "windows are read in [B, D, H, W] of at most 32 bits, not in ", x.scalar_type(), " ",
      x.sizes());
  TORCH_CHECK_VALUE(
      middles.dim() == 2 && middles.scalar_type() == at::kLong && middles.device() == x.device(),
      "the middles of windows are int64 [B, M] on ", x.device(), ", not ", middles.scalar_type(),
      " ", middles.sizes(), " on ", middles.device());
  TORCH_CHECK_VALUE(side > 0 && side % 2 == 1, "the side of windows is odd, not ", side);
  // Numbers of a map's cells, of a window's values, and of windows are int in the kernels.
  constexpr int64_t most = std::numeric_limits<int>::max();
  TORCH_CHECK_VALUE(
      height > 0 && width > 0 && height <= most / width && x.size(1) <= most / (2 * side * side) &&
          middles.numel() <= most,
      "these are too many windows, or they are too large");
  return {
      element_of(x, "reading windows"),
      middles.size(0),
      middles.size(1),
      static_cast<int>(height),
      static_cast<int>(width),
      static_cast<int>(x.size(1)),
      static_cast<int>(side),
      middles.const_data_ptr<int64_t>()};
}

at::Tensor gather_windows(const at::Tensor& maps, const at::Tensor& index, int64_t side) {
  TORCH_CHECK_VALUE(
      maps.dim() == 4 && index.dim() == 2 && maps.size(0) == index.size(0),
      "windows are read in [B, D, H, W] at [B, M], not in ", maps.sizes(), " at ", index.sizes());
  const c10::cuda::CUDAGuard guard(maps.device());
  const at::Tensor from = maps.contiguous(kChannelsLast), middles = index.contiguous();
  const Windows windows = windows_of(from, middles, maps.size(2), maps.size(3), side);
  const at::Tensor output = at::empty(
      {index.numel(), side, side, maps.size(1)},
      maps.options().memory_format(at::MemoryFormat::Contiguous));
  if (output.numel() > 0) {
    cuda::gather_windows(windows, from.const_data_ptr(), output.data_ptr(), current_stream());
  }
  return output.permute({0, 3, 1, 2});
}

at::Tensor gather_windows_backward(
    const at::Tensor& grad, const at::Tensor& index, at::IntArrayRef size) {
  TORCH_CHECK_VALUE(
      grad.dim() == 4 && grad.size(0) == index.numel() && grad.size(2) == grad.size(3),
      "the gradient of ", index.numel(), " windows is [B * M, D, side, side], not ", grad.sizes());
  const c10::cuda::CUDAGuard guard(grad.device());
  const at::Tensor from = grad.contiguous(kChannelsLast), middles = index.contiguous();
  const Windows windows = windows_of(from, middles, size[0], size[1], grad.size(3));
  const at::Tensor gradient = at::empty(
      {index.size(0), grad.size(1), size[0], size[1]},
      grad.options().memory_format(kChannelsLast));
  if (gradient.numel() > 0) {
    cuda::gather_windows_backward(
        windows, from.const_data_ptr(), gradient.data_ptr(), current_stream());
  }
  return gradient;
}

TORCH_LIBRARY_IMPL(cpools_ext, CUDA, m) {
  m.impl("gather_windows", TORCH_FN(gather_windows));
  m.impl("gather_windows_backward", TORCH_FN(gather_windows_backward));
}

}  // namespace
}  // namespace cpools

#endif
