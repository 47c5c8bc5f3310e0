// Products by tiles of 16 x 64 bytes (Intel AMX): 16 rows of activations times a panel of 16 outputs, 64 int8 or 32 bf16
// inputs at a time. A panel's tile is read where it lies: its rows stand 128 bytes apart in a pair of panels.
//
// A row's sums do not depend on how many rows are computed together. Those of int8 are exact; those of bf16 are added up
// in an order of the unit's own, so where there are tiles, all products of bf16 go through them, or through vectors in
// that order (HalfSum).
#pragma once
#include "tile_unit.h"

#if OCTAVO_AMX
constexpr int TILED = 2 * TILE;  // rows of activations that are multiplied together

// Sixteen sums of bf16 products by vectors, to the bits of a tile's: even and odd inputs are added up apart, and once for
// each tile, where `close` stands, both to what was there.
using Half = float;  // a number of bf16, ready to be multiplied

INLINE void to_halves(Half* out, F16 x) {
    uint16_t halves[LANES];
    to_bf16(halves, x);
    f_store(out, from_bf16(halves));
}

struct HalfSum {
    F16 sum = f_zero(), even = f_zero(), odd = f_zero();

    INLINE_MEMBER void add(Bytes w, const Half* x) {
        even = f_fma((F16)_mm512_slli_epi32(w, 16), f_set(x[0]), even);
        odd = f_fma((F16)_mm512_and_si512(w, _mm512_set1_epi32((int)0xffff0000)), f_set(x[1]), odd);
    }
    INLINE_MEMBER void close() { sum = f_add(sum, f_add(even, odd)), even = odd = f_zero(); }
};

// Tiles: 0-3 sums (of the first 16 rows times both panels, then of the others), 4 and 5 activations (the first rows, the
// others), 6 and 7 panels. rows: of activations, 1 to 32
inline void shape_products(int rows) {
    TileShapes shapes;
    const int first = rows < TILE ? rows : TILE, others = rows > TILE ? rows - TILE : 1;
    for (int i = 0; i < 8; i++) {
        shapes.row_bytes[i] = 64;
        shapes.rows[i] = (uint8_t)(i >= 6 ? TILE : i == 2 || i == 3 || i == 5 ? others : first);
    }
    configure(shapes);
}

constexpr int STEP_BYTES = TILE * 128;  // of a pair of panels of bytes or halves, for 64 bytes of a row

// Pairs of panels as they lie. ahead: bytes that they are fetched ahead, or 0
struct Stored {
    const uint8_t* w;
    ptrdiff_t ahead;

    INLINE_MEMBER const uint8_t* step(int i) {
        const uint8_t* here = w + (ptrdiff_t)i * STEP_BYTES;
        for (int line = 0; ahead && line < STEP_BYTES; line += 64) __builtin_prefetch(here + ahead + line);
        return here;
    }
};

// Sums of up to 32 rows times a pair of panels, inputs = 64 bytes * steps: to out[32][2][16] of fp32 or int32.
// a: int8 or bf16, rows `stride` bytes apart; panels.step(i): the panels of step i, asked for in order
template <TileKind KIND, class Panels>
__attribute__((noinline)) void tile_products(Panels& panels, const uint8_t* a, ptrdiff_t stride, int rows, int steps,
                                             void* out) {
    constexpr int PANELS = 128;
    const uint8_t *others = a + TILE * stride, *w = panels.step(0);
    uint8_t *to = (uint8_t*)out, *to_others = to + TILE * PANELS;
    const bool both = rows > TILE;
    shape_products(rows);
    tile_zero<0>(), tile_zero<1>();
    tile_load_past<4>(a, stride), tile_load<6>(w, PANELS), tile_load<7>(w + 64, PANELS);
    if (both) {  // each tile is loaded as soon as it is used up; the nearest cache keeps the panels
        tile_zero<2>(), tile_zero<3>(), tile_load_past<5>(others, stride);
        for (int i = 1; i < steps; i++) {
            a += 64, others += 64, w = panels.step(i);
            tile_multiply<KIND, 0, 4, 6>(), tile_multiply<KIND, 1, 4, 7>(), tile_load_past<4>(a, stride);
            tile_multiply<KIND, 2, 5, 6>(), tile_load<6>(w, PANELS);
            tile_multiply<KIND, 3, 5, 7>(), tile_load_past<5>(others, stride), tile_load<7>(w + 64, PANELS);
        }
        tile_multiply<KIND, 2, 5, 6>(), tile_multiply<KIND, 3, 5, 7>();
    } else {
        for (int i = 1; i < steps; i++) {
            a += 64, w = panels.step(i);
            tile_multiply<KIND, 0, 4, 6>(), tile_load<6>(w, PANELS);
            tile_multiply<KIND, 1, 4, 7>(), tile_load_past<4>(a, stride), tile_load<7>(w + 64, PANELS);
        }
    }
    tile_multiply<KIND, 0, 4, 6>(), tile_multiply<KIND, 1, 4, 7>();
    tile_store<0>(to, PANELS), tile_store<1>(to + 64, PANELS);
    if (both) tile_store<2>(to_others, PANELS), tile_store<3>(to_others + 64, PANELS);
}
#else
using Half = uint16_t;

INLINE void to_halves(Half* out, F16 x) { to_bf16(out, x); }

struct HalfSum {
    F16 sum = f_zero();

    INLINE_MEMBER void add(Bytes w, const Half* x) { sum = dot2(sum, w, b_set4(x)); }
    INLINE_MEMBER void close() {}
};
#endif

// The most lines a tile can have so that all tiles of so many lines have as many.
inline int tile_lines(int lines) {
    int some = lines < 16 ? lines : 16;
    while (lines % some) some--;
    return some;
}
