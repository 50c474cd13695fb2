// The step of each pass at one position, with one line of the scan in each lane. Where a maximum
// starts, `record` has the bit `mark`.
//
// The forward pass keeps the running maximum. A maximum takes the gradients from where it starts up to
// where the next one does: the backward pass walks against the scan, adds them up, writes the sum
// where a maximum starts, and begins at 0 again.

namespace cpools::cpu::CPOOLS_ISA {

// With kAdd the maxima are added to the values in the output.
template <class Lanes, bool kAdd>
struct Forward {
  using L = Lanes;
  static constexpr bool kWritesRecord = true, kAddsToOutput = kAdd, kExact = !kAdd;
  typename L::Vector running = typename L::Vector{} - __builtin_inff();

  CPOOLS_INLINE void step(
      const typename L::Vector& x, const typename L::Bits& mark, typename L::Bits& record,
      typename L::Vector& y) {
    const typename L::Mask starts = (x > running) | (x != x);
    running = starts ? x : running;
    record |= (typename L::Bits)starts & mark;
    y = running;
  }
};

template <class Lanes>
struct Backward {
  using L = Lanes;
  static constexpr bool kWritesRecord = false, kAddsToOutput = false, kExact = false;
  typename L::Vector sum = {};

  CPOOLS_INLINE void step(
      const typename L::Vector& grad, const typename L::Bits& mark, typename L::Bits& record,
      typename L::Vector& grad_input) {
    const typename L::Vector zero = {};
    const typename L::Mask starts = (record & mark) != 0;
    sum += grad;
    grad_input = starts ? sum : zero;
    sum = starts ? zero : sum;
  }
};

// The memory of a pass and the columns or lines that it covers.
template <class L>
struct Block {
  const typename L::Stored* input;
  typename L::Stored* output;
  uint8_t* record;
  int64_t length, inner, begin, end;

  CPOOLS_INLINE explicit Block(const Part& part)
      : input(static_cast<const typename L::Stored*>(part.input)),
        output(static_cast<typename L::Stored*>(part.output)),
        record(part.record),
        length(part.length),
        inner(part.inner),
        begin(part.begin),
        end(part.end) {}
};

}  // namespace cpools::cpu::CPOOLS_ISA
