// Chunk: neighbouring numbers that a GPU's thread moves with as few instructions as possible.
//
// Aligned to their size, at most to the 16 bytes of the widest load or store. Included by `cuda/`.
#pragma once

namespace semiconv {

template <class T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Chunk {
  T of[N];
};

}  // namespace semiconv
