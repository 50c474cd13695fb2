// The step of each pass at one position of the scan, with one line of the scan in each lane. Where
// a maximum starts, `record` has the bit `mark`.
//
// The forward pass keeps the running maximum. The backward pass goes over the lines twice, so that
// gradients are added in scan order: `Sum` writes the running sum of each maximum's gradients to a
// scratch buffer, and `Settle` runs from the scan's end to its start and moves each total, which is
// the sum where the maximum ends, to the position where the maximum started.

namespace cpools::cpu::CPOOLS_ISA {

// With kAdd the maxima are added to the values in the output.
template <class Lanes, bool kAdd>
struct Forward {
  using L = Lanes;
  static constexpr bool kFromScratch = false, kToScratch = false, kWritesRecord = true;
  static constexpr bool kAddsToOutput = kAdd, kExact = !kAdd;
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
struct Sum {
  using L = Lanes;
  static constexpr bool kFromScratch = false, kToScratch = true, kWritesRecord = false;
  static constexpr bool kAddsToOutput = false, kExact = true;
  typename L::Vector running = {};

  CPOOLS_INLINE void step(
      const typename L::Vector& grad, const typename L::Bits& mark, typename L::Bits& record,
      typename L::Vector& sum) {
    const typename L::Mask starts = (record & mark) != 0;
    running = starts ? grad : running + grad;
    sum = running;
  }
};

template <class Lanes>
struct Settle {
  using L = Lanes;
  static constexpr bool kFromScratch = true, kToScratch = false, kWritesRecord = false;
  static constexpr bool kAddsToOutput = false, kExact = false;
  typename L::Vector total = {};
  typename L::Mask ends = ~typename L::Mask{};

  CPOOLS_INLINE void step(
      const typename L::Vector& sum, const typename L::Bits& mark, typename L::Bits& record,
      typename L::Vector& grad_input) {
    const typename L::Vector zero = {};
    const typename L::Mask starts = (record & mark) != 0;
    total = ends ? sum : total;
    grad_input = starts ? total : zero;
    ends = starts;
  }
};

// The memory of a pass and the columns or lines that it covers.
template <class L>
struct Block {
  const typename L::Stored* input;
  typename L::Stored* output;
  uint8_t* record;
  typename L::Vector* scratch;  // a vector for each kCount columns of a row, or kCount lines' position
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

}  // namespace cpools::cpu::CPOOLS_ISA
