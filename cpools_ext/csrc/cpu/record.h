// The record's bits, in lanes and in memory.

namespace cpools::cpu::CPOOLS_ISA {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a word's first byte is its lowest");

// Bytes of the record, one a lane and neighbours in memory, keep their place in their word of four:
// the byte of lane i begins at bit 8 * (i % 4), as these marks do.
template <class L>
CPOOLS_INLINE typename L::Bits byte_marks() {
  typename L::Bits marks = {};
  for (int i = 0; i < L::kCount; ++i) marks[i] = 1u << i % 4 * 8;
  return marks;
}

template <class L>
CPOOLS_INLINE void load_bytes(const uint8_t* from, int count, typename L::Bits& bits) {
  uint64_t bytes = 0;
  __builtin_memcpy(&bytes, from, count);
  const auto low = static_cast<uint32_t>(bytes), high = static_cast<uint32_t>(bytes >> 32);
  if constexpr (L::kCount == 8) {
    bits = typename L::Bits{low, low, low, low, high, high, high, high};
  } else {
    bits = typename L::Bits{} + low;
  }
}

CPOOLS_INLINE uint64_t gather_bytes(typename VectorOf<uint64_t, 2>::type bits) {
  return bits[0] | bits[1];
}

template <typename Bits>
CPOOLS_INLINE uint64_t gather_bytes(const Bits& bits) {
  if constexpr (sizeof(bits) / sizeof(bits[0]) == 4) {
    const Bits pairs = bits | __builtin_shufflevector(bits, bits, 2, 3, 0, 1);
    return pairs[0] | pairs[1];
  } else {
    const Bits pairs = bits | __builtin_shufflevector(bits, bits, 2, 3, 0, 1, 6, 7, 4, 5);
    const Bits all = pairs | __builtin_shufflevector(pairs, pairs, 1, 0, 3, 2, 5, 4, 7, 6);
    return all[0] | static_cast<uint64_t>(all[4]) << 32;
  }
}

template <class L>
CPOOLS_INLINE void store_bytes(uint8_t* to, int count, const typename L::Bits& bits) {
  const uint64_t bytes = gather_bytes(bits);
  __builtin_memcpy(to, &bytes, count);
}

// Loads up to four bytes of the record into each lane, from the lane's offset on.
template <class L>
CPOOLS_INLINE void load_words(
    const uint8_t* from, const int64_t (&offsets)[L::kCount], int bytes,
    typename L::Bits& bits) {
  bits = typename L::Bits{};
  for (int i = 0; i < L::kCount; ++i) {
    uint32_t word = 0;
    if (bytes == 4) {
      __builtin_memcpy(&word, from + offsets[i], 4);
    } else {
      __builtin_memcpy(&word, from + offsets[i], bytes);
    }
    bits[i] = word;
  }
}

}  // namespace cpools::cpu::CPOOLS_ISA
