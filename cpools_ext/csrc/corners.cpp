// The operators of corners, which have native kernels on CUDA only; corners.py has the rest.

#ifdef CPOOLS_CUDA

#include "corners.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "cuda_tensors.h"
#include "element.h"

namespace cpools {
namespace {

// Checks a tensor of `numbers` values for each corner of `like` [2, B, K], and makes it contiguous.
at::Tensor of_corners(
    const at::Tensor& x, const at::Tensor& like, at::ScalarType type, int64_t numbers = 1) {
  TORCH_CHECK_VALUE(
      like.dim() == 3 && like.size(0) == 2 && x.sizes().slice(0, 3) == like.sizes() &&
          x.numel() == like.numel() * numbers && x.device() == like.device() &&
          x.scalar_type() == type,
      "corners are [2, B, K] with ", numbers, " of ", type, ", not ", x.scalar_type(), " ",
      x.sizes());
  return x.contiguous();
}

// The vectors of `kind`, 0 or 1, at corners whose cells are given.
Vectors vectors_of(at::TensorList maps, int64_t kind, const at::Tensor& cells, int64_t channels) {
  TORCH_CHECK_VALUE(maps.size() == 2, "there must be a map of each kind");
  const at::Tensor& x = maps[kind];
  const int64_t images = cells.size(1), count = cells.size(2);
  const bool whole = x.dim() == 4;
  TORCH_CHECK_VALUE(
      (whole || (x.dim() == 3 && x.size(1) == count)) && x.size(0) == images &&
          x.size(whole ? 1 : 2) == channels && x.device() == cells.device(),
      "maps of ", images, " images with ", count, " corners and ", channels,
      " channels are [B, D, H, W] or [B, K, D], not ", x.sizes());
  const Element element = element_of(x, "reading corners");
  const void* data = x.const_data_ptr();
  if (whole) return {element, data, x.size(3), x.stride(0), x.stride(1), x.stride(2), x.stride(3), 0};
  return {element, data, 1, x.stride(0), x.stride(2), 0, 0, x.stride(1)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> read_corners(
    const at::Tensor& logits, const at::Tensor& cells, at::TensorList offsets,
    at::IntArrayRef size, bool no_border) {
  const at::Tensor values = of_corners(logits, cells, at::kFloat);
  const at::Tensor places = of_corners(cells, cells, at::kLong);
  const Vectors tl = vectors_of(offsets, 0, cells, 2), br = vectors_of(offsets, 1, cells, 2);
  const int64_t images = cells.size(1), count = cells.size(2);
  const at::Tensor points = at::empty({2, images, count, 2}, values.options());
  const at::Tensor scores = at::empty({2, images, count}, values.options());
  const at::Tensor found = at::empty({2, images, count}, values.options().dtype(at::kBool));
  if (cells.numel() == 0) return {points, scores, found};
  const c10::cuda::CUDAGuard guard(cells.device());
  cuda::read_corners(
      images, count, values.const_data_ptr<float>(), places.const_data_ptr<int64_t>(), tl, br,
      {size[0], size[1], no_border}, points.data_ptr<float>(), scores.data_ptr<float>(),
      found.data_ptr<bool>(), current_stream());
  return {points, scores, found};
}

at::Tensor score_pairs(
    const at::Tensor& points, const at::Tensor& scores, const at::Tensor& labels,
    const at::Tensor& cells, const at::Tensor& found, at::TensorList embeddings,
    double max_distance) {
  const at::Tensor positions = of_corners(points, scores, at::kFloat, 2);
  const at::Tensor values = of_corners(scores, scores, at::kFloat);
  const at::Tensor classes = of_corners(labels, scores, at::kLong);
  const at::Tensor places = of_corners(cells, scores, at::kLong);
  const at::Tensor present = of_corners(found, scores, at::kBool);
  const Vectors tl = vectors_of(embeddings, 0, cells, 1), br = vectors_of(embeddings, 1, cells, 1);
  const int64_t images = cells.size(1), count = cells.size(2);
  const at::Tensor pairs = at::empty({images, count, count}, values.options());
  if (pairs.numel() == 0) return pairs;
  const c10::cuda::CUDAGuard guard(cells.device());
  cuda::score_pairs(
      {images, count, positions.const_data_ptr<float>(), values.const_data_ptr<float>(),
       classes.const_data_ptr<int64_t>(), places.const_data_ptr<int64_t>(),
       present.const_data_ptr<bool>()},
      tl, br, static_cast<float>(max_distance), pairs.data_ptr<float>(), current_stream());
  return pairs;
}

at::Tensor best_pairs(
    const at::Tensor& points, const at::Tensor& scores, const at::Tensor& labels,
    const at::Tensor& pairs, int64_t kept) {
  const at::Tensor positions = of_corners(points, scores, at::kFloat, 2);
  const at::Tensor values = of_corners(scores, scores, at::kFloat);
  const at::Tensor classes = of_corners(labels, scores, at::kLong);
  const int64_t images = scores.size(1), count = scores.size(2);
  TORCH_CHECK_VALUE(
      pairs.sizes() == at::IntArrayRef({images, count, count}) &&
          pairs.scalar_type() == at::kFloat && pairs.device() == scores.device(),
      "pairs are float32 [B, K, K], not ", pairs.scalar_type(), " ", pairs.sizes());
  const c10::cuda::CUDAGuard guard(scores.device());
  const auto [highest, numbers] = pairs.flatten(1).topk(kept);
  const at::Tensor rows = at::empty({images, kept, 8}, values.options());
  if (rows.numel() == 0) return rows;
  cuda::join_pairs(
      {images, count, positions.const_data_ptr<float>(), values.const_data_ptr<float>(),
       classes.const_data_ptr<int64_t>(), nullptr, nullptr},
      kept, highest.const_data_ptr<float>(), numbers.const_data_ptr<int64_t>(),
      rows.data_ptr<float>(), current_stream());
  return rows;
}

TORCH_LIBRARY_IMPL(cpools_ext, CUDA, m) {
  m.impl("read_corners", TORCH_FN(read_corners));
  m.impl("score_pairs", TORCH_FN(score_pairs));
  m.impl("best_pairs", TORCH_FN(best_pairs));
}

}  // namespace
}  // namespace cpools

#endif
