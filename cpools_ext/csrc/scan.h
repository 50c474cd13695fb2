// Interface of the CPU and CUDA kernels: plain numbers and pointers, no tensors.
#pragma once

#include <cstdint>
#include <string>

namespace cpools {

enum class Element { kFloat32, kFloat64, kBFloat16, kFloat16 };

// A dense tensor seen as [outer, length, inner]; the scan runs along `length`, from the last
// position to the first when `reverse`. The record holds one bit an element, packed along the
// scan: byte [o, i / 8, c], bit i % 8 is set where a new maximum starts.
struct Scan {
  Element element;
  int64_t outer, length, inner;
  bool reverse;

  int64_t record_length() const { return (length + 7) / 8; }
};

// The two scans of a corner, over the same planes: down the columns and along the rows. A forward
// pass writes the records, a backward pass reads them.
struct Corner {
  Scan vertical, horizontal;
  uint8_t *vertical_record, *horizontal_record;
};

namespace cpu {
// Instruction set of the kernels that this processor runs: "AVX2", or "baseline", for any processor
// of the family.
const char* instruction_set();
void forward(const Scan& scan, const void* input, void* output, uint8_t* record);
void backward(const Scan& scan, const void* grad, const uint8_t* record, void* grad_input);
// The sum of both scans.
void forward_sum(
    const Corner& corner, const void* vertical, const void* horizontal, void* output);
}  // namespace cpu

namespace cuda {
std::string architectures();  // GPU architectures that the kernels are compiled for
// These run on `stream`, a cudaStream_t of the current device.
void forward(const Scan& scan, const void* input, void* output, uint8_t* record, void* stream);
void backward(
    const Scan& scan, const void* grad, const uint8_t* record, void* grad_input, void* stream);
// The sum of both scans, and its gradients.
void forward_sum(
    const Corner& corner, const void* vertical, const void* horizontal, void* output,
    void* stream);
void backward_sum(
    const Corner& corner, const void* grad, void* vertical_grad, void* horizontal_grad,
    void* stream);
}  // namespace cuda

}  // namespace cpools
