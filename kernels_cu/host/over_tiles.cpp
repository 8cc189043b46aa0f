// Exports semiconv_over_tiles: the walk over the tiles of a convolution, for all semifields on one storage type;
// and semiconv_tile_functions: what other walks need of tiles.
//
// Needs SEMICONV_STORAGE. tile_work.hpp has its interface to a semifield's loops over taps.
//
// An item of work is a tile of a batch element, with as many groups as are loaded together: the walk fills
// the tile's scratch, cuts its outputs into strips, and lets the loops run for each output channel.
// Where the output's rows are not contiguous, results come from the stage.
#include "tile_work.hpp"
#include "exports.hpp"

namespace semiconv {
namespace {

// Write a tile's values, and its residual, from the stage.
void unload(const Stage& stage, const int64* size, const Results& results, const TileLoops& loops, int64 plane) {
  stage.unload(size, (const Real*)stage.values, results.out + plane);
  if (!results.residual) return;
  if (loops.winners) {
    const MaskLane* winners = (const MaskLane*)stage.residual;
    if (results.residual_itemsize == 1) stage.unload(size, winners, (uint8*)results.residual + plane);
    else if (results.residual_itemsize == 2) stage.unload(size, winners, (uint16*)results.residual + plane);
    else stage.unload(size, winners, (uint32*)results.residual + plane);
  } else {
    for (int k = 0; k < loops.residuals; ++k)
      stage.unload(size, (const Real*)stage.residual + k * stage.size,
                   (Real*)results.residual + k * results.residual_plane + plane);
  }
}

// The strips of a tile, cut anew only where they differ from those of the tile before.
class TileStrips {
  int64 origin[max_rank], size[max_rank];
  bool present = false, masks = false;

  // Whether each output of an axis sees one position, inside the image: then strips do not depend on where
  // a tile begins.
  static bool sees_itself(const Geometry& g, int a) {
    return g.kernel_size[a] == 1 && g.pad_begin[a] == 0 &&
           (g.out_size[a] - 1) * g.stride[a] < g.image_size[a];
  }

 public:
  Strips strips;

