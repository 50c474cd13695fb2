// The type of a tensor's elements, for kernels that know no tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include "scan.h"

namespace cpools {

// `operation` names what takes the tensor, for the error of another type.
inline Element element_of(const at::Tensor& x, const char* operation) {
  switch (x.scalar_type()) {
    case at::kFloat: return Element::kFloat32;
    case at::kDouble: return Element::kFloat64;
    case at::kBFloat16: return Element::kBFloat16;
    case at::kHalf: return Element::kFloat16;
    default:
      TORCH_CHECK_VALUE(
          false, operation, " takes float32, float64, bfloat16 or float16, not ", x.scalar_type());
  }
}

}  // namespace cpools
