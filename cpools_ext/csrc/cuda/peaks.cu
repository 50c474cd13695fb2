// The kernels of peaks: a thread a cell, each of which looks at its window, and a thread a peak.

#include <c10/cuda/CUDAException.h>

#include "../peaks.h"
#include "values.cuh"

namespace cpools::cuda {
namespace {

constexpr int kCells = 256;  // threads in a block

struct Place {
  int image, label, y, x;
};

// The cells in the order in which they lie in memory, so that neighbouring threads read neighbouring
// elements: `classes_first` for channels_last.
__device__ inline Place place_of(int number, const Heatmap& map, bool classes_first) {
  Place place;
  if (classes_first) {
    place.label = number % map.classes;
    number /= map.classes;
  }
  place.x = number % map.width;
  number /= map.width;
  place.y = number % map.height;
  number /= map.height;
  if (!classes_first) {
    place.label = number % map.classes;
    number /= map.classes;
  }
  place.image = number;
  return place;
}

template <typename T>
__global__ void __launch_bounds__(kCells) find_peaks(
    Heatmap map, int cells, int reach, bool classes_first, float* peaks) {
  const unsigned number = blockIdx.x * blockDim.x + threadIdx.x;
  if (number >= static_cast<unsigned>(cells)) return;
  const Place place = place_of(static_cast<int>(number), map, classes_first);
  const T* plane = static_cast<const T*>(map.data) + place.image * map.strides[0] +
      place.label * map.strides[1];
  const auto value = [&](int y, int x) {
    return static_cast<float>(widen(plane[y * map.strides[2] + x * map.strides[3]]));
  };
  const float own = value(place.y, place.x);
  const int top = place.y > reach ? place.y - reach : 0;
  const int left = place.x > reach ? place.x - reach : 0;
  const int bottom = place.y < map.height - reach ? place.y + reach : map.height - 1;
  const int right = place.x < map.width - reach ? place.x + reach : map.width - 1;
  bool highest = true;
  for (int y = top; y <= bottom; ++y) {
    for (int x = left; x <= right; ++x) {
      highest &= value(y, x) <= own;  // false for NaN
    }
  }
  const int64_t plane_number = static_cast<int64_t>(place.image) * map.classes + place.label;
  peaks[(plane_number * map.height + place.y) * map.width + place.x] =
      highest ? own : lowest<float>();
}

template <typename T>
void launch(const Heatmap& map, int reach, float* peaks, cudaStream_t stream) {
  const int cells = map.batch * map.classes * map.height * map.width;
  const bool classes_first = map.strides[1] < map.strides[3];
  const unsigned blocks = (static_cast<unsigned>(cells) + kCells - 1) / kCells;
  find_peaks<T><<<blocks, kCells, 0, stream>>>(map, cells, reach, classes_first, peaks);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

__global__ void __launch_bounds__(kCells) place_each(
    int64_t count, int64_t area, const float* scores, const int64_t* numbers, int64_t* labels,
    int64_t* cells) {
  const int64_t peak = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (peak >= count) return;
  const int64_t number = scores[peak] > lowest<float>() ? numbers[peak] : 0;
  labels[peak] = number / area;
  cells[peak] = number % area;
}

}  // namespace

void peaks(const Heatmap& heatmap, int reach, float* peaks, void* on) {
  const auto stream = static_cast<cudaStream_t>(on);
  switch (heatmap.element) {
    case Element::kFloat32: return launch<float>(heatmap, reach, peaks, stream);
    case Element::kFloat64: return launch<double>(heatmap, reach, peaks, stream);
    case Element::kBFloat16: return launch<__nv_bfloat16>(heatmap, reach, peaks, stream);
    case Element::kFloat16: return launch<__half>(heatmap, reach, peaks, stream);
  }
}

void place_peaks(
    int64_t count, int64_t area, const float* scores, const int64_t* numbers, int64_t* labels,
    int64_t* cells, void* on) {
  const auto blocks = static_cast<unsigned>((count + kCells - 1) / kCells);
  place_each<<<blocks, kCells, 0, static_cast<cudaStream_t>(on)>>>(
      count, area, scores, numbers, labels, cells);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace cpools::cuda
