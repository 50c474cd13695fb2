// Soft-NMS of all classes of an image in one call.
//
// soft_nms.py defines the schema and documents the operator; soft_nms_reference.py is its twin.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

namespace cpools {
namespace {

constexpr int kScore = 4, kCornerScores = 5, kColumns = 7;  // a row: box, score, corner scores
using Row = float[kColumns];

enum Method : int64_t { kHard, kLinear, kGaussian };

struct Rule {
  int64_t method;
  float nms_threshold, sigma, score_threshold;
  std::optional<float> weight_exp;  // boxes are merged if it is given
  bool swap_scores;

  // Number of columns, counted from the first, that change rows together.
  int moving() const { return swap_scores ? kColumns : kCornerScores; }

  // Factor of the score of a box that overlaps a better one.
  float factor(float iou) const {
    if (method == kGaussian) return std::exp(-(iou * iou) / sigma);
    if (!(iou > nms_threshold)) return 1;
    return method == kLinear ? 1 - iou : 0;
  }
};

// The mean of corners, each weighted by its score times the scale of its box.
struct Merging {
  float sums[4] = {}, weights[2] = {};

  void add(const Row& row, float scale) {
    for (int corner = 0; corner < 2; ++corner) {
      const float weight = row[kCornerScores + corner] * scale;
      weights[corner] += weight;
      for (int side = 2 * corner; side < 2 * corner + 2; ++side) sums[side] += weight * row[side];
    }
  }

  void store(Row& row) const {
    for (int side = 0; side < 4; ++side) {
      if (weights[side / 2] > 0) row[side] = sums[side] / weights[side / 2];
    }
  }
};

float area(const Row& box) { return (box[2] - box[0] + 1) * (box[3] - box[1] + 1); }

float iou_of(const Row& a, const Row& b) {
  const float width = std::min(a[2], b[2]) - std::max(a[0], b[0]) + 1;
  const float height = std::min(a[3], b[3]) - std::max(a[1], b[1]) + 1;
  if (!(width > 0 && height > 0)) return 0;
  const float overlap = width * height;
  return overlap / (area(a) + area(b) - overlap);
}

bool less(const Row& a, const Row& b) { return a[kScore] < b[kScore]; }

// Suppresses the detections of one class in place. Returns the number kept; they come first.
int64_t suppress_class(Row* rows, int64_t count, const Rule& rule) {
  const int moving = rule.moving();
  int64_t active = count;
  for (int64_t first = 0; first < active; ++first) {
    Row& box = rows[first];
    Row& best = *std::max_element(rows + first, rows + active, less);
    if (&best != &box) std::swap_ranges(box, box + moving, best);
    Merging merging;
    merging.add(box, 1);
    for (int64_t i = first + 1; i < active;) {
      Row& other = rows[i];
      const float iou = iou_of(box, other);
      if (iou > 0) {
        const float factor = rule.factor(iou);
        if (rule.weight_exp) merging.add(other, std::pow(1 - factor, *rule.weight_exp));
        other[kScore] *= factor;
        if (other[kScore] < rule.score_threshold) {
          --active;  // the last box fills the gap, and is visited there
          if (i < active) std::copy_n(rows[active], moving, other);
          continue;
        }
      }
      ++i;
    }
    if (rule.weight_exp) merging.store(box);
  }
  return active;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> soft_nms(
    const at::Tensor& detections, const at::Tensor& labels, int64_t method, double nms_threshold,
    double sigma, double score_threshold, std::optional<double> weight_exp, bool swap_scores) {
  const int64_t count = detections.size(0);
  TORCH_CHECK_VALUE(
      detections.scalar_type() == at::kFloat && detections.dim() == 2 &&
          detections.size(1) == kColumns,
      "soft-NMS takes detections float32 [n, 7], not ", detections.scalar_type(), " ",
      detections.sizes());
  TORCH_CHECK_VALUE(
      labels.scalar_type() == at::kLong && labels.dim() == 1 && labels.size(0) == count &&
          labels.is_cpu(),
      "soft-NMS of ", count, " detections takes labels int64 [", count, "] on the CPU, not ",
      labels.scalar_type(), " ", labels.sizes(), " on ", labels.device());
  TORCH_CHECK_VALUE(kHard <= method && method <= kGaussian, "soft-NMS has no method ", method);
  Rule rule{
      method, static_cast<float>(nms_threshold), static_cast<float>(sigma),
      static_cast<float>(score_threshold), std::nullopt, swap_scores};
  if (weight_exp) rule.weight_exp = static_cast<float>(*weight_exp);

  const at::Tensor input = detections.contiguous(), input_labels = labels.contiguous();
  const auto* from = reinterpret_cast<const Row*>(input.const_data_ptr<float>());
  const int64_t* label_of = input_labels.const_data_ptr<int64_t>();
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [label_of](int64_t a, int64_t b) {
    return label_of[a] < label_of[b];
  });

  const at::Tensor rows = at::empty({count, kColumns}, detections.options());
  const at::Tensor sorted_labels = at::empty({count}, labels.options());
  const at::Tensor kept = at::empty({count}, labels.options().dtype(at::kBool));
  auto* to = reinterpret_cast<Row*>(rows.mutable_data_ptr<float>());
  int64_t* label_to = sorted_labels.mutable_data_ptr<int64_t>();
  bool* flags = kept.mutable_data_ptr<bool>();
  for (int64_t begin = 0, end = 0; begin < count; begin = end) {
    for (; end < count && label_of[order[end]] == label_of[order[begin]]; ++end) {
      std::copy_n(from[order[end]], kColumns, to[end]);
      label_to[end] = label_of[order[end]];
    }
    const int64_t first_dropped = begin + suppress_class(to + begin, end - begin, rule);
    std::fill(flags + begin, flags + first_dropped, true);
    std::fill(flags + first_dropped, flags + end, false);
  }
  return {rows, sorted_labels, kept};
}

TORCH_LIBRARY_IMPL(cpools_ext, CPU, m) {
  m.impl("soft_nms", TORCH_FN(soft_nms));
}

}  // namespace
}  // namespace cpools
