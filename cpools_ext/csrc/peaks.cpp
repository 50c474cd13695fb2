// The operators of peaks, which have native kernels on CUDA only; peaks.py has the rest of them.

#ifdef CPOOLS_CUDA

#include "peaks.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>

#include "cuda_tensors.h"
#include "element.h"

namespace cpools {
namespace {

Heatmap heatmap_of(const at::Tensor& x) {
  const auto size = [&](int dim) { return static_cast<int>(x.size(dim)); };
  return {
      element_of(x, "the operator of peaks"), x.const_data_ptr(), size(0), size(1), size(2), size(3),
      {x.stride(0), x.stride(1), x.stride(2), x.stride(3)}};
}

at::Tensor peaks(at::TensorList heatmaps, int64_t kernel) {
  TORCH_CHECK_VALUE(!heatmaps.empty(), "there must be a heatmap");
  TORCH_CHECK_VALUE(0 < kernel && kernel % 2 == 1, "kernel ", kernel, " must be odd");
  const at::Tensor& first = heatmaps[0];
  const int64_t cells = first.numel();
  TORCH_CHECK_VALUE(
      first.dim() == 4 && cells < 0x7fffff00, "too large a heatmap, or not [B, C, H, W]: ",
      first.sizes());
  for (const at::Tensor& heatmap : heatmaps) {
    TORCH_CHECK_VALUE(
        heatmap.sizes() == first.sizes() && heatmap.scalar_type() == first.scalar_type() &&
            heatmap.device() == first.device(),
        "the heatmaps must agree, not ", first.sizes(), " and ", heatmap.sizes());
  }
  const int64_t batch = first.size(0), count = static_cast<int64_t>(heatmaps.size());
  const at::Tensor output = at::empty(
      {count, batch, first.size(1) * first.size(2) * first.size(3)},
      first.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous));
  if (cells == 0) return output;
  const c10::cuda::CUDAGuard guard(first.device());
  // No cell is further away than the longer side.
  const int64_t reach = std::min(kernel / 2, std::max(first.size(2), first.size(3)));
  for (int64_t i = 0; i < count; ++i) {
    cuda::peaks(
        heatmap_of(heatmaps[i]), static_cast<int>(reach), output.data_ptr<float>() + i * cells,
        current_stream());
  }
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> top_peaks(
    at::TensorList heatmaps, int64_t k, int64_t kernel) {
  const at::Tensor values = peaks(heatmaps, kernel);
  const c10::cuda::CUDAGuard guard(values.device());
  auto [scores, numbers] = values.topk(std::min(k, values.size(2)));
  if (const int64_t missing = k - scores.size(2); missing > 0) {
    scores = at::constant_pad_nd(scores, {0, missing}, -std::numeric_limits<double>::infinity());
    numbers = at::constant_pad_nd(numbers, {0, missing});
  }
  const at::Tensor labels = at::empty_like(numbers), cells = at::empty_like(numbers);
  if (numbers.numel() > 0) {
    cuda::place_peaks(
        numbers.numel(), heatmaps[0].size(2) * heatmaps[0].size(3), scores.const_data_ptr<float>(),
        numbers.const_data_ptr<int64_t>(), labels.data_ptr<int64_t>(), cells.data_ptr<int64_t>(),
        current_stream());
  }
  return {scores, labels, cells};
}

TORCH_LIBRARY_IMPL(cpools_ext, CUDA, m) {
  m.impl("peaks", TORCH_FN(peaks));
  m.impl("top_peaks", TORCH_FN(top_peaks));
}

}  // namespace
}  // namespace cpools

#endif
