// Vectors of one instruction set, written in the compiler's vector extension (GCC and Clang).
// Included once per instruction set by corner_pool.cpp, hence no include guard. It needs
//   CPOOLS_ISA      the namespace,
//   CPOOLS_TARGET   the function attribute that names the instruction set, may be empty,
//   CPOOLS_BYTES    the width of a vector: 16 or 32.

#define CPOOLS_INLINE CPOOLS_TARGET inline __attribute__((always_inline))

namespace cpools::cpu::CPOOLS_ISA {

template <typename T, int kCount>
struct VectorOf {
  typedef T type __attribute__((vector_size(sizeof(T) * kCount)));
};

// How the elements of a tensor become lanes. Half types are widened to float, which keeps every
// value and adds gradients in float.
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
  CPOOLS_INLINE static void narrow(const Vector& value, Raw& raw) { raw = value; }
};

template <>
struct Lanes<Element::kFloat32> : PlainLanes<float, int32_t, uint32_t> {};

template <>
struct Lanes<Element::kFloat64> : PlainLanes<double, int64_t, uint64_t> {};

struct HalfLanes {
  using Stored = uint16_t;
  using Value = float;
  static constexpr int kCount = CPOOLS_BYTES / sizeof(float);
  using Vector = typename VectorOf<float, kCount>::type;
  using Mask = typename VectorOf<int32_t, kCount>::type;
  using Bits = typename VectorOf<uint32_t, kCount>::type;
  using Raw = typename VectorOf<uint16_t, kCount>::type;
};

template <>
struct Lanes<Element::kBFloat16> : HalfLanes {
  CPOOLS_INLINE static void widen(const Raw& raw, Vector& value) {
    value = (Vector)(__builtin_convertvector(raw, Bits) << 16);
  }

  CPOOLS_INLINE static void narrow(const Vector& value, Raw& raw) {
    const Bits bits = (Bits)value;
    const Bits nearest_even = bits + 0x7fff + ((bits >> 16) & 1);
    const Bits quiet = bits | 0x400000;  // rounding could turn a NaN into infinity
    raw = __builtin_convertvector((value == value ? nearest_even : quiet) >> 16, Raw);
  }
};

template <>
struct Lanes<Element::kFloat16> : HalfLanes {
  CPOOLS_INLINE static void widen(const Raw& raw, Vector& value) {
    const Bits bits = __builtin_convertvector(raw, Bits);
    const Mask magnitude = (Mask)((bits & 0x7fff) << 13);
    const Mask normal = magnitude + (112 << 23);  // the exponent's bias: 15 becomes 127
    const Mask special = normal + (112 << 23);    // infinity and NaN
    const Mask subnormal = (Mask)((Vector)(normal + (1 << 23)) - 0x1p-14f);
    const Mask finite = magnitude < (1 << 23) ? subnormal : normal;
    const Mask all = magnitude < (31 << 23) ? finite : special;
    value = (Vector)((Bits)all | ((bits & 0x8000) << 16));
  }

