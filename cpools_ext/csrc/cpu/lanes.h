// Conversion between elements of a tensor and lanes of a vector, with the vector extension of GCC
// and Clang.
//
// The files that kernels.h includes have no include guards: corner_pool.cpp includes them once per
// instruction set, with
//   CPOOLS_ISA     the namespace,
//   CPOOLS_TARGET  the function attribute that names the instruction set, may be empty,
//   CPOOLS_BYTES   the width of a vector: 16 or 32,
//   CPOOLS_AVX2    defined where the instruction set is AVX2 with F16C.

#define CPOOLS_INLINE CPOOLS_TARGET inline __attribute__((always_inline))

namespace cpools::cpu::CPOOLS_ISA {

template <typename T, int kCount>
struct VectorOf {
  typedef T type __attribute__((vector_size(sizeof(T) * kCount)));
};

// `widen` converts elements to the type of the arithmetic, `narrow` converts them back. kExact: the
// value is one that `widen` gave, so it needs no rounding.
template <Element kElement>
struct Lanes;

template <typename T, typename Int, typename Unsigned>
struct PlainLanes {
  using Stored = T;
  using Value = T;
  static constexpr int kCount = CPOOLS_BYTES / sizeof(T);
  using Vector = typename VectorOf<T, kCount>::type;
  using Mask = typename VectorOf<Int, kCount>::type;
  using Bits = typename VectorOf<Unsigned, kCount>::type;
  using Raw = Vector;

  CPOOLS_INLINE static void widen(const Raw& raw, Vector& value) { value = raw; }

  template <bool kExact>
  CPOOLS_INLINE static void narrow(const Vector& value, Raw& raw) {
    raw = value;
  }
};

template <>
struct Lanes<Element::kFloat32> : PlainLanes<float, int32_t, uint32_t> {};

template <>
struct Lanes<Element::kFloat64> : PlainLanes<double, int64_t, uint64_t> {};

// Half types are widened to float, which keeps every value and adds gradients in float.
struct HalfLanes {
  using Stored = uint16_t;
  using Value = float;
  static constexpr int kCount = CPOOLS_BYTES / sizeof(float);
  using Vector = typename VectorOf<float, kCount>::type;
  using Mask = typename VectorOf<int32_t, kCount>::type;
  using Bits = typename VectorOf<uint32_t, kCount>::type;
  using Raw = typename VectorOf<uint16_t, kCount>::type;
};

// Conversion between 16 and 32 bits a lane; compilers make slow code of the general one.
#ifdef CPOOLS_AVX2
CPOOLS_INLINE void widen_lanes(const HalfLanes::Raw& from, HalfLanes::Bits& to) {
  to = (HalfLanes::Bits)_mm256_cvtepu16_epi32((__m128i)from);
}

CPOOLS_INLINE void narrow_lanes(const HalfLanes::Bits& from, HalfLanes::Raw& to) {
  const __m256i all = (__m256i)from;
  to = (HalfLanes::Raw)_mm_packus_epi32(
      _mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}
#else
CPOOLS_INLINE void widen_lanes(const HalfLanes::Raw& from, HalfLanes::Bits& to) {
  to = __builtin_convertvector(from, HalfLanes::Bits);
}

CPOOLS_INLINE void narrow_lanes(const HalfLanes::Bits& from, HalfLanes::Raw& to) {
  const auto halves = (VectorOf<uint16_t, 8>::type)from;
  to = __builtin_shufflevector(halves, halves, 0, 2, 4, 6);
}
#endif

template <>
struct Lanes<Element::kBFloat16> : HalfLanes {
  CPOOLS_INLINE static void widen(const Raw& raw, Vector& value) {
    Bits bits;
    widen_lanes(raw, bits);
    value = (Vector)(bits << 16);
  }

  template <bool kExact>
  CPOOLS_INLINE static void narrow(const Vector& value, Raw& raw) {
    Bits bits = (Bits)value;
    if (!kExact) {
      const Bits nearest_even = bits + 0x7fff + ((bits >> 16) & 1);
      const Bits quiet = bits | 0x400000;  // rounding could turn a NaN into infinity
      bits = value == value ? nearest_even : quiet;
    }
    narrow_lanes(bits >> 16, raw);
  }
};

template <>
struct Lanes<Element::kFloat16> : HalfLanes {
#ifdef CPOOLS_AVX2
  CPOOLS_INLINE static void widen(const Raw& raw, Vector& value) {
    value = _mm256_cvtph_ps((__m128i)raw);
  }

  template <bool kExact>
  CPOOLS_INLINE static void narrow(const Vector& value, Raw& raw) {
    raw = (Raw)_mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT);
  }
#else
  CPOOLS_INLINE static void widen(const Raw& raw, Vector& value) {
    Bits bits;
    widen_lanes(raw, bits);
    const Mask magnitude = (Mask)((bits & 0x7fff) << 13);
    const Mask normal = magnitude + (112 << 23);  // the exponent's bias: 15 becomes 127
    const Mask special = normal + (112 << 23);    // infinity and NaN
    const Mask subnormal = (Mask)((Vector)(normal + (1 << 23)) - 0x1p-14f);
    const Mask finite = magnitude < (1 << 23) ? subnormal : normal;
    const Mask all = magnitude < (31 << 23) ? finite : special;
    value = (Vector)((Bits)all | ((bits & 0x8000) << 16));
  }

  template <bool kExact>
  CPOOLS_INLINE static void narrow(const Vector& value, Raw& raw) {
    const Bits bits = (Bits)value;
    const Mask magnitude = (Mask)(bits & 0x7fffffff);
    const Mask normal = (magnitude - (112 << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    // Added to 0.5, a subnormal half's last bit is the last bit of the sum.
    const Mask subnormal = (Mask)((Vector)magnitude + 0.5f) - 0x3f000000;
    const Mask finite = magnitude < (113 << 23) ? subnormal : normal;
    const Mask special = 0x7c00 | ((magnitude > 0x7f800000) & 0x0200);  // infinity, quiet NaN
    const Mask all = magnitude < 0x477ff000 ? finite : special;  // 65520 and above round to infinity
    narrow_lanes((Bits)all | ((bits >> 16) & 0x8000), raw);
  }
#endif
};

// Load and store of a vector. With kPartial only the first `count` lanes are read or written; the
// other lanes of the loaded vector are zero.
template <class L, bool kPartial>
CPOOLS_INLINE void load(const typename L::Stored* from, int count, typename L::Vector& value) {
  typename L::Raw raw = {};
  __builtin_memcpy(&raw, from, kPartial ? count * sizeof(*from) : sizeof(raw));
  L::widen(raw, value);
}

template <class L, bool kPartial, bool kExact>
CPOOLS_INLINE void store(typename L::Stored* to, int count, const typename L::Vector& value) {
  typename L::Raw raw;
  L::template narrow<kExact>(value, raw);
  __builtin_memcpy(to, &raw, kPartial ? count * sizeof(*to) : sizeof(raw));
}

}  // namespace cpools::cpu::CPOOLS_ISA
