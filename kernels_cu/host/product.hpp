// Matrix products on the host: blocks of outputs stay in vector registers over all terms.
//
// Needs the semifield's macros and SEMICONV_STORAGE; SEMICONV_CHANNELS_ADD has no effect. No sizes are
// compiled in. Exported by product.cpp and product_residual.cpp.
//
// One operand runs along the vectors' lanes, the other one is broadcast: a register block has ROWS of the
// broadcast operand and VECTORS registers of the other.
//
//                 v: VECTORS registers
//               +----------+----------+
//     u: row 0  |  acc     |  acc     |    for each term t:
//        row 1  |  acc     |  acc     |      acc[r][w].add(times(u[t][r], v[t][w]))
//        ...    +----------+----------+
//
// Which operand is which follows from the sizes and from where the result's neighbours lie. An item of work
// is a block of outputs that one thread computes. It takes a block of terms at a time, so that a panel of v
// stays in the L1 cache, and its block of v in L2 (Goto and van de Geijn, Anatomy of high-performance matrix
// multiplication, 2008):
//
//     for each block of terms:      fill the panels of v
//       for each ROWS rows:         fill the panel of u
//         for each panel of v:      accumulate(); after the last block of terms: store the results
//
// Accumulators wait in memory between blocks of terms. Blocks of terms depend on the semifield and the
// dtype alone, so that no thread changes a bit.
#pragma once
#include "forward.hpp"
#include "panels.hpp"

namespace semiconv {

// ---- register blocks -----------------------------------------------------------------------------

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int registers = 32;
#else
constexpr int registers = 16;
#endif
// Rows of a register block of two vectors: as many as leave registers for the operands.
template <class A> constexpr int rows_of() {
  if (A::two_pass) return 2;
  if (UsesProvenance<A>::value) return registers == 32 ? 6 : 3;
  return registers == 32 ? 12 : 6;
}
// Lanes that count winners hold so many; a block of terms has no more.
constexpr int64 most_winners = sizeof(MaskLane) == 1 ? 112 : sizeof(MaskLane) == 2 ? 32752 : 1 << 30;

// The term that an accumulator adds: the semifield's multiplication, unless it has one of its own.
template <class A> struct Multiplies {
  static SEMICONV_FN Vector of(Vector img, Vector krn) { return times(img, krn); }
};
template <class A, bool KRN_IS_VECTOR> SEMICONV_FN Vector term_of(Vector u, Vector v) {
  return KRN_IS_VECTOR ? Multiplies<A>::of(u, v) : Multiplies<A>::of(v, u);
}

// Terms 0 .. count - 1 of a register block, from two panels; `first` is the first one's number.
template <class A, int ROWS, int VECTORS, bool KRN_IS_VECTOR>
__attribute__((noinline)) void accumulate(const Real* u, const Real* v, int64 first, int64 count,
                                          bool starts, A* block) {
  A acc[ROWS * VECTORS];
#pragma GCC unroll 32
  for (int j = 0; j < ROWS * VECTORS; ++j) {
    if (starts) acc[j].start();
    else acc[j] = block[j];
  }
  const auto each_term = [&](int64 begin, int64 end, auto change) __attribute__((always_inline)) {
    Mask index = Mask{} + (MaskLane)(first + begin);
    for (int64 t = begin; t < end; ++t) {
      Vector along[VECTORS];
#pragma GCC unroll 8
      for (int w = 0; w < VECTORS; ++w) along[w] = load_vector<Vector>(v + (t * VECTORS + w) * lanes);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) {
        const Vector one = broadcast(u[t * ROWS + r]);
#pragma GCC unroll 8
        for (int w = 0; w < VECTORS; ++w)
          change(acc[r * VECTORS + w], term_of<A, KRN_IS_VECTOR>(one, along[w]), index);
      }
      index = index + (MaskLane)1;
    }
  };
  const auto add = [](A& one, Vector term, Mask index) { one.add(term, index); };
  if constexpr (A::two_pass) {
    each_term(0, count, [](A& one, Vector term, Mask) { one.observe(term); });
#pragma GCC unroll 32
    for (int j = 0; j < ROWS * VECTORS; ++j) acc[j].settle();
  }
  if constexpr (folds) {
    for (int64 begin = 0; begin < count; begin += terms_per_fold) {
      each_term(begin, smaller_of(begin + terms_per_fold, count), add);
#pragma GCC unroll 32
      for (int j = 0; j < ROWS * VECTORS; ++j) acc[j].fold();
    }
  } else {
    each_term(0, count, add);
  }
#pragma GCC unroll 32
  for (int j = 0; j < ROWS * VECTORS; ++j) block[j] = acc[j];
}

