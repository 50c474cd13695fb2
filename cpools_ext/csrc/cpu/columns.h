// A pass over columns: the positions of a scan are `inner` elements apart; neighbouring columns are
// lanes of a vector.

namespace cpools::cpu::CPOOLS_ISA {

// Prefetches memory that is needed soon. An address past the end does no harm.
template <bool kWritten>
CPOOLS_INLINE void prefetch(const void* from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) {
    __builtin_prefetch(static_cast<const char*>(from) + i, kWritten);
  }
}

// Up to eight rows, from row `row` on, of kVectors vectors of neighbouring columns; with kPartial
// of the first `lanes` columns of one vector. `slot` counts vectors from the block's first column.
template <class Pass, bool kDescending, int kVectors, bool kPartial>
CPOOLS_INLINE void column_strip(
    const Block<typename Pass::L>& block, int64_t row, int64_t slot, int lanes, bool opening,
    Pass* states) {
  using L = typename Pass::L;
  const int rows = block.length - row < 8 ? static_cast<int>(block.length - row) : 8;
  const int first = kDescending ? rows - 1 : 0;
  const int64_t column = block.begin + slot * L::kCount;
  const int64_t step = kDescending ? -block.inner : block.inner;
  const typename L::Stored* const input = block.input;
  typename L::Stored* const output = block.output;
  int64_t offset = (row + first) * block.inner + column;
  uint8_t* record = block.record + row / 8 * block.inner + column;
  const int bytes = kPartial ? lanes : L::kCount;

  Pass state[kVectors];
  typename L::Bits bits[kVectors] = {};
  typename L::Bits mark = byte_marks<L>() << first;
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) {
    state[i] = states[slot + i];
    if (Pass::kWritesRecord) {
      bits[i] = opening ? mark : typename L::Bits{};  // the first position always starts one
    } else {
      load_bytes<L>(record + i * L::kCount, bytes, bits[i]);
    }
  }
  constexpr size_t kBytes = kVectors > 1 ? kVectors * sizeof(typename L::Raw) : 0;
  for (int k = 0; k < rows; ++k) {
    prefetch<false>(input + offset + 8 * step, kBytes);  // the next rows
    prefetch<true>(output + offset + 8 * step, kBytes);
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      typename L::Vector in, out;
      load<L, kPartial>(input + offset + i * L::kCount, lanes, in);
      state[i].step(in, mark, bits[i], out);
      if (Pass::kAddsToOutput) {
        typename L::Vector addend;
        load<L, kPartial>(output + offset + i * L::kCount, lanes, addend);
        out += addend;
      }
      store<L, kPartial, Pass::kExact>(output + offset + i * L::kCount, lanes, out);
    }
    offset += step;
    mark = kDescending ? mark >> 1 : mark << 1;
  }
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) {
    states[slot + i] = state[i];
    if (Pass::kWritesRecord) store_bytes<L>(record + i * L::kCount, bytes, bits[i]);
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

}  // namespace cpools::cpu::CPOOLS_ISA
