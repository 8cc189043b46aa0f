// Exports semiconv_over_blocks: the walk over the blocks of a matrix product, for all semifields on one storage
// type.
//
// Needs SEMICONV_STORAGE. product_work.hpp has its interface to a semifield's loops over terms.
//
// An item of work is a block of outputs that one thread computes. It takes a block of terms at a time, so that
// a panel of v stays in the L1 cache, and its block of v in L2 (Goto and van de Geijn, Anatomy of
// high-performance matrix multiplication, 2008):
//
//     for each block of terms:      fill the panels of v
//       for each few rows:          fill the panel of u
//         for each panel of v:      accumulate(); after the last block of terms: take() the results
//
// States wait in memory between blocks of terms. Blocks of terms depend on the semifield and the dtype alone, so
// that no thread changes a bit.
#include "product_work.hpp"
#include "memory.hpp"
#include "accumulators/blocked_sum.cuh"
#include "exports.hpp"

namespace semiconv {
namespace {

// The sizes of blocks. That of terms depends on the types alone.
struct Blocks {
  static constexpr int64 panel_bytes = 16 * 1024;  // half of a small L1 cache
  static constexpr int64 columns_bytes = 192 * 1024, state_bytes = 512 * 1024;  // within L2
  const int64 width;  // columns of a panel
  int64 terms, rows, columns;

  template <class T> Blocks(const Roles<T>& x, const BlockLoops& loops, int threads) : width(loops.vectors * lanes) {
    int64 most = panel_bytes / (width * (int64)sizeof(Real)) / terms_per_fold * terms_per_fold;
    if (loops.most_terms) most = smaller_of(most, loops.most_terms);
    most = larger_of(most, terms_per_fold);
    const int64 count = larger_of(1, ceil_div(x.terms, most));
    terms = larger_of(1, ceil_div(ceil_div(x.terms, count), terms_per_fold)) * terms_per_fold;
    const int64 panels = larger_of(1, columns_bytes / (terms * width * (int64)sizeof(Real)));
    columns = smaller_of(ceil_div(x.columns, width), panels) * width;
    const int64 states = count > 1 ? state_bytes / (columns / lanes * loops.state_bytes) : 1024;
    rows = smaller_of(x.rows, larger_of(loops.rows, states / loops.rows * loops.rows));
    // Enough items for all threads.
    while (threads > 1 && items(x) < 2 * threads) {
      if (rows >= columns && rows >= 8 * loops.rows)
        rows = ceil_div(ceil_div(rows, 2), loops.rows) * loops.rows;
      else if (columns >= 4 * width) columns = ceil_div(ceil_div(columns, 2), width) * width;
      else break;
    }
  }
  template <class T> int64 items(const Roles<T>& x) const {
    return x.batches * ceil_div(x.rows, rows) * ceil_div(x.columns, columns);
  }
};

// The work of one thread on items. Its memory: panels of u and v, places, accumulators between blocks.
template <class T> class Worker {
  const Product& result;
  const Roles<T>& x;
  const Blocks& blocks;
  const BlockLoops& loops;
  const int64 width;
  const bool keeps_state;
  const int64 room;  // terms from a panel of v to the next: no power of two, which caches map to one place
  Real *u_panel, *v_panels;
  char* states;
  uint32* winners;
  int64 *row_places, *column_places;

 public:
  Worker(const Product& result_, const Roles<T>& x_, const Blocks& blocks_, const BlockLoops& loops_)
      : result(result_), x(x_), blocks(blocks_), loops(loops_), width(blocks_.width),
        keeps_state(x.terms > blocks.terms), room(blocks.terms + 1) {}

  size_t bytes() const {
    return states_kept() * loops.state_bytes + winner_bytes() +
           (loops.rows * blocks.terms + room * blocks.columns) * sizeof(Real) +
           (blocks.rows + blocks.columns + width) * sizeof(int64) + 7 * 64;
  }
  void use(char* memory) {
    const auto take = [&](size_t size) {
      char* const found = (char*)(((size_t)memory + 63) / 64 * 64);
      memory = found + size;
      return found;
    };
    states = take(states_kept() * loops.state_bytes);
    winners = (uint32*)take(winner_bytes());
    u_panel = (Real*)take(loops.rows * blocks.terms * sizeof(Real) + 16);
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
      fill_panels(v, first_column, columns, term, terms, v_panels, width, room);
      for (int64 r = 0; r < rows;) r += some_rows(u, corner, r, rows, term, terms, columns);
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
  int64 states_kept() const {
    return keeps_state ? ceil_div(blocks.rows, loops.rows) * loops.rows * blocks.columns / lanes
                       : loops.rows * loops.vectors;
  }
  size_t winner_bytes() const { return loops.number_winners ? states_kept() * lanes * sizeof(uint32) : 0; }
  // As many rows from row r on as a register block has, or fewer where not so many are left; returns how many.
  int some_rows(const Operand<T>& u, const Corner& corner, int64 r, int64 rows, int64 term, int64 terms,
                int64 columns) {
    int some = loops.rows;
    while (some > rows - r) some = fewer_rows(some);
    fill_panel(u, corner.row + r, some, term, terms, u_panel, some);
    const bool last = term + terms == x.terms;
    for (int64 c = 0; c < columns; c += width) {
      const int64 at = keeps_state ? r * blocks.columns / lanes + c / width * some * loops.vectors : 0;
      char* const block = states + at * loops.state_bytes;
      uint32* const numbers = winners + at * lanes;
      const Corner of_block{corner.batch, corner.row + r, corner.column + c};
      loops.accumulate(some, u_panel, v_panels + c * room, loops.number_winners ? 0 : term, terms, term == 0, block,
                       result, of_block);
      if (loops.number_winners) loops.number_winners(block, some * loops.vectors, term, numbers);
      if (last)
        loops.take(loops.sink, block, numbers, some,
                   Places{row_places + r, column_places + c, (int)smaller_of(width, columns - c),
                          adjoining(c, columns)},
                   of_block);
    }
    return some;
  }
  bool adjoining(int64 column, int64 columns) const {
    const int64 last = smaller_of(width, columns - column) - 1;
    const int64* places = column_places + column;
    if (places[last] - places[0] != last) return false;
    for (int64 i = 1; i < last; ++i)
      if (places[i] - places[0] != i) return false;
    return true;
  }
};

template <class T>
int walk(const Product& result, const Operand<T>& image, const Operand<T>& kernel, const BlockLoops& loops,
         int threads) {
  const Roles<T> roles = roles_of(result, image, kernel, loops.krn_is_vector);
  if (roles.rows * roles.columns * roles.batches == 0) return success;
  const Blocks blocks(roles, loops, threads);
  int status = success;
  in_parallel(blocks.items(roles), threads, [&](Items& rest) {
    thread_local Workspace workspace;
    Worker<T> worker(result, roles, blocks, loops);
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

}  // namespace
}  // namespace semiconv

using namespace semiconv;

SEMICONV_EXPORT int semiconv_over_blocks(const Product& result, const void* image, const void* kernel,
                                         bool converted, const BlockLoops& loops, int threads) {
  if constexpr (!Same<Storage, Real>::value)
    if (converted)
      return walk(result, *(const Operand<Real>*)image, *(const Operand<Real>*)kernel, loops, threads);
  return walk(result, *(const Operand<Storage>*)image, *(const Operand<Storage>*)kernel, loops, threads);
}