// ---- results -------------------------------------------------------------------------------------

// Where a block of outputs lies: the offsets of its rows, and those of its columns, along the lanes.
struct Places {
  const int64 *rows, *columns;
  int count;       // columns that are outputs
  bool adjoining;  // columns lie behind each other
};

// Store numbers of a block: number(j) is a vector of register j, rows x VECTORS of them.
template <int VECTORS, class To, class Number>
SEMICONV_FN void store_block(To* to, const Places& at, int rows, Number number) {
  using V = decltype(number(0));
  using T = typename VectorElement<V>::type;
  if (at.adjoining) {
    for (int r = 0; r < rows; ++r)
      for (int w = 0; w < VECTORS; ++w) {
        const int some = (int)smaller_of(lanes, at.count - w * lanes);
        if (some > 0)
          store_lanes(to + at.rows[r] + at.columns[w * lanes], number(r * VECTORS + w), some, 1);
      }
    return;
  }
  // Column by column, whose rows may lie together.
  T numbers[registers * lanes];
  for (int j = 0; j < rows * VECTORS; ++j) store_vector(numbers + j * lanes, number(j));
  for (int c = 0; c < at.count; ++c)
    for (int r = 0; r < rows; ++r)
      to[at.rows[r] + at.columns[c]] = Store<To>::from(numbers[r * VECTORS * lanes + c]);
}

// Winners of a block that were counted in narrow lanes, over several blocks of terms.
constexpr bool narrow_winners = sizeof(MaskLane) < 4;

template <int VECTORS, class I>
SEMICONV_FN void store_winners(I* to, const Places& at, int rows, const uint32* winners) {
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < at.count; ++c)
      to[at.rows[r] + at.columns[c]] = (I)winners[r * VECTORS * lanes + c];
}

// Where a block lies among all: its batch, its first row and column.
struct Corner {
  int64 batch, row, column;
};

// Where results go. residual is null where no derivative is needed.
struct Target {
  Storage* out;
  void* residual;
  int64 residual_itemsize;  // bytes of a winner; other residuals are Real
  int64 residual_plane;     // elements from one residual array to the next

  // Take a block whose terms are all added up. Winners of narrow lanes come apart.
  template <int VECTORS, class A>
  void take(const A* block, const uint32* winners, int rows, const Places& at, const Corner&) const {
    store_block<VECTORS>(out, at, rows, [&](int j) { return block[j].result(); });
    if (!residual) return;
    if constexpr (UsesProvenance<A>::value) {
      const auto store = [&](auto* to) {
        if constexpr (narrow_winners) store_winners<VECTORS>(to, at, rows, winners);
        else store_block<VECTORS>(to, at, rows, [&](int j) { return block[j].winner; });
      };
      if (residual_itemsize == 1) store((uint8*)residual);
      else if (residual_itemsize == 2) store((uint16*)residual);
      else store((uint32*)residual);
    } else if constexpr (A::residuals > 0) {
      for (int k = 0; k < A::residuals; ++k)
        store_block<VECTORS>((Real*)residual + k * residual_plane, at, rows,
                             [&](int j) { return block[j].residual(k); });
    }
  }
};

// ---- blocks --------------------------------------------------------------------------------------

// What one call computes, seen from its two operands: u is broadcast, v runs along the lanes. Of the
// result's levels, `shared`, `along_rows` and `along_columns` have the strides.
template <class T> struct Roles {
  Operand<T> u, v;
  const Level *shared, *along_rows, *along_columns;
  int64 shared_levels, row_levels, column_levels;
  int64 batches, rows, columns, terms;
};

