// Corner pooling on the CPU: the walks of walks.h, for the processor at hand, shared out over the
// threads.

#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>

#include "../scan.h"

namespace cpools::cpu {

// One thread's share of a plane: columns [begin, end) of [length, inner], or, with inner == 1, lines
// [begin, end) of [lines, length].
struct Part {
  const void* input;
  void* output;
  uint8_t* record;
  void* scratch;  // backward: scratch_bytes of memory, aligned to 64 bytes
  int64_t length, inner, begin, end;
};

using Work = void(const Part&);

constexpr int64_t kColumns = 256;  // the most columns of a part

}  // namespace cpools::cpu

// Functions that pass vectors are inlined, so that the ABI of passing them is no matter.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

#define CPOOLS_ISA baseline
#define CPOOLS_TARGET
#define CPOOLS_BYTES 16
#include "walks.h"
#undef CPOOLS_ISA
#undef CPOOLS_TARGET
#undef CPOOLS_BYTES

#if defined(__x86_64__)
#define CPOOLS_ISA avx2
#define CPOOLS_TARGET __attribute__((target("avx2")))
#define CPOOLS_BYTES 32
#include "walks.h"
#endif

namespace cpools::cpu {
namespace {

constexpr int64_t kGrain = 32768;  // elements that are worth a thread

Work* choose(const Scan& scan, bool backward) {
#if defined(__x86_64__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  if (has_avx2) return avx2::work(scan.element, backward, scan.reverse);
#endif
  return baseline::work(scan.element, backward, scan.reverse);
}

int64_t size_of(Element element) {
  return element == Element::kFloat64 ? 8 : element == Element::kFloat32 ? 4 : 2;
}

void run(const Scan& scan, bool backward, const void* input, void* output, uint8_t* record) {
  Work* work = choose(scan, backward);
  const int64_t size = size_of(scan.element);
  const bool in_lines = scan.inner == 1;
  const int64_t columns = std::min(kColumns, scan.inner);
  const int64_t chunks = (scan.inner + kColumns - 1) / kColumns;
  // A sum takes at most 8 bytes; lines go 8 at a time, columns in vectors of at most 8.
  const int64_t scratch_bytes =
      backward ? scan.length * 8 * (in_lines ? 8 : (columns + 7) / 8 * 8) : 0;
  const int64_t grain = std::max<int64_t>(in_lines ? 8 : 1, kGrain / (scan.length * columns));
  at::parallel_for(0, scan.outer * chunks, grain, [&](int64_t begin, int64_t end) {
    const c10::DataPtr scratch = c10::GetCPUAllocator()->allocate(scratch_bytes);
    Part part{input, output, record, scratch.get(), scan.length, scan.inner, begin, end};
    if (in_lines) return work(part);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t plane = task / chunks, offset = plane * scan.length * scan.inner * size;
      part.input = static_cast<const char*>(input) + offset;
      part.output = static_cast<char*>(output) + offset;
      part.record = record + plane * scan.record_length() * scan.inner;
      part.begin = task % chunks * kColumns;
      part.end = std::min(part.begin + kColumns, scan.inner);
      work(part);
    }
  });
}

}  // namespace

void forward(const Scan& scan, const void* input, void* output, uint8_t* record) {
  run(scan, false, input, output, record);
}

void backward(const Scan& scan, const void* grad, const uint8_t* record, void* grad_input) {
  run(scan, true, grad, grad_input, const_cast<uint8_t*>(record));  // this pass only reads it
}

}  // namespace cpools::cpu
