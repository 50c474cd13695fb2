// The operators of the focal loss, which have native kernels on CUDA only; focal.py has the rest.

#ifdef CPOOLS_CUDA

#include "focal.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "cuda_tensors.h"
#include "element.h"

namespace cpools {
namespace {

constexpr int64_t kCellsOfBlock = 1024;  // at least; a block takes more where there are many cells
constexpr int64_t kMostBlocks = 1056;    // 8 on each of the processors of an H100

// Tensors as the kernels read them, in the layout of the logits.
struct Inputs {
  at::Tensor logits, target, valid;  // the last may be undefined

  FocalMaps maps() const {
    const auto* kept =
        valid.defined() ? static_cast<const uint8_t*>(valid.const_data_ptr()) : nullptr;
    return {element_of(logits, "the focal loss"), logits.const_data_ptr(),
            target.const_data_ptr<float>(), kept, logits.numel()};
  }
  int blocks() const {
    const int64_t wanted = (logits.numel() + kCellsOfBlock - 1) / kCellsOfBlock;
    return static_cast<int>(std::min(wanted, kMostBlocks));
  }
};

Inputs inputs_of(
    const at::Tensor& logits, const at::Tensor& target, const std::optional<at::Tensor>& valid) {
  TORCH_CHECK_VALUE(
      logits.sizes() == target.sizes() && logits.device() == target.device(),
      "logits and target must agree, not ", logits.sizes(), " and ", target.sizes());
  const at::MemoryFormat layout = logits.suggest_memory_format();
  // Another precision than half is computed in float32.
  const bool half = logits.scalar_type() == at::kBFloat16 || logits.scalar_type() == at::kHalf;
  Inputs inputs;
  inputs.logits = (half ? logits : logits.to(at::kFloat)).contiguous(layout);
  inputs.target = target.to(at::kFloat).contiguous(layout);
  if (valid.has_value()) {
    TORCH_CHECK_VALUE(
        valid->sizes() == logits.sizes() && valid->device() == logits.device(),
        "logits and valid must agree, not ", logits.sizes(), " and ", valid->sizes());
    const bool bytes = valid->scalar_type() == at::kBool || valid->scalar_type() == at::kByte;
    inputs.valid = (bytes ? *valid : valid->ne(0)).contiguous(layout);
  }
  return inputs;
}

std::tuple<at::Tensor, at::Tensor> focal_loss(
    const at::Tensor& logits, const at::Tensor& target, const std::optional<at::Tensor>& valid) {
  const c10::cuda::CUDAGuard guard(logits.device());
  const Inputs inputs = inputs_of(logits, target, valid);
  const at::TensorOptions options = at::device(logits.device()).dtype(at::kFloat);
  if (logits.numel() == 0) return {at::zeros({}, options), at::ones({}, options)};
  const at::Tensor loss = at::empty({}, options), divisor = at::empty({}, options);
  const at::Tensor partial = at::empty({2 * inputs.blocks()}, options);
  cuda::focal_loss(
      inputs.maps(), inputs.blocks(), partial.data_ptr<float>(), loss.data_ptr<float>(),
      divisor.data_ptr<float>(), current_stream());
  return {loss, divisor};
}

at::Tensor focal_loss_backward(
    const at::Tensor& upstream, const at::Tensor& logits, const at::Tensor& target,
    const std::optional<at::Tensor>& valid, const at::Tensor& divisor) {
  TORCH_CHECK_VALUE(
      upstream.numel() == 1 && upstream.scalar_type() == at::kFloat &&
          upstream.device() == logits.device() && divisor.numel() == 1 &&
          divisor.scalar_type() == at::kFloat && divisor.device() == logits.device(),
      "the gradient of the loss, and its divisor, are numbers in float32 on ", logits.device());
  const c10::cuda::CUDAGuard guard(logits.device());
  const Inputs inputs = inputs_of(logits, target, valid);
  const at::Tensor gradient = at::empty_like(inputs.logits);
  if (logits.numel() > 0) {
    cuda::focal_loss_backward(
        inputs.maps(), inputs.blocks(), upstream.const_data_ptr<float>(),
        divisor.const_data_ptr<float>(), gradient.data_ptr(), current_stream());
  }
  return gradient.to(logits.scalar_type());
}

TORCH_LIBRARY_IMPL(cpools_ext, CUDA, m) {
  m.impl("focal_loss", TORCH_FN(focal_loss));
  m.impl("focal_loss_backward", TORCH_FN(focal_loss_backward));
}

}  // namespace
}  // namespace cpools

#endif