template <class T> Operand<T> image_of(const Product& p, const T* img) {
  return {img, p.shared, p.free, p.contracted, p.shared_levels, p.free_levels, p.contracted_levels, &Level::img};
}
template <class T> Operand<T> kernel_of(const Product& p, const T* krn) {
  return {krn, p.shared, p.produced, p.contracted, p.shared_levels, p.produced_levels, p.contracted_levels,
          &Level::krn};
}
// `result` has the strides of the result; the operands may lie elsewhere than it says.
template <class T>
Roles<T> roles_of(const Product& result, const Operand<T>& image, const Operand<T>& kernel,
                  bool krn_is_vector) {
  const Product& p = result;
  const int64 free = size_of(p.free, p.free_levels), produced = size_of(p.produced, p.produced_levels);
  const int64 batches = size_of(p.shared, p.shared_levels);
  const int64 terms = size_of(p.contracted, p.contracted_levels);
  if (krn_is_vector)
    return {image, kernel, p.shared, p.free, p.produced, p.shared_levels, p.free_levels, p.produced_levels,
            batches, free, produced, terms};
  return {kernel, image, p.shared, p.produced, p.free, p.shared_levels, p.produced_levels, p.free_levels,
          batches, produced, free, terms};
}

// The sizes of blocks. That of terms depends on the types alone.
template <class A, int ROWS, int VECTORS> struct Blocks {
  static constexpr int64 width = VECTORS * lanes;  // columns of a panel
  static constexpr int64 panel_bytes = 16 * 1024;  // half of a small L1 cache
  static constexpr int64 columns_bytes = 192 * 1024, state_bytes = 512 * 1024;  // within L2
  int64 terms, rows, columns;

  template <class T> Blocks(const Roles<T>& x, int threads) {
    int64 most = panel_bytes / (width * (int64)sizeof(Real)) / terms_per_fold * terms_per_fold;
    if (UsesProvenance<A>::value) most = smaller_of(most, most_winners);
    most = larger_of(most, terms_per_fold);
    const int64 count = larger_of(1, ceil_div(x.terms, most));
    terms = larger_of(1, ceil_div(ceil_div(x.terms, count), terms_per_fold)) * terms_per_fold;
    const int64 panels = larger_of(1, columns_bytes / (terms * width * (int64)sizeof(Real)));
    columns = smaller_of(ceil_div(x.columns, width), panels) * width;
    const int64 states = count > 1 ? state_bytes / (columns / lanes * (int64)sizeof(A)) : 1024;
    rows = smaller_of(x.rows, larger_of(ROWS, states / ROWS * ROWS));
    // Enough items for all threads.
    while (threads > 1 && items(x) < 2 * threads) {
      if (rows >= columns && rows >= 8 * ROWS) rows = ceil_div(ceil_div(rows, 2), ROWS) * ROWS;
      else if (columns >= 4 * width) columns = ceil_div(ceil_div(columns, 2), width) * width;
      else break;
    }
  }
  template <class T> int64 items(const Roles<T>& x) const {
    return x.batches * ceil_div(x.rows, rows) * ceil_div(x.columns, columns);
  }
};

