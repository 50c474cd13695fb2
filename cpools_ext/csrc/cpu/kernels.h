// The kernels of one instruction set, chosen by `work`.

#include "lanes.h"
#include "passes.h"
#include "record.h"
#include "transpose.h"

#include "columns.h"
#include "line_maxima.h"
#include "lines.h"

namespace cpools::cpu::CPOOLS_ISA {

template <class L, bool kReverse>
CPOOLS_TARGET void forward(const Part& part) {
  const Block<L> block(part);
  if (block.inner > 1) return walk_columns<Forward<L, false>, kReverse>(block);
  for (int64_t i = block.begin; i < block.end; ++i) {  // memory is read in one direction
    line_maxima<L, kReverse>(block, kReverse ? block.begin + block.end - 1 - i : i);
  }
}

// The maxima of columns are added to the output.
template <class L, bool kReverse>
CPOOLS_TARGET void forward_add(const Part& part) {
  walk_columns<Forward<L, true>, kReverse>(Block<L>(part));
}

template <class L, bool kReverse>
CPOOLS_TARGET void backward(const Part& part) {
  const Block<L> block(part);
  if (block.inner > 1) return walk_columns<Backward<L>, !kReverse>(block);
  for (int64_t line = block.begin; line < block.end; line += kGroups * L::kCount) {
    walk_lines<L, !kReverse>(block, line);
  }
}

template <class L, bool kReverse>
Work* choose(Task task) {
  switch (task) {
    case Task::kForward: return &forward<L, kReverse>;
    case Task::kForwardAdd: return &forward_add<L, kReverse>;
    case Task::kBackward: return &backward<L, kReverse>;
  }
  return nullptr;
}

template <Element kElement>
Work* choose(Task task, bool reverse) {
  using L = Lanes<kElement>;
  return reverse ? choose<L, true>(task) : choose<L, false>(task);
}

inline Work* work(Task task, const Scan& scan) {
  switch (scan.element) {
    case Element::kFloat32: return choose<Element::kFloat32>(task, scan.reverse);
    case Element::kFloat64: return choose<Element::kFloat64>(task, scan.reverse);
    case Element::kBFloat16: return choose<Element::kBFloat16>(task, scan.reverse);
    case Element::kFloat16: return choose<Element::kFloat16>(task, scan.reverse);
  }
  return nullptr;
}

}  // namespace cpools::cpu::CPOOLS_ISA