  CPOOLS_INLINE static void narrow(const Vector& value, Raw& raw) {
    const Bits bits = (Bits)value;
    const Mask magnitude = (Mask)(bits & 0x7fffffff);
    const Mask normal = (magnitude - (112 << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    // Added to 0.5, a subnormal half's last bit is the last bit of the sum.
    const Mask subnormal = (Mask)((Vector)magnitude + 0.5f) - 0x3f000000;
    const Mask finite = magnitude < (113 << 23) ? subnormal : normal;
    const Mask special = 0x7c00 | ((magnitude > 0x7f800000) & 0x0200);  // infinity, quiet NaN
    const Mask all = magnitude < 0x477ff000 ? finite : special;  // 65520 and above round to infinity
    raw = __builtin_convertvector((Bits)all | ((bits >> 16) & 0x8000), Raw);
  }
};

// A vector from and to memory. With kPartial only the first `count` lanes are touched; the other
// lanes of the loaded vector are zero.
template <class L, bool kPartial>
CPOOLS_INLINE void load(const typename L::Stored* from, int count, typename L::Vector& value) {
  typename L::Raw raw = {};
  __builtin_memcpy(&raw, from, kPartial ? count * sizeof(*from) : sizeof(raw));
  L::widen(raw, value);
}

template <class L, bool kPartial>
CPOOLS_INLINE void store(typename L::Stored* to, int count, const typename L::Vector& value) {
  typename L::Raw raw;
  L::narrow(value, raw);
  __builtin_memcpy(to, &raw, kPartial ? count * sizeof(*to) : sizeof(raw));
}

// One byte of the record a lane, neighbours in memory.
template <class L>
CPOOLS_INLINE void load_bytes(const uint8_t* from, int count, typename L::Bits& bits) {
  typename VectorOf<uint8_t, L::kCount>::type bytes = {};
  __builtin_memcpy(&bytes, from, count);
  bits = __builtin_convertvector(bytes, typename L::Bits);
}

template <class L>
CPOOLS_INLINE void store_bytes(uint8_t* to, int count, const typename L::Bits& bits) {
  const auto bytes =
      __builtin_convertvector(bits, typename VectorOf<uint8_t, L::kCount>::type);
  __builtin_memcpy(to, &bytes, count);
}

// Up to four bytes of the record a lane, `stride` bytes between two lines of it.
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a word's first byte is its lowest");

template <class L>
CPOOLS_INLINE void load_words(
    const uint8_t* from, const int64_t (&lines)[L::kCount], int64_t stride, int bytes,
    typename L::Bits& bits) {
  for (int i = 0; i < L::kCount; ++i) {
    uint32_t word = 0;
    if (bytes == 4) {
      __builtin_memcpy(&word, from + lines[i] * stride, 4);
    } else {
      __builtin_memcpy(&word, from + lines[i] * stride, bytes);
    }
    bits[i] = word;
  }
}

template <class L>
CPOOLS_INLINE void store_words(
    uint8_t* to, const int64_t (&lines)[L::kCount], int64_t stride, int bytes,
    const typename L::Bits& bits) {
  for (int i = 0; i < L::kCount; ++i) {
    const uint32_t word = static_cast<uint32_t>(bits[i]);
    if (bytes == 4) {
      __builtin_memcpy(to + lines[i] * stride, &word, 4);
    } else {
      __builtin_memcpy(to + lines[i] * stride, &word, bytes);
    }
  }
}

template <typename Vector>
CPOOLS_INLINE void transpose(Vector (&v)[2]) {
  const Vector a = v[0], b = v[1];
  v[0] = __builtin_shufflevector(a, b, 0, 2);
  v[1] = __builtin_shufflevector(a, b, 1, 3);
}

template <typename Vector>
CPOOLS_INLINE void transpose(Vector (&v)[4]) {
  const Vector a = __builtin_shufflevector(v[0], v[1], 0, 4, 2, 6);
  const Vector b = __builtin_shufflevector(v[0], v[1], 1, 5, 3, 7);
  const Vector c = __builtin_shufflevector(v[2], v[3], 0, 4, 2, 6);
  const Vector d = __builtin_shufflevector(v[2], v[3], 1, 5, 3, 7);
  v[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
  v[1] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
  v[2] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
  v[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}

template <typename Vector>
CPOOLS_INLINE void transpose(Vector (&v)[8]) {
  Vector a[8], b[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    a[i] = __builtin_shufflevector(v[i], v[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    a[i + 1] = __builtin_shufflevector(v[i], v[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 4) {
    b[i] = __builtin_shufflevector(a[i], a[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    b[i + 1] = __builtin_shufflevector(a[i], a[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    b[i + 2] = __builtin_shufflevector(a[i + 1], a[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
    b[i + 3] = __builtin_shufflevector(a[i + 1], a[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    v[i] = __builtin_shufflevector(b[i], b[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    v[i + 4] = __builtin_shufflevector(b[i], b[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

}  // namespace cpools::cpu::CPOOLS_ISA