// The work of one thread on items. Its memory: panels of u and v, places, accumulators between blocks.
// `Sink` takes the finished blocks, as Target does.
template <class A, int ROWS, int VECTORS, bool KRN_IS_VECTOR, class T, class Sink> class Worker {
  static constexpr int64 width = VECTORS * lanes;
  static constexpr bool wide = UsesProvenance<A>::value && narrow_winners;
  const Roles<T>& x;
  const Blocks<A, ROWS, VECTORS>& blocks;
  const Sink& sink;
  const bool keeps_state;
  const int64 room;  // terms from a panel of v to the next: no power of two, which caches map to one place
  Real *u_panel, *v_panels;
  A* states;
  uint32* winners;
  int64 *row_places, *column_places;

 public:
  Worker(const Roles<T>& x_, const Blocks<A, ROWS, VECTORS>& blocks_, const Sink& sink_)
      : x(x_), blocks(blocks_), sink(sink_), keeps_state(x.terms > blocks.terms), room(blocks.terms + 1) {}

  size_t bytes() const {
    const int64 registers_kept = keeps_state ? ceil_div(blocks.rows, ROWS) * ROWS * blocks.columns / lanes
                                             : ROWS * VECTORS;
    return registers_kept * sizeof(A) + (wide ? registers_kept * lanes * sizeof(uint32) : 0) +
           (ROWS * blocks.terms + room * blocks.columns) * sizeof(Real) +
           (blocks.rows + blocks.columns + width) * sizeof(int64) + 7 * 64;
  }
  void use(char* memory) {
    const auto take = [&](size_t size) {
      char* const found = (char*)(((size_t)memory + 63) / 64 * 64);
      memory = found + size;
      return found;
    };
    const int64 registers_kept = keeps_state ? ceil_div(blocks.rows, ROWS) * ROWS * blocks.columns / lanes
                                             : ROWS * VECTORS;
    states = (A*)take(registers_kept * sizeof(A));
    winners = (uint32*)take(wide ? registers_kept * lanes * sizeof(uint32) : 0);
    u_panel = (Real*)take(ROWS * blocks.terms * sizeof(Real) + 16);
    v_panels = (Real*)take(room * blocks.columns * sizeof(Real) + 16);
    row_places = (int64*)take(blocks.rows * sizeof(int64));
    column_places = (int64*)take((blocks.columns + width) * sizeof(int64));
  }

  void run(int64 item) {
    const int64 across = ceil_div(x.columns, blocks.columns), down = ceil_div(x.rows, blocks.rows);
    const int64 first_column = item % across * blocks.columns;
    const int64 first_row = item / across % down * blocks.rows;
    const int64 batch = item / across / down;
    const int64 columns = smaller_of(blocks.columns, x.columns - first_column);
    const int64 rows = smaller_of(blocks.rows, x.rows - first_row);
    Operand<T> u = x.u, v = x.v;
    u.data += Walk(u.shared, u.shared_levels, u.stride, batch).offset;
    v.data += Walk(v.shared, v.shared_levels, v.stride, batch).offset;
    const int64 out = Walk(x.shared, x.shared_levels, &Level::out, batch).offset;
    place(x.along_rows, x.row_levels, first_row, rows, out, row_places);
    place(x.along_columns, x.column_levels, first_column, columns, 0, column_places);
    const Corner corner{batch, first_row, first_column};

    int64 term = 0;
    do {
      const int64 terms = smaller_of(blocks.terms, x.terms - term);
      fill_panels<width>(v, first_column, columns, term, terms, v_panels, room);
      for (int64 r = 0; r < rows;) r += some_rows<ROWS>(u, corner, r, rows, term, terms, columns);
      term += terms;
    } while (term < x.terms);
  }

 private:
  static void place(const Level* levels, int64 depth, int64 first, int64 count, int64 offset, int64* to) {
    Walk walk(levels, depth, &Level::out, first);
    for (int64 i = 0; i < count;) {
      const int64 some = smaller_of(walk.run(), count - i), pitch = walk.pitch();
      for (int64 n = 0; n < some; ++n) to[i++] = offset + walk.offset + n * pitch;
      walk.skip(some);
    }
  }
  // SOME rows from row r on, or fewer where not so many are left; returns how many.
  template <int SOME>
  int some_rows(const Operand<T>& u, const Corner& corner, int64 r, int64 rows, int64 term, int64 terms,
                int64 columns) {
    if constexpr (SOME > 1)
      if (rows - r < SOME)
        return some_rows<(SOME > 8 ? 8 : SOME > 4 ? 4 : SOME > 2 ? 2 : 1)>(u, corner, r, rows, term,
                                                                           terms, columns);
    fill_panel<SOME>(u, corner.row + r, SOME, term, terms, u_panel);
    const bool last = term + terms == x.terms;
    for (int64 c = 0; c < columns; c += width) {
      const int64 at = keeps_state ? r * blocks.columns / lanes + c / width * SOME * VECTORS : 0;
      A* const block = states + at;
      accumulate<A, SOME, VECTORS, KRN_IS_VECTOR>(u_panel, v_panels + c * room,
                                                 narrow_winners ? 0 : term, terms, term == 0, block);
      uint32* const numbers = winners + at * lanes;
      if constexpr (wide) number_winners(block, SOME * VECTORS, term, numbers);
      if (last)
        sink.template take<VECTORS>(block, numbers, SOME,
                                    Places{row_places + r, column_places + c,
                                           (int)smaller_of(width, columns - c), adjoining(c, columns)},
                                    Corner{corner.batch, corner.row + r, corner.column + c});
    }
    return SOME;
  }
  bool adjoining(int64 column, int64 columns) const {
    const int64 last = smaller_of(width, columns - column) - 1;
    const int64* places = column_places + column;
    if (places[last] - places[0] != last) return false;
    for (int64 i = 1; i < last; ++i)
      if (places[i] - places[0] != i) return false;
    return true;
  }
  // The winners of a block of terms from `term` on: those of narrow lanes as numbers of all terms.
  static void number_winners(A* block, int count, int64 term, uint32* numbers) {
    if constexpr (wide)
      for (int j = 0; j < count; ++j, numbers += lanes) {
        MaskLane found[lanes];
        store_vector(found, block[j].winner);
        for (int i = 0; i < lanes; ++i) {
          const uint32 before = term ? numbers[i] : ~(uint32)0;
          numbers[i] = found[i] < 0 ? before : (uint32)(term + found[i]);
        }
        block[j].winner = A::no_winner();
      }
  }
};

