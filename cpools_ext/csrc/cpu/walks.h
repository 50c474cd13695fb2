// How a pass walks over memory: down the columns of [length, inner], or along the lines of
// [lines, length]. Included once per instruction set, as vectors.h is.

#include "passes.h"

namespace cpools::cpu::CPOOLS_ISA {

template <class L>
struct Block {
  const typename L::Stored* input;
  typename L::Stored* output;
  uint8_t* record;
  typename L::Vector* scratch;  // [length, column_slots(columns)], or [length] for lines
  int64_t length, inner, begin, end;

  CPOOLS_INLINE explicit Block(const Part& part)
      : input(static_cast<const typename L::Stored*>(part.input)),
        output(static_cast<typename L::Stored*>(part.output)),
        record(part.record),
        scratch(static_cast<typename L::Vector*>(part.scratch)),
        length(part.length),
        inner(part.inner),
        begin(part.begin),
        end(part.end) {}
};

// Up to eight rows, from row `row` on, of kVectors vectors of neighbouring columns; with kPartial
// of the first `lanes` columns of one vector. `slot` counts vectors from the block's first column.
template <class Pass, bool kDescending, int kVectors, bool kPartial>
CPOOLS_INLINE void column_strip(
    const Block<typename Pass::L>& block, int64_t row, int64_t slot, int lanes, bool opening,
    Pass* states) {
  using L = typename Pass::L;
  const int rows = block.length - row < 8 ? static_cast<int>(block.length - row) : 8;
  const int64_t column = block.begin + slot * L::kCount;
  const int64_t slots = (block.end - block.begin + L::kCount - 1) / L::kCount;
  uint8_t* record = block.record + row / 8 * block.inner + column;
  Pass state[kVectors];
  typename L::Bits bits[kVectors];
  const int first = kDescending ? rows - 1 : 0;
  typename L::Bits mark = (typename L::Bits{} + 1) << first;
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) {
    if (!opening) state[i] = states[slot + i];
    if (Pass::kWritesRecord) {
      bits[i] = opening ? mark : typename L::Bits{};  // the first position always starts one
    } else {
      load_bytes<L>(record + i * L::kCount, kPartial ? lanes : L::kCount, bits[i]);
    }
  }
  for (int k = 0; k < rows; ++k) {
    const int64_t at = row + (kDescending ? rows - 1 - k : k);
    const int64_t offset = at * block.inner + column;
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      typename L::Vector in, out;
      if (Pass::kFromScratch) {
        in = block.scratch[at * slots + slot + i];
      } else {
        load<L, kPartial>(block.input + offset + i * L::kCount, lanes, in);
      }
      state[i].step(in, mark, bits[i], out);
      if (Pass::kToScratch) {
        block.scratch[at * slots + slot + i] = out;
      } else {
        store<L, kPartial>(block.output + offset + i * L::kCount, lanes, out);
      }
    }
    mark = kDescending ? mark >> 1 : mark << 1;
  }
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) {
    states[slot + i] = state[i];
    if (Pass::kWritesRecord) {
      store_bytes<L>(record + i * L::kCount, kPartial ? lanes : L::kCount, bits[i]);
    }
  }
}

// Eight rows at a time, so that memory is read and written in long runs.
template <class Pass, bool kDescending>
CPOOLS_TARGET void walk_columns(const Block<typename Pass::L>& block) {
  constexpr int kVectors = 4, kCount = Pass::L::kCount;
  Pass states[kColumns / kCount];
  const int64_t groups = (block.length + 7) / 8;
  const int64_t whole = (block.end - block.begin) / kCount;
  const int rest = static_cast<int>((block.end - block.begin) % kCount);
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t row = 8 * (kDescending ? groups - 1 - group : group);
    int64_t slot = 0;
    for (; slot + kVectors <= whole; slot += kVectors) {
      column_strip<Pass, kDescending, kVectors, false>(block, row, slot, 0, group == 0, states);
    }
    for (; slot < whole; ++slot) {
      column_strip<Pass, kDescending, 1, false>(block, row, slot, 0, group == 0, states);
    }
    if (rest > 0) {
      column_strip<Pass, kDescending, 1, true>(block, row, slot, rest, group == 0, states);
    }
  }
}

