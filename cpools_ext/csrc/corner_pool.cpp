// The operators' tensor side: layout, allocation, and the choice of the device's kernel.
//
// ops.py defines the schemas, the fake kernels and autograd. Nothing here needs Python.

#include <ATen/ATen.h>
#include <torch/library.h>

#include <numeric>
#include <tuple>
#include <vector>

#ifdef CPOOLS_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

#include "scan.h"

namespace cpools {
namespace {

// Kept: channels_last. Everything else is taken, or made, contiguous.
at::MemoryFormat layout_of(const at::Tensor& x) {
  const bool channels_last = x.dim() == 4 && !x.is_contiguous() &&
      x.is_contiguous(at::MemoryFormat::ChannelsLast);
  return channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

Element element_of(const at::Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat: return Element::kFloat32;
    case at::kDouble: return Element::kFloat64;
    case at::kBFloat16: return Element::kBFloat16;
    case at::kHalf: return Element::kFloat16;
    default:
      TORCH_CHECK_VALUE(
          false, "corner pooling takes float32, float64, bfloat16 or float16, not ",
          x.scalar_type());
  }
}

Scan scan_of(const at::Tensor& x, int64_t dim, bool reverse, at::MemoryFormat layout) {
  std::vector<int64_t> order(x.dim());  // dimensions as they lie in memory
  std::iota(order.begin(), order.end(), 0);
  if (layout == at::MemoryFormat::ChannelsLast) order = {0, 2, 3, 1};
  Scan scan{element_of(x), 1, x.size(dim), 1, reverse};
  int64_t* size = &scan.outer;
  for (const int64_t i : order) {
    if (i == dim) {
      size = &scan.inner;
    } else {
      *size *= x.size(i);
    }
  }
  return scan;
}

void launch(
    const at::Tensor& x, const Scan& scan, bool backward, const at::Tensor& output,
    const at::Tensor& record) {
  auto* bits = static_cast<uint8_t*>(record.data_ptr());
#ifdef CPOOLS_CUDA
  if (x.is_cuda()) {
    const c10::cuda::CUDAGuard guard(x.device());
    void* stream = c10::cuda::getCurrentCUDAStream().stream();
    if (!backward) {
      return cuda::forward(
          scan, x.const_data_ptr(), output.data_ptr(), bits, nullptr, stream);
    }
    const at::Tensor scratch = at::empty({cuda::scratch_bytes(scan)}, record.options());
    return cuda::backward(
        scan, x.const_data_ptr(), bits, output.data_ptr(), scratch.data_ptr(), stream);
  }
#endif
  if (backward) return cpu::backward(scan, x.const_data_ptr(), bits, output.data_ptr());
  cpu::forward(scan, x.const_data_ptr(), output.data_ptr(), bits);
}

int64_t wrapped(int64_t dim, const at::Tensor& x) {
  const int64_t rank = x.dim();
  TORCH_CHECK_INDEX(
      -rank <= dim && dim < rank, "corner pooling along dim ", dim, " of a tensor of ", rank,
      " dimensions");
  return dim < 0 ? dim + rank : dim;
}

std::tuple<at::Tensor, at::Tensor> corner_pool(const at::Tensor& x, int64_t dim, bool reverse) {
  dim = wrapped(dim, x);
  const at::MemoryFormat layout = layout_of(x);
  const at::Tensor input = x.contiguous(layout);
  const Scan scan = scan_of(input, dim, reverse, layout);
  std::vector<int64_t> sizes = x.sizes().vec();
  const at::Tensor output = at::empty(sizes, x.options().memory_format(layout));
  sizes[dim] = scan.record_length();
  const at::Tensor record = at::empty(sizes, x.options().dtype(at::kByte).memory_format(layout));
  if (x.numel() > 0) launch(input, scan, false, output, record);
  return {output, record};
}

at::Tensor corner_pool_backward(
    const at::Tensor& grad, const at::Tensor& record, int64_t dim, bool reverse) {
  dim = wrapped(dim, grad);
  const at::MemoryFormat layout = layout_of(grad);
  const at::Tensor input = grad.contiguous(layout);
  const Scan scan = scan_of(input, dim, reverse, layout);
  std::vector<int64_t> sizes = grad.sizes().vec();
  sizes[dim] = scan.record_length();
  TORCH_CHECK_VALUE(
      record.scalar_type() == at::kByte && record.sizes() == sizes &&
          record.device() == grad.device(),
      "the record does not belong to a corner pooling along dim ", dim, " of ", grad.sizes());
  const at::Tensor output = at::empty(grad.sizes(), grad.options().memory_format(layout));
  if (grad.numel() > 0) launch(input, scan, true, output, record.contiguous(layout));
  return output;
}

TORCH_LIBRARY_IMPL(cpools_ext, CPU, m) {
  m.impl("corner_pool", TORCH_FN(corner_pool));
  m.impl("corner_pool_backward", TORCH_FN(corner_pool_backward));
}

#ifdef CPOOLS_CUDA
TORCH_LIBRARY_IMPL(cpools_ext, CUDA, m) {
  m.impl("corner_pool", TORCH_FN(corner_pool));
  m.impl("corner_pool_backward", TORCH_FN(corner_pool_backward));
}
#endif

}  // namespace
}  // namespace cpools
