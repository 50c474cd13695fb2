// Chooses and launches the kernels of corner pooling. Each reads and writes every element once,
// coalesced, without atomics, and its results are the same bits in every run.

#include <c10/cuda/CUDAException.h>

#include <string>

#include "../scan.h"
#include "columns.cuh"
#include "lines.cuh"

namespace cpools::cuda {
namespace {

constexpr int64_t kSharedBytes = 48 * 1024;  // shared memory that a block can have on every GPU

bool in_lines(const Scan& scan) { return scan.inner == 1; }

int64_t line_count(const Scan& scan) { return scan.outer * scan.inner; }

int64_t value_size(const Scan& scan) { return scan.element == Element::kFloat64 ? 8 : 4; }

int64_t tile_values(const Scan& scan) {
  return kWarp * (in_lines(scan) ? pitch(scan.length) : scan.length);
}

unsigned blocks_of(int64_t threads, int64_t block) {
  const int64_t blocks = (threads + block - 1) / block;
  TORCH_CHECK(blocks <= 0x7fffffff, "too many lines for corner pooling on CUDA");
  return static_cast<unsigned>(blocks);
}

template <typename T, bool kReverse, int kVector>
void launch_forward_lines(
    const Scan& scan, const T* input, T* output, uint8_t* record, cudaStream_t stream) {
  TORCH_CHECK(scan.length < 0x7fff0000, "too long a line for corner pooling on CUDA");
  const int length = static_cast<int>(scan.length);
  int shift = 0;
  while (kVector << shift < 8 || (1 << shift < kWarp && kVector << shift < length)) ++shift;
  const int chunks = (length + (kVector << shift) - 1) / (kVector << shift);
  forward_lines<T, kReverse, kVector>
      <<<blocks_of(line_count(scan), kThreads >> shift), kThreads, 0, stream>>>(
          input, output, record, line_count(scan), length, chunks, shift);
}

template <typename T, bool kReverse>
void launch_forward(
    const Scan& scan, const void* from, void* to, uint8_t* record, const void* addend,
    cudaStream_t stream) {
  const T* input = static_cast<const T*>(from);
  T* output = static_cast<T*>(to);
  constexpr int kVector = 16 / sizeof(T);
  if (!in_lines(scan)) {
    forward_columns<T, kReverse><<<blocks_of(line_count(scan), kThreads), kThreads, 0, stream>>>(
        input, output, record, static_cast<const T*>(addend), line_count(scan), scan.length,
        scan.inner);
  } else if (
      scan.length % kVector == 0 && reinterpret_cast<uintptr_t>(from) % 16 == 0 &&
      reinterpret_cast<uintptr_t>(to) % 16 == 0) {
    launch_forward_lines<T, kReverse, kVector>(scan, input, output, record, stream);
  } else {
    launch_forward_lines<T, kReverse, 1>(scan, input, output, record, stream);
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T, bool kReverse>
void launch_backward(
    const Scan& scan, const void* grad, const uint8_t* record, void* grad_input, void* scratch,
    cudaStream_t stream) {
  const int64_t shared = scratch_bytes(scan) > 0 ? 0 : tile_values(scan) * value_size(scan);
  const unsigned blocks = blocks_of(line_count(scan), kWarp);
  if (in_lines(scan)) {
    backward_lines<T, kReverse><<<blocks, kWarp, shared, stream>>>(
        static_cast<const T*>(grad), static_cast<T*>(grad_input), record,
        static_cast<ValueOf<T>*>(scratch), line_count(scan), scan.length);
  } else {
    backward_columns<T, kReverse><<<blocks, kWarp, shared, stream>>>(
        static_cast<const T*>(grad), static_cast<T*>(grad_input), record,
        static_cast<ValueOf<T>*>(scratch), line_count(scan), scan.length, scan.inner);
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

int64_t scratch_bytes(const Scan& scan) {
  const int64_t tile = tile_values(scan) * value_size(scan);
  return tile <= kSharedBytes ? 0 : tile * blocks_of(line_count(scan), kWarp);
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
    const Scan& scan, const void* grad, const uint8_t* record, void* grad_input, void* scratch,
    void* stream) {
  const auto launch = [&](auto zero) {
    using T = decltype(zero);
    const auto chosen = scan.reverse ? &launch_backward<T, true> : &launch_backward<T, false>;
    chosen(scan, grad, record, grad_input, scratch, static_cast<cudaStream_t>(stream));
  };
  switch (scan.element) {
    case Element::kFloat32: return launch(float{});
    case Element::kFloat64: return launch(double{});
    case Element::kBFloat16: return launch(__nv_bfloat16{});
    case Element::kFloat16: return launch(__half{});
  }
}

}  // namespace cpools::cuda