// kCount lines by kCount positions, with kPartial by `count` positions. A line is a vector in memory
// and a lane in the scan, hence the transposing on the way in and on the way out.
template <class Pass, bool kDescending, bool kPartial>
CPOOLS_INLINE void line_tile(
    const Block<typename Pass::L>& block, const int64_t (&lines)[Pass::L::kCount],
    int64_t position, int count, Pass& state, typename Pass::L::Bits& bits) {
  using L = typename Pass::L;
  const int steps = kPartial ? count : L::kCount;
  typename L::Vector tile[L::kCount];
#pragma GCC unroll 8
  for (int i = 0; i < L::kCount; ++i) {
    if (!Pass::kFromScratch) {
      load<L, kPartial>(block.input + lines[i] * block.length + position, count, tile[i]);
    } else if (!kPartial || i < count) {
      tile[i] = block.scratch[position + i];
    } else {
      tile[i] = typename L::Vector{};
    }
  }
  if (!Pass::kFromScratch) transpose(tile);
  typename L::Bits mark = (typename L::Bits{} + 1) << position % 32;
  if (kDescending) mark <<= steps - 1;
#pragma GCC unroll 8
  for (int k = 0; k < steps; ++k) {
    const int at = kDescending ? steps - 1 - k : k;
    typename L::Vector out;
    state.step(tile[at], mark, bits, out);
    tile[at] = out;
    mark = kDescending ? mark >> 1 : mark << 1;
  }
  if (!Pass::kToScratch) transpose(tile);
#pragma GCC unroll 8
  for (int i = 0; i < L::kCount; ++i) {
    if (!Pass::kToScratch) {
      store<L, kPartial>(block.output + lines[i] * block.length + position, count, tile[i]);
    } else if (!kPartial || i < count) {
      block.scratch[position + i] = tile[i];
    }
  }
}

// kCount lines, in words of 32 positions, each with its four bytes of the record.
template <class Pass, bool kDescending>
CPOOLS_INLINE void walk_tiles(
    const Block<typename Pass::L>& block, const int64_t (&lines)[Pass::L::kCount]) {
  using L = typename Pass::L;
  const int64_t bytes = (block.length + 7) / 8, words = (block.length + 31) / 32;
  Pass state;
  for (int64_t step = 0; step < words; ++step) {
    const int64_t word = kDescending ? words - 1 - step : step;
    const int64_t from = 32 * word;
    const int64_t to = from + 32 < block.length ? from + 32 : block.length;
    const int64_t whole = from + (to - from) / L::kCount * L::kCount;
    const int rest = static_cast<int>(to - whole);
    const int word_bytes = static_cast<int>(bytes - 4 * word < 4 ? bytes - 4 * word : 4);
    typename L::Bits bits = {};
    if (!Pass::kWritesRecord) {
      load_words<L>(block.record + 4 * word, lines, bytes, word_bytes, bits);
    } else if (step == 0) {
      bits += 1u << (kDescending ? to - 1 - from : 0);  // the first position always starts one
    }
    if (kDescending && rest > 0) {
      line_tile<Pass, kDescending, true>(block, lines, whole, rest, state, bits);
    }
    for (int64_t k = from; k < whole; k += L::kCount) {
      const int64_t at = kDescending ? from + whole - L::kCount - k : k;
      line_tile<Pass, kDescending, false>(block, lines, at, L::kCount, state, bits);
    }
    if (!kDescending && rest > 0) {
      line_tile<Pass, kDescending, true>(block, lines, whole, rest, state, bits);
    }
    if (Pass::kWritesRecord) {
      store_words<L>(block.record + 4 * word, lines, bytes, word_bytes, bits);
    }
  }
}

// Numbers of kCount lines from `line` on. Lanes past the end do the last line once more, and write
// what is there already.
template <class L>
CPOOLS_INLINE void number_lines(int64_t line, int64_t end, int64_t (&lines)[L::kCount]) {
  for (int i = 0; i < L::kCount; ++i) lines[i] = line + i < end ? line + i : end - 1;
}

template <class L, bool kReverse>
CPOOLS_TARGET void forward(const Part& part) {
  const Block<L> block(part);
  if (block.inner > 1) return walk_columns<Forward<L>, kReverse>(block);
  for (int64_t line = block.begin; line < block.end; line += L::kCount) {
    int64_t lines[L::kCount];
    number_lines<L>(line, block.end, lines);
    walk_tiles<Forward<L>, kReverse>(block, lines);
  }
}

template <class L, bool kReverse>
CPOOLS_TARGET void backward(const Part& part) {
  const Block<L> block(part);
  if (block.inner > 1) {
    walk_columns<Sum<L>, kReverse>(block);
    return walk_columns<Settle<L>, !kReverse>(block);
  }
  for (int64_t line = block.begin; line < block.end; line += L::kCount) {
    int64_t lines[L::kCount];
    number_lines<L>(line, block.end, lines);
    walk_tiles<Sum<L>, kReverse>(block, lines);
    walk_tiles<Settle<L>, !kReverse>(block, lines);
  }
}

template <class L>
Work* choose(bool is_backward, bool reverse) {
  if (is_backward) return reverse ? &backward<L, true> : &backward<L, false>;
  return reverse ? &forward<L, true> : &forward<L, false>;
}

inline Work* work(Element element, bool is_backward, bool reverse) {
  switch (element) {
    case Element::kFloat32: return choose<Lanes<Element::kFloat32>>(is_backward, reverse);
    case Element::kFloat64: return choose<Lanes<Element::kFloat64>>(is_backward, reverse);
    case Element::kBFloat16: return choose<Lanes<Element::kBFloat16>>(is_backward, reverse);
    case Element::kFloat16: return choose<Lanes<Element::kFloat16>>(is_backward, reverse);
  }
  return nullptr;
}

}  // namespace cpools::cpu::CPOOLS_ISA
