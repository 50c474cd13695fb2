// Operators on tensors: layout, allocation, and the choice of the device's kernel.
//
// ops.py defines the schemas, the fake kernels and autograd. Nothing here needs Python.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>
#include <torch/version.h>

#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#ifdef CPOOLS_CUDA
#include <c10/cuda/CUDAGuard.h>

#include "cuda_tensors.h"
#endif

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "element.h"
#include "scan.h"

namespace cpools {
namespace {

// channels_last is kept; any other layout is made contiguous.
at::MemoryFormat layout_of(const at::Tensor& x) {
  const bool channels_last = x.dim() == 4 && !x.is_contiguous() &&
      x.is_contiguous(at::MemoryFormat::ChannelsLast);
  return channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

Scan scan_of(const at::Tensor& x, int64_t dim, bool reverse, at::MemoryFormat layout) {
  std::vector<int64_t> order(x.dim());  // dimensions as they lie in memory
  std::iota(order.begin(), order.end(), 0);
  if (layout == at::MemoryFormat::ChannelsLast) order = {0, 2, 3, 1};
  Scan scan{element_of(x, "corner pooling"), 1, x.size(dim), 1, reverse};
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

// Large results on the CPU are backed by huge pages where the system offers them on request:
// otherwise most of the time would go into page faults, three times as much as into the scan.
at::Tensor make_output(const at::Tensor& like, at::MemoryFormat layout) {
  at::Tensor output = at::empty(like.sizes(), like.options().memory_format(layout));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHugePage = 2 << 20;
  if (output.is_cpu()) {
    const auto begin = reinterpret_cast<uintptr_t>(output.data_ptr());
    const uintptr_t end = (begin + output.nbytes()) / kHugePage * kHugePage;
    const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
    // Only advice: without huge pages the call fails and changes nothing.
    if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
  }
#endif
  return output;
}

uint8_t* bytes_of(const at::Tensor& record) { return static_cast<uint8_t*>(record.data_ptr()); }

void forward(
    const Scan& scan, const at::Tensor& input, const at::Tensor& output,
    const at::Tensor& record) {
  if (input.numel() == 0) return;
#ifdef CPOOLS_CUDA
  if (input.is_cuda()) {
    const c10::cuda::CUDAGuard guard(input.device());
    return cuda::forward(
        scan, input.const_data_ptr(), output.data_ptr(), bytes_of(record), current_stream());
  }
#endif
  cpu::forward(scan, input.const_data_ptr(), output.data_ptr(), bytes_of(record));
}

void backward(
    const Scan& scan, const at::Tensor& grad, const at::Tensor& record,
    const at::Tensor& output) {
  if (grad.numel() == 0) return;
#ifdef CPOOLS_CUDA
  if (grad.is_cuda()) {
    const c10::cuda::CUDAGuard guard(grad.device());
    return cuda::backward(
        scan, grad.const_data_ptr(), bytes_of(record), output.data_ptr(), current_stream());
  }
#endif
  cpu::backward(scan, grad.const_data_ptr(), bytes_of(record), output.data_ptr());
}

// The scans of a corner over maps like `x`, and the records that they write or read.
Corner corner_of(
    const at::Tensor& x, const at::Tensor& vertical_record, const at::Tensor& horizontal_record,
    bool reverse, at::MemoryFormat layout) {
  return {scan_of(x, x.dim() - 2, reverse, layout), scan_of(x, x.dim() - 1, reverse, layout),
          bytes_of(vertical_record), bytes_of(horizontal_record)};
}

void forward_sum(
    const Corner& corner, const at::Tensor& vertical, const at::Tensor& horizontal,
    at::Tensor& output) {
  if (output.numel() == 0) return;
#ifdef CPOOLS_CUDA
  if (output.is_cuda()) {
    const c10::cuda::CUDAGuard guard(output.device());
    return cuda::forward_sum(
        corner, vertical.const_data_ptr(), horizontal.const_data_ptr(), output.data_ptr(),
        current_stream());
  }
#endif
  cpu::forward_sum(
      corner, vertical.const_data_ptr(), horizontal.const_data_ptr(), output.data_ptr());
}

void backward_sum(
    const Corner& corner, const at::Tensor& grad, const at::Tensor& vertical_grad,
    const at::Tensor& horizontal_grad) {
  if (grad.numel() == 0) return;
#ifdef CPOOLS_CUDA
  if (grad.is_cuda()) {
    const c10::cuda::CUDAGuard guard(grad.device());
    return cuda::backward_sum(
        corner, grad.const_data_ptr(), vertical_grad.data_ptr(), horizontal_grad.data_ptr(),
        current_stream());
  }
#endif
  const void* from = grad.const_data_ptr();
  cpu::backward(corner.vertical, from, corner.vertical_record, vertical_grad.data_ptr());
  cpu::backward(corner.horizontal, from, corner.horizontal_record, horizontal_grad.data_ptr());
}

int64_t wrapped(int64_t dim, const at::Tensor& x) {
  const int64_t rank = x.dim();
  TORCH_CHECK_INDEX(
      -rank <= dim && dim < rank, "corner pooling along dim ", dim, " of a tensor of ", rank,
      " dimensions");
  return dim < 0 ? dim + rank : dim;
}

std::vector<int64_t> record_sizes(const at::Tensor& x, int64_t dim) {
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes[dim] = (sizes[dim] + 7) / 8;
  return sizes;
}

at::Tensor make_record(const at::Tensor& x, int64_t dim, at::MemoryFormat layout) {
  return at::empty(record_sizes(x, dim), x.options().dtype(at::kByte).memory_format(layout));
}

std::tuple<at::Tensor, at::Tensor> corner_pool(const at::Tensor& x, int64_t dim, bool reverse) {
  dim = wrapped(dim, x);
  const at::MemoryFormat layout = layout_of(x);
  const at::Tensor input = x.contiguous(layout);
  const at::Tensor output = make_output(x, layout), record = make_record(x, dim, layout);
  forward(scan_of(input, dim, reverse, layout), input, output, record);
  return {output, record};
}

void check_record(const at::Tensor& record, const at::Tensor& grad, int64_t dim) {
  TORCH_CHECK_VALUE(
      record.scalar_type() == at::kByte && record.sizes() == record_sizes(grad, dim) &&
          record.device() == grad.device(),
      "the record does not belong to a corner pooling along dim ", dim, " of ", grad.sizes());
}

at::Tensor corner_pool_backward(
    const at::Tensor& grad, const at::Tensor& record, int64_t dim, bool reverse) {
  dim = wrapped(dim, grad);
  check_record(record, grad, dim);
  const at::MemoryFormat layout = layout_of(grad);
  const at::Tensor input = grad.contiguous(layout), output = make_output(grad, layout);
  backward(scan_of(input, dim, reverse, layout), input, record.contiguous(layout), output);
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> corner_pool_sum(
    const at::Tensor& vertical, const at::Tensor& horizontal, bool reverse) {
  TORCH_CHECK_VALUE(
      vertical.dim() >= 2 && vertical.sizes() == horizontal.sizes() &&
          vertical.scalar_type() == horizontal.scalar_type() &&
          vertical.device() == horizontal.device(),
      "the two maps of a corner must agree, not ", vertical.scalar_type(), " ", vertical.sizes(),
      " and ", horizontal.scalar_type(), " ", horizontal.sizes());
  const int64_t rows = vertical.dim() - 2, columns = vertical.dim() - 1;
  const at::MemoryFormat layout = layout_of(vertical);
  const at::Tensor down = vertical.contiguous(layout), along = horizontal.contiguous(layout);
  at::Tensor output = make_output(vertical, layout);
  const at::Tensor down_record = make_record(down, rows, layout);
  const at::Tensor along_record = make_record(along, columns, layout);
  const Corner corner = corner_of(down, down_record, along_record, reverse, layout);
  forward_sum(corner, down, along, output);
  return {output, down_record, along_record};
}

std::tuple<at::Tensor, at::Tensor> corner_pool_sum_backward(
    const at::Tensor& grad, const at::Tensor& vertical_record,
    const at::Tensor& horizontal_record, bool reverse) {
  TORCH_CHECK_VALUE(grad.dim() >= 2, "corner pooling takes [..., H, W], not ", grad.sizes());
  check_record(vertical_record, grad, grad.dim() - 2);
  check_record(horizontal_record, grad, grad.dim() - 1);
  const at::MemoryFormat layout = layout_of(grad);
  const at::Tensor input = grad.contiguous(layout);
  const at::Tensor down_record = vertical_record.contiguous(layout);
  const at::Tensor along_record = horizontal_record.contiguous(layout);
  const at::Tensor down = make_output(grad, layout), along = make_output(grad, layout);
  const Corner corner = corner_of(input, down_record, along_record, reverse, layout);
  backward_sum(corner, input, down, along);
  return {down, along};
}

// native.py searches the file for this text before it loads it.
__attribute__((used)) const char kBuiltFor[] = "cpools_ext for torch " TORCH_VERSION;

std::string describe_build() {
  std::string text = "torch " TORCH_VERSION ", C++ compiler " __VERSION__;
#if defined(__x86_64__)
  text += ", kernels for x86-64 and AVX2";
#endif
#ifdef CPOOLS_CUDA
  text += ", CUDA " + std::to_string(CUDART_VERSION) + " for " + cuda::architectures();
#endif
  return text;
}

std::string cpu_kernels() { return cpu::instruction_set(); }

TORCH_LIBRARY_IMPL(cpools_ext, CompositeImplicitAutograd, m) {
  m.impl("describe_build", TORCH_FN(describe_build));
  m.impl("cpu_kernels", TORCH_FN(cpu_kernels));
}

TORCH_LIBRARY_IMPL(cpools_ext, CPU, m) {
  m.impl("corner_pool", TORCH_FN(corner_pool));
  m.impl("corner_pool_backward", TORCH_FN(corner_pool_backward));
  m.impl("corner_pool_sum", TORCH_FN(corner_pool_sum));
  m.impl("corner_pool_sum_backward", TORCH_FN(corner_pool_sum_backward));
}

#ifdef CPOOLS_CUDA
TORCH_LIBRARY_IMPL(cpools_ext, CUDA, m) {
  m.impl("corner_pool", TORCH_FN(corner_pool));
  m.impl("corner_pool_backward", TORCH_FN(corner_pool_backward));
  m.impl("corner_pool_sum", TORCH_FN(corner_pool_sum));
  m.impl("corner_pool_sum_backward", TORCH_FN(corner_pool_sum_backward));
}
#endif

}  // namespace
}  // namespace cpools
