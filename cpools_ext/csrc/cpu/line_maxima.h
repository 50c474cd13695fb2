// The forward pass over lines: neighbours of a line are lanes of a vector, which is scanned in the
// processor's registers. The order of the comparisons does not change a maximum.

namespace cpools::cpu::CPOOLS_ISA {

// One bit a lane, the first lane's the lowest.
template <typename Mask>
CPOOLS_INLINE uint32_t lane_bits(const Mask& mask) {
#if defined(CPOOLS_AVX2)
  if (sizeof(mask[0]) == 8) return _mm256_movemask_pd((__m256d)mask);
  return _mm256_movemask_ps((__m256)mask);
#elif defined(__x86_64__)
  if (sizeof(mask[0]) == 8) return _mm_movemask_pd((__m128d)mask);
  return _mm_movemask_ps((__m128)mask);
#else
  uint32_t bits = 0;
  for (size_t i = 0; i < sizeof(mask) / sizeof(mask[0]); ++i) bits |= (mask[i] & 1u) << i;
  return bits;
#endif
}

// The lane from which lane `lane` of `count` takes the value that came `distance` positions earlier
// in the scan: its own where there is none, which changes no maximum.
template <bool kDescending>
constexpr int earlier_lane(int lane, int distance, int count) {
  const int from = kDescending ? lane + distance : lane - distance;
  return 0 <= from && from < count ? from : lane;
}

template <bool kDescending, int kDistance, typename Vector, int... kLanes>
CPOOLS_INLINE void take_earlier(
    const Vector& from, Vector& to, std::integer_sequence<int, kLanes...>) {
  constexpr int kCount = sizeof...(kLanes);
  to = __builtin_shufflevector(from, from, earlier_lane<kDescending>(kLanes, kDistance, kCount)...);
}

// The scan's last lane, in all lanes.
template <bool kDescending, typename Vector, int... kLanes>
CPOOLS_INLINE void take_last(
    const Vector& from, Vector& to, std::integer_sequence<int, kLanes...>) {
  constexpr int kLast = kDescending ? 0 : sizeof...(kLanes) - 1;
  to = __builtin_shufflevector(from, from, (kLanes * 0 + kLast)...);
}

// Of equal values the earlier one stays, as in a scan one after the other; there is no NaN.
template <typename Vector>
CPOOLS_INLINE void keep_greatest(const Vector& earlier, Vector& later) {
  later = later > earlier ? later : earlier;
}

template <class L, bool kDescending>
struct LineMaximum {
  using Vector = typename L::Vector;
  using Order = std::make_integer_sequence<int, L::kCount>;
  Vector carry = Vector{} - __builtin_inff();  // the maximum so far, in all lanes
  bool has_nan = false;

  // Returns a bit a lane, set where a maximum starts.
  CPOOLS_INLINE uint32_t step(const Vector& x, Vector& maxima) {
    if (__builtin_expect(has_nan || lane_bits(x != x) != 0, false)) return step_by_lane(x, maxima);
    Vector other;
    maxima = x;
    take_earlier<kDescending, 1>(maxima, other, Order{});
    keep_greatest(other, maxima);
    if constexpr (L::kCount > 2) {
      take_earlier<kDescending, 2>(maxima, other, Order{});
      keep_greatest(other, maxima);
    }
    if constexpr (L::kCount > 4) {
      take_earlier<kDescending, 4>(maxima, other, Order{});
      keep_greatest(other, maxima);
    }
    Vector before, all;
    take_earlier<kDescending, 1>(maxima, before, Order{});
    typename L::Mask is_first = {};
    is_first[kDescending ? L::kCount - 1 : 0] = -1;
    before = is_first ? carry : before;
    keep_greatest(carry, before);
    take_last<kDescending>(maxima, all, Order{});
    keep_greatest(carry, maxima);
    keep_greatest(carry, all);
    carry = all;
    return lane_bits(x > before);
  }

  CPOOLS_INLINE uint32_t step_by_lane(const Vector& x, Vector& maxima) {
    typename L::Value running = carry[0];
    uint32_t bits = 0;
    for (int k = 0; k < L::kCount; ++k) {
      const int i = kDescending ? L::kCount - 1 - k : k;
      const bool starts = x[i] > running || x[i] != x[i];
      if (starts) running = x[i];
      bits |= static_cast<uint32_t>(starts) << i;
      maxima[i] = running;
    }
    has_nan = running != running;
    take_last<kDescending>(maxima, carry, Order{});
    return bits;
  }
};

// Scans `count` neighbours of a line from `input` on; a full vector unless kPartial.
template <class L, bool kDescending, bool kPartial>
CPOOLS_INLINE uint32_t line_vector(
    const typename L::Stored* input, typename L::Stored* output, int count,
    LineMaximum<L, kDescending>& maximum) {
  typename L::Vector x, maxima;
  load<L, kPartial>(input, count, x);
  if (kPartial) {
    for (int i = count; i < L::kCount; ++i) x[i] = -__builtin_inff();
  }
  const uint32_t bits = maximum.step(x, maxima);
  store<L, kPartial, true>(output, count, maxima);
  return bits;
}

// Scans line `line`, eight positions at a time, which are one byte of the record.
template <class L, bool kDescending>
CPOOLS_INLINE void line_maxima(const Block<L>& block, int64_t line) {
  constexpr int kVectors = 8 / L::kCount;
  const int64_t bytes = (block.length + 7) / 8;
  const typename L::Stored* const input = block.input + line * block.length;
  typename L::Stored* const output = block.output + line * block.length;
  uint8_t* const record = block.record + line * bytes;
  LineMaximum<L, kDescending> maximum;
  uint32_t bits = 1u << (kDescending ? (block.length - 1) % 8 : 0);  // the first always starts one
  for (int64_t step = 0; step < bytes; ++step) {
    const int64_t byte = kDescending ? bytes - 1 - step : step;
    const int64_t rest = block.length - 8 * byte;
#pragma GCC unroll 4
    for (int k = 0; k < kVectors; ++k) {
      const int first = (kDescending ? kVectors - 1 - k : k) * L::kCount;
      const int64_t at = 8 * byte + first;
      if (rest >= first + L::kCount) {
        bits |= line_vector<L, kDescending, false>(input + at, output + at, L::kCount, maximum)
            << first;
      } else if (rest > first) {
        const int count = static_cast<int>(rest) - first;
        bits |= line_vector<L, kDescending, true>(input + at, output + at, count, maximum) << first;
      }
    }
    record[byte] = static_cast<uint8_t>(bits);
    bits = 0;
  }
}

}  // namespace cpools::cpu::CPOOLS_ISA
