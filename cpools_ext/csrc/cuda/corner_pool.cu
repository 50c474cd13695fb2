// Chooses and launches the kernels of corner pooling. Each is coalesced, without atomics, and its
// results are the same bits in every run.

#include <c10/cuda/CUDAException.h>

#include <string>
#include <type_traits>

#include "../scan.h"
#include "columns.cuh"
#include "lines.cuh"
#include "planes.cuh"

namespace cpools::cuda {
namespace {

unsigned blocks_of(int64_t threads) {
  const int64_t blocks = (threads + kThreads - 1) / kThreads;
  TORCH_CHECK(blocks <= 0x7fffffff, "too many lines for corner pooling on CUDA");
  return static_cast<unsigned>(blocks);
}

int length_of(const Scan& scan) {
  TORCH_CHECK(scan.length < 0x7fff0000, "too long a line for corner pooling on CUDA");
  return static_cast<int>(scan.length);
}

bool aligned(const void* pointer, int bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// Memory of a pass.
struct Memory {
  const void* input;
  void* output;
  uint8_t* record;
};

template <typename T>
Columns<T> columns_of(const Scan& scan, const Memory& memory) {
  return {static_cast<const T*>(memory.input), static_cast<T*>(memory.output), memory.record,
          scan.outer * scan.inner, scan.inner, length_of(scan)};
}

template <typename T, int kVector>
Lines<T> lines_of(const Scan& scan, const Memory& memory) {
  const int length = length_of(scan);
  int shift = 0;
  while (kVector << shift < 8 || (1 << shift < kWarp && kVector << shift < length)) ++shift;
  const int chunks = (length + (kVector << shift) - 1) / (kVector << shift);
  return {static_cast<const T*>(memory.input), static_cast<T*>(memory.output), memory.record,
          scan.outer, length, chunks, shift};
}

// True if kColumns neighbouring columns can be taken at once.
template <typename T>
bool in_pairs(const Scan& scan, const Memory& memory) {
  constexpr int kBytes = kColumns<T> * sizeof(T);
  return scan.inner % kColumns<T> == 0 && aligned(memory.input, kBytes) &&
      aligned(memory.output, kBytes) && aligned(memory.record, kColumns<T>);
}

// True if lines can be read and written 16 bytes at a time.
template <typename T>
bool in_vectors(const Scan& scan, const Memory& memory) {
  return scan.length % (16 / sizeof(T)) == 0 && aligned(memory.input, 16) &&
      aligned(memory.output, 16);
}

template <typename T, bool kReverse, bool kAdd, int kVector>
void launch_forward_columns(const Scan& scan, const Memory& memory, cudaStream_t stream) {
  const Columns<T> columns = columns_of<T>(scan, memory);
  const unsigned blocks = blocks_of(columns.count / kVector);
  forward_columns<T, kReverse, kAdd, kVector><<<blocks, kThreads, 0, stream>>>(columns);
}

template <typename T, bool kReverse, int kVector>
void launch_backward_columns(const Scan& scan, const Memory& memory, cudaStream_t stream) {
  const Columns<T> columns = columns_of<T>(scan, memory);
  const unsigned blocks = blocks_of(columns.count / kVector);
  backward_columns<T, kReverse, kVector><<<blocks, kThreads, 0, stream>>>(columns);
}

template <typename T, bool kReverse, int kVector>
void launch_forward_lines(const Scan& scan, const Memory& memory, cudaStream_t stream) {
  const Lines<T> lines = lines_of<T, kVector>(scan, memory);
  const unsigned blocks = blocks_of(lines.count << lines.shift);
  forward_lines<T, kReverse, kVector><<<blocks, kThreads, 0, stream>>>(lines);
}

template <typename T, bool kReverse, int kVector>
void launch_backward_lines(const Scan& scan, const Memory& memory, cudaStream_t stream) {
  const Lines<T> lines = lines_of<T, kVector>(scan, memory);
  const unsigned blocks = blocks_of(lines.count << lines.shift);
  backward_lines<T, kReverse, kVector><<<blocks, kThreads, 0, stream>>>(lines);
}

// With kAdd, which is for columns, the maxima are added to the values in the output.
template <typename T, bool kReverse, bool kAdd>
void launch_forward(const Scan& scan, const Memory& memory, cudaStream_t stream) {
  if (scan.inner == 1) {
    const bool vectors = in_vectors<T>(scan, memory);
    const auto launch = vectors ? &launch_forward_lines<T, kReverse, 16 / sizeof(T)>
                                : &launch_forward_lines<T, kReverse, 1>;
    launch(scan, memory, stream);
  } else {
    const bool pairs = in_pairs<T>(scan, memory);
    const auto launch = pairs ? &launch_forward_columns<T, kReverse, kAdd, kColumns<T>>
                              : &launch_forward_columns<T, kReverse, kAdd, 1>;
    launch(scan, memory, stream);
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T, bool kReverse>
void launch_backward(const Scan& scan, const Memory& memory, cudaStream_t stream) {
  if (scan.inner == 1) {
    const bool vectors = in_vectors<T>(scan, memory);
    const auto launch = vectors ? &launch_backward_lines<T, kReverse, 16 / sizeof(T)>
                                : &launch_backward_lines<T, kReverse, 1>;
    launch(scan, memory, stream);
  } else {
    const bool pairs = in_pairs<T>(scan, memory);
    const auto launch = pairs ? &launch_backward_columns<T, kReverse, kColumns<T>>
                              : &launch_backward_columns<T, kReverse, 1>;
    launch(scan, memory, stream);
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

// The memory of the two scans of a corner.
struct Memories {
  Memory vertical, horizontal;
};

// True if a block has a thread for each kAcross columns of a plane.
template <typename T, bool kWide>
bool fits_block(const Corner& corner) {
  return corner.horizontal.inner == 1 &&
      corner.vertical.inner <= kPlaneThreads * kAcross<T, kWide>;
}

template <typename T, bool kReverse, bool kWide, bool kBackward>
void launch_plane(const Corner& corner, const Memories& memory, cudaStream_t stream) {
  const Columns<T> columns = columns_of<T>(corner.vertical, memory.vertical);
  const Lines<T> lines = lines_of<T, kAlong<T, kWide>>(corner.horizontal, memory.horizontal);
  const int threads = columns.inner <= kThreads * kAcross<T, kWide> ? kThreads : kPlaneThreads;
  TORCH_CHECK(corner.vertical.outer <= 0x7fffffff, "too many planes for corner pooling on CUDA");
  const auto blocks = static_cast<unsigned>(corner.vertical.outer);
  if constexpr (kBackward) {
    backward_planes<T, kReverse, kWide><<<blocks, threads, 0, stream>>>(columns, lines);
  } else {
    forward_planes<T, kReverse, kWide><<<blocks, threads, 0, stream>>>(columns, lines);
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

// Launches the kernel of both scans, if there is one for the layout and the width.
template <typename T, bool kReverse, bool kBackward>
bool launch_planes(const Corner& corner, const Memories& memory, cudaStream_t stream) {
  const bool wide = in_pairs<T>(corner.vertical, memory.vertical) &&
      in_vectors<T>(corner.horizontal, memory.horizontal);
  if (wide && fits_block<T, true>(corner)) {
    launch_plane<T, kReverse, true, kBackward>(corner, memory, stream);
    return true;
  }
  if (!wide && fits_block<T, false>(corner)) {
    launch_plane<T, kReverse, false, kBackward>(corner, memory, stream);
    return true;
  }
  return false;
}

// Calls a function with an element of the scan's type, and with its direction as a constant.
template <typename Function>
void with_constants(const Scan& scan, const Function& function) {
  const auto call = [&](auto zero) {
    scan.reverse ? function(zero, std::true_type{}) : function(zero, std::false_type{});
  };
  switch (scan.element) {
    case Element::kFloat32: return call(float{});
    case Element::kFloat64: return call(double{});
    case Element::kBFloat16: return call(__nv_bfloat16{});
    case Element::kFloat16: return call(__half{});
  }
}

}  // namespace

std::string architectures() {
  std::string text;
  for (const int number : {__CUDA_ARCH_LIST__}) {
    text += (text.empty() ? "sm_" : ", sm_") + std::to_string(number / 10);
  }
  return text;
}

void forward(const Scan& scan, const void* input, void* output, uint8_t* record, void* stream) {
  with_constants(scan, [&](auto zero, auto reverse) {
    using T = decltype(zero);
    const Memory memory{input, output, record};
    launch_forward<T, decltype(reverse)::value, false>(
        scan, memory, static_cast<cudaStream_t>(stream));
  });
}

void backward(
    const Scan& scan, const void* grad, const uint8_t* record, void* grad_input, void* stream) {
  with_constants(scan, [&](auto zero, auto reverse) {
    using T = decltype(zero);
    const Memory memory{grad, grad_input, const_cast<uint8_t*>(record)};  // only read
    launch_backward<T, decltype(reverse)::value>(scan, memory, static_cast<cudaStream_t>(stream));
  });
}

void forward_sum(
    const Corner& corner, const void* vertical, const void* horizontal, void* output,
    void* stream) {
  with_constants(corner.vertical, [&](auto zero, auto reverse) {
    using T = decltype(zero);
    constexpr bool kReverse = decltype(reverse)::value;
    const auto queue = static_cast<cudaStream_t>(stream);
    const Memories memory{{vertical, output, corner.vertical_record},
                          {horizontal, output, corner.horizontal_record}};
    if (launch_planes<T, kReverse, false>(corner, memory, queue)) return;
    launch_forward<T, kReverse, false>(corner.horizontal, memory.horizontal, queue);
    launch_forward<T, kReverse, true>(corner.vertical, memory.vertical, queue);
  });
}

void backward_sum(
    const Corner& corner, const void* grad, void* vertical_grad, void* horizontal_grad,
    void* stream) {
  with_constants(corner.vertical, [&](auto zero, auto reverse) {
    using T = decltype(zero);
    constexpr bool kReverse = decltype(reverse)::value;
    const auto queue = static_cast<cudaStream_t>(stream);
    const Memories memory{{grad, vertical_grad, corner.vertical_record},
                          {grad, horizontal_grad, corner.horizontal_record}};
    if (launch_planes<T, kReverse, true>(corner, memory, queue)) return;
    launch_backward<T, kReverse>(corner.horizontal, memory.horizontal, queue);
    launch_backward<T, kReverse>(corner.vertical, memory.vertical, queue);
  });
}

}  // namespace cpools::cuda
