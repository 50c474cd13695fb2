// The operators of batch norm, which have native kernels on CUDA only; batch_norm.py has the rest.

#ifdef CPOOLS_CUDA

#include "batch_norm.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <tuple>

#include "cuda_tensors.h"
#include "element.h"

namespace cpools {
namespace {

using Optional = std::optional<at::Tensor>;

void check_values(const at::Tensor& x, const at::Tensor& like) {
  TORCH_CHECK_VALUE(
      x.sizes() == like.sizes() && x.scalar_type() == like.scalar_type() &&
          x.device() == like.device() && x.is_contiguous(kChannelsLast),
      "the tensors of a batch norm must agree and lie in channels_last");
}

void check_channels(const at::Tensor& values, const at::Tensor& x) {
  TORCH_CHECK_VALUE(
      values.scalar_type() == at::kFloat && values.numel() == x.size(1) && values.is_contiguous() &&
          values.device() == x.device(),
      "a batch norm has float32 [C] weights, biases and statistics");
}

// Values that kernels read four at a time, which a part of a larger tensor need not allow.
at::Tensor aligned(const at::Tensor& values, const at::Tensor& x) {
  check_channels(values, x);
  const bool fits = reinterpret_cast<uintptr_t>(values.const_data_ptr()) % 16 == 0;
  return fits ? values : values.clone();
}

Normalization normalization_of(
    const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& mean,
    const at::Tensor& inverse_deviation, bool relu, double ceiling) {
  TORCH_CHECK_VALUE(x.dim() == 4 && x.numel() > 0, "batch norm is for [B, C, H, W]");
  TORCH_CHECK_VALUE(
      x.scalar_type() != at::kDouble && x.size(1) * x.element_size() % 16 == 0,
      "the native batch norm takes channels of 16 bytes together, and no float64");
  return {
      element_of(x, "batch norm"),
      x.const_data_ptr(),
      x.numel() / x.size(1),
      static_cast<int>(x.size(1)),
      weight.const_data_ptr<float>(),
      bias.const_data_ptr<float>(),
      const_cast<float*>(mean.const_data_ptr<float>()),
      const_cast<float*>(inverse_deviation.const_data_ptr<float>()),
      relu,
      static_cast<float>(ceiling)};
}

float* running_values(const Optional& values, const at::Tensor& x) {
  if (values) check_channels(*values, x);
  return values ? values->data_ptr<float>() : nullptr;
}

at::Tensor floats(const at::Tensor& x, int64_t count) {
  return at::empty({count}, x.options().dtype(at::kFloat).memory_format(std::nullopt));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> batch_norm(
    const at::Tensor& x, const Optional& added, const at::Tensor& weights, const at::Tensor& biases,
    const Optional& running_mean, const Optional& running_var, const Optional& batches,
    double momentum, double eps, bool relu, double ceiling) {
  check_values(x, x);
  if (added) check_values(*added, x);
  const c10::cuda::CUDAGuard guard(x.device());
  const at::Tensor mean = floats(x, x.size(1)), inverse_deviation = floats(x, x.size(1));
  const at::Tensor weight = aligned(weights, x), bias = aligned(biases, x);
  const Normalization norm =
      normalization_of(x, weight, bias, mean, inverse_deviation, relu, ceiling);
  TORCH_CHECK_VALUE(norm.rows > 1, "statistics need more than one value a channel");
  TORCH_CHECK_VALUE(!batches || batches->scalar_type() == at::kLong, "batches are int64");
  const Running running{
      running_values(running_mean, x), running_values(running_var, x),
      batches ? batches->data_ptr<int64_t>() : nullptr, static_cast<float>(momentum)};
  const at::Tensor scratch = floats(x, cuda::batch_norm_scratch(norm));
  cuda::batch_norm_statistics(norm, running, eps, scratch.data_ptr<float>(), current_stream());
  const at::Tensor y = at::empty_like(x);
  cuda::batch_norm_apply(
      norm, added ? added->const_data_ptr() : nullptr, y.mutable_data_ptr(), current_stream());
  return {y, mean, inverse_deviation};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> batch_norm_backward(
    const at::Tensor& grad, const at::Tensor& x, const Optional& y, const at::Tensor& weights,
    const at::Tensor& biases, const at::Tensor& means, const at::Tensor& inverse_deviations,
    bool relu, double ceiling) {
  const at::Tensor from = grad.contiguous(kChannelsLast);
  check_values(x, x);
  check_values(from, x);
  if (y) check_values(*y, x);
  const c10::cuda::CUDAGuard guard(x.device());
  const at::Tensor weight = aligned(weights, x), bias = aligned(biases, x);
  const at::Tensor mean = aligned(means, x), inverse_deviation = aligned(inverse_deviations, x);
  const Normalization norm =
      normalization_of(x, weight, bias, mean, inverse_deviation, relu, ceiling);
  const bool masks = relu && y.has_value();
  const at::Tensor masked = masks ? at::empty_like(x) : from;
  const at::Tensor weight_grad = floats(x, norm.channels), bias_grad = floats(x, norm.channels);
  const at::Tensor scratch = floats(x, cuda::batch_norm_scratch(norm));
  cuda::batch_norm_sums(
      norm, from.const_data_ptr(), masks ? y->const_data_ptr() : nullptr,
      masks ? masked.mutable_data_ptr() : nullptr, scratch.data_ptr<float>(),
      bias_grad.data_ptr<float>(), weight_grad.data_ptr<float>(), current_stream());
  const at::Tensor x_grad = at::empty_like(x);
  cuda::batch_norm_gradient(
      norm, masked.const_data_ptr(), masks, bias_grad.const_data_ptr<float>(),
      weight_grad.const_data_ptr<float>(), x_grad.mutable_data_ptr(), current_stream());
  return {x_grad, masked, weight_grad, bias_grad};
}

TORCH_LIBRARY_IMPL(cpools_ext, CUDA, m) {
  m.impl("batch_norm", TORCH_FN(batch_norm));
  m.impl("batch_norm_backward", TORCH_FN(batch_norm_backward));
}

}  // namespace
}  // namespace cpools

#endif
