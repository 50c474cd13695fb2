// Corner pooling on the CPU: the kernels of kernels.h for this processor, split among the threads.

#if !defined(__clang__) && (!defined(__GNUC__) || __GNUC__ < 12)
#error "corner pooling takes GCC 12 or newer, or Clang: name one in CXX, as in CXX=clang++"
#endif

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../scan.h"

namespace cpools::cpu {

enum class Task { kForward, kForwardAdd, kBackward };

// One thread's part of a plane: columns [begin, end) of [length, inner], or, with inner == 1, lines
// [begin, end) of [lines, length].
struct Part {
  const void* input;
  void* output;
  uint8_t* record;
  int64_t length, inner, begin, end;
};

using Work = void(const Part&);

constexpr int64_t kColumns = 256;  // the most columns of a part

}  // namespace cpools::cpu

// Functions that pass vectors are inlined, so the ABI for passing them does not matter.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

#define CPOOLS_ISA baseline
#define CPOOLS_TARGET
#define CPOOLS_BYTES 16
#include "kernels.h"
#undef CPOOLS_ISA
#undef CPOOLS_TARGET
#undef CPOOLS_BYTES
#undef CPOOLS_INLINE

#if defined(__x86_64__)
#define CPOOLS_ISA avx2
#define CPOOLS_TARGET __attribute__((target("avx2,f16c")))
#define CPOOLS_BYTES 32
#define CPOOLS_AVX2
#include "kernels.h"
#endif

namespace cpools::cpu {
namespace {

constexpr int64_t kGrain = 32768;  // elements that are worth a thread

bool find_avx2() {
#if defined(__x86_64__)
  const char* wanted = std::getenv("ATEN_CPU_CAPABILITY");  // PyTorch's own switch
  if (wanted != nullptr && std::strcmp(wanted, "default") == 0) return false;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}

bool has_avx2() {
  static const bool found = find_avx2();
  return found;
}

Work* choose(Task task, const Scan& scan) {
#if defined(__x86_64__)
  if (has_avx2()) return avx2::work(task, scan);
#endif
  return baseline::work(task, scan);
}

int64_t size_of(Element element) {
  return element == Element::kFloat64 ? 8 : element == Element::kFloat32 ? 4 : 2;
}

int64_t chunks_of(const Scan& scan) { return (scan.inner + kColumns - 1) / kColumns; }

// Number of elements in one task of `run`.
int64_t part_size(const Scan& scan) { return scan.length * std::min(kColumns, scan.inner); }

// Runs `work` on chunk `task % chunks_of(scan)` of the columns of plane `task / chunks_of(scan)`.
void run_columns(Work* work, const Scan& scan, Part part, int64_t task) {
  const int64_t plane = task / chunks_of(scan);
  const int64_t offset = plane * scan.length * scan.inner * size_of(scan.element);
  part.input = static_cast<const char*>(part.input) + offset;
  part.output = static_cast<char*>(part.output) + offset;
  part.record += plane * scan.record_length() * scan.inner;
  part.begin = task % chunks_of(scan) * kColumns;
  part.end = std::min(part.begin + kColumns, scan.inner);
  work(part);
}

void run(Task task, const Scan& scan, const void* input, void* output, uint8_t* record) {
  Work* work = choose(task, scan);
  const bool in_lines = scan.inner == 1 && task != Task::kForwardAdd;  // which takes columns
  const int64_t grain = std::max<int64_t>(in_lines ? 32 : 1, kGrain / part_size(scan));
  at::parallel_for(0, scan.outer * chunks_of(scan), grain, [&](int64_t begin, int64_t end) {
    const Part part{input, output, record, scan.length, scan.inner, begin, end};
    if (in_lines) return work(part);
    for (int64_t i = begin; i < end; ++i) {  // memory is read in one direction
      run_columns(work, scan, part, scan.reverse ? begin + end - 1 - i : i);
    }
  });
}

}  // namespace

const char* instruction_set() { return has_avx2() ? "AVX2" : "baseline"; }

void forward(const Scan& scan, const void* input, void* output, uint8_t* record) {
  run(Task::kForward, scan, input, output, record);
}

void backward(const Scan& scan, const void* grad, const uint8_t* record, void* grad_input) {
  run(Task::kBackward, scan, grad, grad_input, const_cast<uint8_t*>(record));  // only read
}

void forward_sum(
    const Corner& corner, const void* vertical, const void* horizontal, void* output) {
  const Scan &down = corner.vertical, &along = corner.horizontal;
  if (along.inner > 1 || down.outer < at::get_num_threads()) {
    run(Task::kForward, along, horizontal, output, corner.horizontal_record);
    return run(Task::kForwardAdd, down, vertical, output, corner.vertical_record);
  }
  // Plane by plane, so that the second scan finds the first one's maxima in the cache.
  Work* first = choose(Task::kForward, along);
  Work* second = choose(Task::kForwardAdd, down);
  const int64_t chunks = chunks_of(down), height = down.length;
  const int64_t grain = std::max<int64_t>(1, kGrain / (height * down.inner));
  at::parallel_for(0, down.outer, grain, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      first({horizontal, output, corner.horizontal_record, along.length, 1, plane * height,
             (plane + 1) * height});
      const Part part{vertical, output, corner.vertical_record, height, down.inner};
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        run_columns(second, down, part, plane * chunks + chunk);
      }
    }
  });
}

}  // namespace cpools::cpu