  // Whether they were cut. If not, the mask of the tile before serves, too.
  bool cut(const Geometry& g, const Tiling& t, const int64* at, const int64* extent, const Cut& how) {
    bool same = present && masks == how.masks;
    for (int a = 0; a < g.rank; ++a)
      same = same && size[a] == extent[a] && (origin[a] == at[a] || sees_itself(g, a));
    if (same) return false;
    for (int a = 0; a < g.rank; ++a) {
      origin[a] = at[a];
      size[a] = extent[a];
    }
    present = true;
    masks = how.masks;
    strips.cut(g, t, at, extent, how);
    return true;
  }
};

// Where positions outside the image may not hold the zero, they are masked.
int walk(const Geometry& g, const Storage* img, const Storage* krn, const Results& results,
         const TileLoops& loops, int threads) {
  const int64 at_once = TileLoader::groups_at_once(g), blocks = ceil_div(g.groups, at_once);
  const Tiling tiling(g, threads, at_once, true);
  const TapTable table(g, tiling, krn, loops.count_neutral);
  if (!table.complete) return out_of_memory;
  const bool may_pad = loops.padding == Padding::always || (loops.padding == Padding::if_finite && table.finite);
  const TileLoader loader(g, tiling, at_once * g.in_channels, loops.zero);
  const Stage layout(g, tiling);
  const InsideTaps inside_taps(g, table.regular);
  const Pairing pairing =
      loops.pairs && table.regular
          ? Pairing(g, tiling, layout.to_strides(), loops.strips / 2, inside_taps.axis)
          : Pairing();
  const size_t residuals = loops.winners ? 1 : loops.residuals;
  const int64 most_strips = strips_of(g, tiling) + loops.strips;
  const int64 scratch_of_group = g.in_channels * tiling.channel_size;
  const auto whole_lines = [](size_t bytes) { return (bytes + 63) / 64 * 64; };
  const size_t scratch_bytes = whole_lines((at_once * scratch_of_group + lanes) * sizeof(Real));
  const size_t mask_bytes = whole_lines(may_pad ? 0 : tiling.channel_size * sizeof(MaskLane));
  const size_t stage_bytes = whole_lines(layout.size * sizeof(Real));
  const int64 most_ranges = inside_taps.rows(tiling.tile);
  const size_t strip_bytes = 3 * most_strips * sizeof(Strip) + most_ranges * sizeof(TapRange);
  const size_t kept_stages = results.residual ? 1 + residuals : 1;
  const int64 items = g.batch * blocks * tiling.tiles;
  int status = success;

  in_parallel(items, threads, [&](Items& rest) {
    thread_local Workspace workspace;
    char* memory =
        (char*)workspace.reserve(scratch_bytes + mask_bytes + kept_stages * stage_bytes + strip_bytes);
    if (!memory) {
      set_flag(status, out_of_memory);
      return;
    }
    Real* scratch = (Real*)memory;
    MaskLane* mask = (MaskLane*)(memory += scratch_bytes);
    Stage stage = layout;
    stage.values = (Real*)(memory += mask_bytes);
    stage.residual = memory += stage_bytes;
    Strip* room = (Strip*)(memory += (kept_stages - 1) * stage_bytes);
    TileStrips tile;
    TapRange* ranges = (TapRange*)(room + 3 * most_strips);
    tile.strips = Strips{room, room + most_strips, room + 2 * most_strips, ranges, 0, 0, 0};

    for (int64 item; rest.take(item);) {
      const int64 b = item / tiling.tiles / blocks, first_group = item / tiling.tiles % blocks * at_once;
      const int64 groups = smaller_of(at_once, g.groups - first_group);
      int64 origin[max_rank], size[max_rank];
      locate_tile(g, tiling, item % tiling.tiles, origin, size);
      loader.fill(origin, img,
                  img + b * g.img_strides[0] + first_group * g.in_channels * g.img_strides[1],
                  groups * g.in_channels, scratch);
      const bool masked = !may_pad && !inside_image(g, origin, size);
      const Cut how{layout.to_strides(), pairing, inside_taps, masked, loops.strips};
      if (tile.cut(g, tiling, origin, size, how) && masked) fill_mask(g, tiling, origin, mask);
      for (int64 n = 0; n < groups * g.outputs_per_group; ++n) {
        const int64 within = n / g.outputs_per_group, group = first_group + within;
        const int64 output = n % g.outputs_per_group;
        int64 plane =
            b * g.out_strides[0] + (group * g.outputs_per_group + output) * g.out_strides[1];
        for (int a = 0; a < g.rank; ++a) plane += origin[a] * g.out_strides[a + 2];
        const TileWork work{g, table, g.kernel_of(group, output), scratch + within * scratch_of_group,
                            tiling.channel_size, mask, results, plane, stage.used ? &stage : nullptr, !may_pad, ranges};
        loops.run(work, pairing, tile.strips);
        if (stage.used) unload(stage, size, results, loops, plane);
      }
    }
    workspace.release_beyond(kept_bytes);
  });
  return status;
}

// ---- for other walks ----------------------------------------------------------------------------

Tiling tiling_of(const Geometry& g, int threads, bool free_first, bool covers_reach) {
  Tiling tiling(g, threads, 1, free_first);
  if (covers_reach) tiling.cover_reach(g);
  return tiling;
}
TapTable taps_of(const Geometry& g, const Tiling& t, const Storage* krn, CountNeutral count_neutral) {
  return TapTable(g, t, krn, count_neutral);
}
void cut(Strips& strips, const Geometry& g, const Tiling& t, const int64* origin, const int64* size, const Cut& how) {
  strips.cut(g, t, origin, size, how);
}
void cut_alone(Strips& strips, const Geometry& g, const Tiling& t, const int64* origin, const int64* size, int spare) {
  strips.cut(g, t, origin, size, spare);
}
void load_tile(const TileLoader& loader, const int64* origin, const Storage* img, const Storage* image, int64 channels,
               Real* scratch) {
  loader.fill(origin, img, image, channels, scratch);
}
template <class T> void unload_as(const Stage& stage, const int64* size, const Real* from, T* to) {
  stage.unload(size, from, to);
}
constexpr TileFunctions functions{tiling_of, taps_of, cut, cut_alone, load_tile, fill_channel<Storage>, unfill_channel,
                                  fill_mask, unload_as<Storage>, unload_as<Real>};

}  // namespace
}  // namespace semiconv

using namespace semiconv;

SEMICONV_EXPORT const TileFunctions* semiconv_tile_functions() { return &functions; }

SEMICONV_EXPORT int semiconv_over_tiles(const Geometry& g, const Storage* img, const Storage* krn,
                                        const Results& results, const TileLoops& loops, int threads) {
  return walk(g, img, krn, results, loops, threads);
}
