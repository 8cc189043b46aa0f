// The interface between the walk over tiles and a semifield's loops over taps.
//
// Most of a convolution depends on the dtype alone: tiles, their scratch, lists of taps, strips, the threads.
// That is over_tiles.cpp, a shared object of its own, so that it is compiled once for all semifields. A
// semifield's shared object has only the loops over taps:
//
//     semiconv_forward  -- TileLoops -->  over_tiles:  for each tile:              load, cut into strips
//          (semifield)                                   for each output channel:  loops.run(TileWork, ...)
//                          <-- run_tile --
//
// Other schedules than forward's walk by themselves; they have what they need of tiles from over_tiles.cpp as
// TileFunctions. backends/host/functions.py hands either to every library that calls it, as it does with the
// threads.
#pragma once
#include "lanes.hpp"
#include "strips.hpp"
#include "taps.hpp"
#include "load.hpp"
#include "stage.hpp"

namespace semiconv {

// Where a call's results go. residual is null where no derivative is needed.
struct Results {
  Storage* out;
  void* residual;
  int64 residual_itemsize;  // bytes of a winner; other residuals are Real
  int64 residual_plane;     // elements of one residual array
  int64 pixels;             // of one output channel
  int64 step;               // elements from an output to the next one of its row
};

// One output channel of a tile.
struct TileWork {
  const Geometry& g;
  const TapTable& table;
  int64 kernel;
  const Real* scratch;
  int64 channel_size;
  const MaskLane* mask;
  const Results& results;
  int64 plane;                   // the place of its first output
  const Stage* stage = nullptr;  // where results are stored first; null: in the output itself
  bool exact = false;            // whether strips must not see positions outside the image
  const TapRange* ranges = nullptr;

  // Of a strip; null ranges: all taps.
  TapRange taps_of(const Strip& strip, int64 rows = 0) const {
    return ranges ? ranges[strip.row + rows] : TapRange{0, g.window_size()};
  }
};

// Whether positions outside the image may hold the zero: only where it absorbs every weight, or every finite one.
enum class Padding { never, if_finite, always };

// What the walk needs of a semifield.
struct TileLoops {
  void (*run)(const TileWork&, const Pairing&, const Strips&);  // all strips of one output channel of a tile
  CountNeutral count_neutral;                                   // null: no tap is dropped
  Real zero;
  Padding padding;
  int strips;     // in registers at a time
  bool pairs;     // whether two groups of strips may share what they load
  bool winners;   // the residual names taps; otherwise it is
  int residuals;  // so many arrays of Real
};

// The walk of over_tiles.cpp; returns a Status.
using OverTiles = int (*)(const Geometry& g, const Storage* img, const Storage* krn, const Results& results,
                          const TileLoops& loops, int threads);
static OverTiles over_tiles = nullptr;

// The functions of tiles that schedules with a walk of their own call.
struct TileFunctions {
  // covers_reach: see Tiling::cover_reach.
  Tiling (*tiling)(const Geometry&, int threads, bool free_first, bool covers_reach);
  TapTable (*taps)(const Geometry&, const Tiling&, const Storage* krn, CountNeutral);
  void (*cut)(Strips&, const Geometry&, const Tiling&, const int64* origin, const int64* size, const Cut&);
  void (*cut_alone)(Strips&, const Geometry&, const Tiling&, const int64* origin, const int64* size, int spare);
  void (*load)(const TileLoader&, const int64* origin, const Storage* img, const Storage* image, int64 channels,
               Real* scratch);
  void (*fill_channel)(const Geometry&, const Tiling&, const int64* origin, const Storage* image,
                       const int64* strides, Real* scratch, Real outside);
  void (*unfill_channel)(const Geometry&, const Tiling&, const int64* origin, const Real* scratch, Real* gradient,
                         const int64* strides);
  void (*fill_mask)(const Geometry&, const Tiling&, const int64* origin, MaskLane* mask);
  void (*unload)(const Stage&, const int64* size, const Real* from, Storage* to);
  void (*unload_numbers)(const Stage&, const int64* size, const Real* from, Real* to);
};
using GetTileFunctions = const TileFunctions* (*)();
static const TileFunctions* tile_functions = nullptr;

}  // namespace semiconv
