// Which plane of outputs, and which tile of it, a team of a block computes.
//
// Needs what tile.cuh needs, and
//   SEMICONV_TEAMS   planes of outputs in a block, each with a tile's threads
//   SEMICONV_WHOLE   1 where there are several, and a tile holds the last two axes of the outputs
#pragma once
#include "../divisor.cuh"
#include "this_thread.cuh"
#include "tile.cuh"

namespace semiconv {

constexpr int teams = SEMICONV_TEAMS;
constexpr bool whole = SEMICONV_WHOLE;

// The numbers by which a block takes its own number apart.
struct Division {
  Divisor tiles_x, tiles_y, blocks, groups;  // blocks: of output channels
};

// A team's tile of outputs: the position along the outer axes, the first output (y, x), and the plane of
// outputs: batch element, group, and channel block (the `channels` output channels that a thread computes).
// `idle`: the team has no plane of outputs; it only takes part in the block's barriers.
struct TeamTile {
  int32 outer_position[max_rank];
  int32 y, x;
  uint32 batch, group, channel_block;
  bool idle;
};

// A one-dimensional grid counts groups of `teams` planes, outer positions, rows and columns of tiles.
SEMICONV_FN TeamTile tile_of_team(const Geometry& g, const Division& division) {
  TeamTile tile;
  uint32 n = this_block();
  tile.x = whole ? 0 : (int32)division.tiles_x.take(n) * tile_columns;
  tile.y = whole ? 0 : (int32)division.tiles_y.take(n) * tile_rows;
  for (int a = outer - 1; a >= 0; --a) {
    tile.outer_position[a] = (int32)(n % (uint32)g.out_size[a]);
    n /= (uint32)g.out_size[a];
  }
  n = n * teams + this_thread() / threads;
  tile.channel_block = division.blocks.take(n);
  tile.group = division.groups.take(n);
  tile.idle = n >= (uint32)g.batch;
  tile.batch = tile.idle ? 0 : n;
  return tile;
}

}  // namespace semiconv
