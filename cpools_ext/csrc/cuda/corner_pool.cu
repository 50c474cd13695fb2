// Chooses and launches the kernels of corner pooling. Each reads and writes every element once,
// coalesced, without atomics, and its results are the same bits in every run.

#include <c10/cuda/CUDAException.h>

#include <string>

#include "../scan.h"
#include "columns.cuh"
#include "lines.cuh"

namespace cpools::cuda {
namespace {

bool in_lines(const Scan& scan) { return scan.inner == 1; }

int64_t line_count(const Scan& scan) { return scan.outer * scan.inner; }

unsigned blocks_of(int64_t threads) {
  const int64_t blocks = (threads + kThreads - 1) / kThreads;
  TORCH_CHECK(blocks <= 0x7fffffff, "too many lines for corner pooling on CUDA");
  return static_cast<unsigned>(blocks);
}

bool aligned(const void* pointer, int bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// How a line is divided among lanes: `1 << shift` of them take kVector elements each, in `chunks`.
struct Division {
  int length, chunks, shift;
  unsigned blocks;
};

template <int kVector>
Division divide(const Scan& scan) {
  TORCH_CHECK(scan.length < 0x7fff0000, "too long a line for corner pooling on CUDA");
  const int length = static_cast<int>(scan.length);
  int shift = 0;
  while (kVector << shift < 8 || (1 << shift < kWarp && kVector << shift < length)) ++shift;
  const int chunks = (length + (kVector << shift) - 1) / (kVector << shift);
  return {length, chunks, shift, blocks_of(line_count(scan) << shift)};
}

template <typename T, bool kReverse, int kVector>
void launch_forward_lines(
    const Scan& scan, const T* input, T* output, uint8_t* record, cudaStream_t stream) {
  const Division by = divide<kVector>(scan);
  forward_lines<T, kReverse, kVector><<<by.blocks, kThreads, 0, stream>>>(
      input, output, record, line_count(scan), by.length, by.chunks, by.shift);
}

template <typename T, bool kReverse, int kVector>
void launch_backward_lines(
    const Scan& scan, const T* grad, T* grad_input, const uint8_t* record, cudaStream_t stream) {
  const Division by = divide<kVector>(scan);
  backward_lines<T, kReverse, kVector><<<by.blocks, kThreads, 0, stream>>>(
      grad, grad_input, record, line_count(scan), by.length, by.chunks, by.shift);
}

template <typename T, bool kReverse>
void launch_forward(
    const Scan& scan, const void* from, void* to, uint8_t* record, const void* addend,
    cudaStream_t stream) {
  const T* input = static_cast<const T*>(from);
  T* output = static_cast<T*>(to);
  constexpr int kVector = 16 / sizeof(T);
  if (!in_lines(scan)) {
    forward_columns<T, kReverse><<<blocks_of(line_count(scan)), kThreads, 0, stream>>>(
        input, output, record, static_cast<const T*>(addend), line_count(scan), scan.length,
        scan.inner);
  } else if (scan.length % kVector == 0 && aligned(from, 16) && aligned(to, 16)) {
    launch_forward_lines<T, kReverse, kVector>(scan, input, output, record, stream);
  } else {
    launch_forward_lines<T, kReverse, 1>(scan, input, output, record, stream);
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T, bool kReverse, int kVector>
void launch_backward_columns(
    const Scan& scan, const T* grad, T* grad_input, const uint8_t* record, cudaStream_t stream) {
  backward_columns<T, kReverse, kVector>
      <<<blocks_of(line_count(scan) / kVector), kThreads, 0, stream>>>(
          grad, grad_input, record, line_count(scan), scan.length, scan.inner);
}

template <typename T, bool kReverse>
void launch_backward(
    const Scan& scan, const void* from, const uint8_t* record, void* to, cudaStream_t stream) {
  const T* grad = static_cast<const T*>(from);
  T* grad_input = static_cast<T*>(to);
  constexpr int kVector = 16 / sizeof(T), kColumns = sizeof(T) == 2 ? 2 : 1;
  constexpr int kBytes = kColumns * sizeof(T);
  if (in_lines(scan)) {
    if (scan.length % kVector == 0 && aligned(from, 16) && aligned(to, 16)) {
      launch_backward_lines<T, kReverse, kVector>(scan, grad, grad_input, record, stream);
    } else {
      launch_backward_lines<T, kReverse, 1>(scan, grad, grad_input, record, stream);
    }
  } else if (
      scan.inner % kColumns == 0 && aligned(from, kBytes) && aligned(to, kBytes) &&
      aligned(record, kColumns)) {
    launch_backward_columns<T, kReverse, kColumns>(scan, grad, grad_input, record, stream);
  } else {
    launch_backward_columns<T, kReverse, 1>(scan, grad, grad_input, record, stream);
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

std::string architectures() {
  std::string text;
  for (const int number : {__CUDA_ARCH_LIST__}) {
    text += (text.empty() ? "sm_" : ", sm_") + std::to_string(number / 10);
  }
  return text;
}

void forward(
    const Scan& scan, const void* input, void* output, uint8_t* record, const void* addend,
    void* stream) {
  const auto launch = [&](auto zero) {
    using T = decltype(zero);
    const auto chosen = scan.reverse ? &launch_forward<T, true> : &launch_forward<T, false>;
    chosen(scan, input, output, record, addend, static_cast<cudaStream_t>(stream));
  };
  switch (scan.element) {
    case Element::kFloat32: return launch(float{});
    case Element::kFloat64: return launch(double{});
    case Element::kBFloat16: return launch(__nv_bfloat16{});
    case Element::kFloat16: return launch(__half{});
  }
}

void backward(
    const Scan& scan, const void* grad, const uint8_t* record, void* grad_input, void* stream) {
  const auto launch = [&](auto zero) {
    using T = decltype(zero);
    const auto chosen = scan.reverse ? &launch_backward<T, true> : &launch_backward<T, false>;
    chosen(scan, grad, record, grad_input, static_cast<cudaStream_t>(stream));
  };
  switch (scan.element) {
    case Element::kFloat32: return launch(float{});
    case Element::kFloat64: return launch(double{});
    case Element::kBFloat16: return launch(__nv_bfloat16{});
    case Element::kFloat16: return launch(__half{});
  }
}

}  // namespace cpools::cuda