template <class A, int ROWS, int VECTORS, bool KRN_IS_VECTOR, class T, class Sink>
int run_product(const Product& result, const Operand<T>& image, const Operand<T>& kernel, const Sink& sink,
                int threads) {
  const Roles<T> roles = roles_of(result, image, kernel, KRN_IS_VECTOR);
  if (roles.rows * roles.columns * roles.batches == 0) return success;
  const Blocks<A, ROWS, VECTORS> blocks(roles, threads);
  int status = success;
  in_parallel(blocks.items(roles), threads, [&](Items& rest) {
    thread_local Workspace workspace;
    Worker<A, ROWS, VECTORS, KRN_IS_VECTOR, T, Sink> worker(roles, blocks, sink);
    char* const memory = (char*)workspace.reserve(worker.bytes());
    if (!memory) {
      set_flag(status, out_of_memory);
      return;
    }
    worker.use(memory);
    for (int64 item; rest.take(item);) worker.run(item);
    workspace.release_beyond(kept_bytes);
  });
  return status;
}

// Whether the kernel runs along the lanes: the side that leaves fewer lanes without an output; if
// neither does, the one along which the result is contiguous.
inline bool krn_along_lanes(const Product& p, int64 width) {
  const int64 free = size_of(p.free, p.free_levels), produced = size_of(p.produced, p.produced_levels);
  const auto whole = [](int64 count, int64 unit) { return ceil_div(count, unit) * unit; };
  const int64 by_krn = free * whole(produced, width), by_img = produced * whole(free, width);
  if (4 * by_krn < 3 * by_img) return true;
  if (4 * by_img < 3 * by_krn) return false;
  const auto innermost = [](const Level* levels, int64 count) {
    return count ? levels[count - 1].out : 0;
  };
  return innermost(p.produced, p.produced_levels) == 1 || innermost(p.free, p.free_levels) != 1;
}

template <class A>
int product(const Product& p, const Storage* img, const Storage* krn, const Target& target, int threads) {
  constexpr int rows = rows_of<A>(), vectors = A::two_pass ? 1 : 2;
  const auto image = image_of(p, img);
  const auto kernel = kernel_of(p, krn);
  return krn_along_lanes(p, vectors * lanes)
             ? run_product<A, rows, vectors, true>(p, image, kernel, target, threads)
             : run_product<A, rows, vectors, false>(p, image, kernel, target, threads);
}

}  // namespace semiconv
