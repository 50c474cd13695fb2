// The backward pass over lines: the positions of a scan are neighbours in memory.

namespace cpools::cpu::CPOOLS_ISA {

// Neighbouring lines, one a lane. Lanes past the block's end repeat its last line, and write the
// same values again.
template <class L>
struct LineGroup {
  int64_t offsets[L::kCount], record_offsets[L::kCount];
  Backward<L> state;
  typename L::Bits bits;

  CPOOLS_INLINE void place(const Block<L>& block, int64_t line) {
    for (int i = 0; i < L::kCount; ++i) {
      const int64_t number = line + i < block.end ? line + i : block.end - 1;
      offsets[i] = number * block.length;
      record_offsets[i] = number * ((block.length + 7) / 8);
    }
  }
};

// kCount lines by kCount positions, with kPartial by `count` positions. A line is a vector in memory
// and a lane in the scan, so the tile is transposed when it is loaded and before it is stored.
template <class L, bool kDescending, bool kPartial>
CPOOLS_INLINE void line_tile(
    const Block<L>& block, LineGroup<L>& group, int64_t position, int count) {
  const typename L::Stored* input = block.input + position;
  typename L::Stored* output = block.output + position;
  const int steps = kPartial ? count : L::kCount;
  Backward<L> state = group.state;
  typename L::Bits bits = group.bits >> position % 32;
  typename L::Vector tile[L::kCount];
  constexpr int kAhead = kDescending ? -64 : 64, kBytes = kPartial ? 0 : 64;
#pragma GCC unroll 8
  for (int i = 0; i < L::kCount; ++i) {
    prefetch<false>(input + group.offsets[i] + kAhead, kBytes);
    prefetch<true>(output + group.offsets[i] + kAhead, kBytes);
    load<L, kPartial>(input + group.offsets[i], count, tile[i]);
  }
  transpose(tile);
#pragma GCC unroll 8
  for (int k = 0; k < steps; ++k) {
    const int at = kDescending ? steps - 1 - k : k;
    const typename L::Bits mark = typename L::Bits{} + (1u << at);
    typename L::Vector out;
    state.step(tile[at], mark, bits, out);
    tile[at] = out;
  }
  group.state = state;
  transpose(tile);
#pragma GCC unroll 8
  for (int i = 0; i < L::kCount; ++i) {
    store<L, kPartial, Backward<L>::kExact>(output + group.offsets[i], count, tile[i]);
  }
}

constexpr int kGroups = 4;  // scanned together, so that the processor does not wait for one's sums

// kGroups groups of lines from `line` on, in words of 32 positions with four bytes of the record.
template <class L, bool kDescending>
CPOOLS_INLINE void walk_lines(const Block<L>& block, int64_t line) {
  const int64_t bytes = (block.length + 7) / 8, words = (block.length + 31) / 32;
  LineGroup<L> groups[kGroups];
  const int64_t needed = (block.end - line + L::kCount - 1) / L::kCount;
  const int active = needed < kGroups ? static_cast<int>(needed) : kGroups;
  for (int g = 0; g < active; ++g) groups[g].place(block, line + g * L::kCount);
  for (int64_t step = 0; step < words; ++step) {
    const int64_t word = kDescending ? words - 1 - step : step;
    const int64_t from = 32 * word;
    const int64_t to = from + 32 < block.length ? from + 32 : block.length;
    const int64_t whole = from + (to - from) / L::kCount * L::kCount;
    const int rest = static_cast<int>(to - whole);
    const int word_bytes = bytes - 4 * word < 4 ? static_cast<int>(bytes - 4 * word) : 4;
    const uint8_t* const record = block.record + 4 * word;
    for (int g = 0; g < active; ++g) {
      LineGroup<L>& group = groups[g];
      load_words<L>(record, group.record_offsets, word_bytes, group.bits);
      if (kDescending && rest > 0) line_tile<L, kDescending, true>(block, group, whole, rest);
    }
    for (int64_t k = from; k < whole; k += L::kCount) {
      const int64_t at = kDescending ? from + whole - L::kCount - k : k;
      for (int g = 0; g < active; ++g) {
        line_tile<L, kDescending, false>(block, groups[g], at, L::kCount);
      }
    }
    for (int g = 0; g < active && !kDescending && rest > 0; ++g) {
      line_tile<L, kDescending, true>(block, groups[g], whole, rest);
    }
  }
}

}  // namespace cpools::cpu::CPOOLS_ISA
