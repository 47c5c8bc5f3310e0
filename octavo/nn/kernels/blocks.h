// Training: products of small matrices whose sides are multiples of 16, and how their right sides are laid out.
//
//   words   a matrix as a product wants its right side: [step][column], 4 bytes each: a float, or two bf16, the second
//           from the row below
#pragma once
#include <type_traits>

#include "rows.h"
#include "tile_unit.h"

#if OCTAVO_AVX512
constexpr int TILE_ROWS = 8, TILE_VECTORS = 2;
#else
constexpr int TILE_ROWS = 4, TILE_VECTORS = 1;
#endif
constexpr int BLOCK = 16;

template <class E>
constexpr int PAIR = sizeof(uint32_t) / sizeof(E);  // numbers of a word

INLINE F16 multiply_add(F16 acc, const uint32_t* words, const float* a) {
    return f_fma(f_load((const float*)words), f_set(*a), acc);
}
INLINE F16 multiply_add(F16 acc, const uint32_t* words, const Half* a) { return dot2(acc, b_load(words), b_set4(a)); }

// A tile of c (+)= a * words. a: rows of `steps` pairs; words: rows of `columns`
template <class E, int ROWS, int VECTORS>
INLINE void tile(const E* a, int a_row, const uint32_t* words, int columns, float* c, int c_row, int steps, bool add) {
    F16 acc[ROWS][VECTORS];
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) acc[r][v] = add ? f_load(c + r * c_row + v * LANES) : f_zero();
    for (int s = 0; s < steps; s++)
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++)
                acc[r][v] = multiply_add(acc[r][v], words + (size_t)s * columns + v * LANES,
                                         a + (size_t)r * a_row + s * PAIR<E>);
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) f_store(c + r * c_row + v * LANES, acc[r][v]);
}

// c (rows, count) (+)= a (rows, inner) * words (inner, count). rows, count, inner: multiples of 16
template <class E>
void product(const E* a, int a_row, int rows, const uint32_t* words, int columns, int count, float* c, int c_row,
             int inner, bool add) {
    constexpr int WIDE = TILE_VECTORS * LANES;
    const int steps = inner / PAIR<E>;
    int n = 0;
    for (; n + WIDE <= count; n += WIDE)
        for (int r = 0; r < rows; r += TILE_ROWS)
            tile<E, TILE_ROWS, TILE_VECTORS>(a + (size_t)r * a_row, a_row, words + n, columns, c + (size_t)r * c_row + n,
                                             c_row, steps, add);
    for (; n < count; n += LANES)
        for (int r = 0; r < rows; r += TILE_ROWS)
            tile<E, TILE_ROWS, 1>(a + (size_t)r * a_row, a_row, words + n, columns, c + (size_t)r * c_row + n, c_row, steps,
                                  add);
}

#if OCTAVO_AMX
// The same of bf16 by tiles: 0-3 sums, 4 rows, 5 words; 6 and 7 those of half a step, which are 16 inputs.
inline void shape_blocks() {
    TileShapes shapes;
    for (int i = 0; i < 8; i++) shapes.row_bytes[i] = i == 6 ? 32 : 64, shapes.rows[i] = i == 7 ? TILE / 2 : TILE;
    configure(shapes);
}

template <int NUMBER>
using Number = std::integral_constant<int, NUMBER>;

// look(0) .. look(COUNT - 1), as numbers that a template takes.
template <int COUNT, class F>
INLINE void each_tile(F look) {
    look(Number<0>());
    if constexpr (COUNT > 1) look(Number<1>());
    if constexpr (COUNT > 2) look(Number<2>());
    if constexpr (COUNT > 3) look(Number<3>());
}

template <int ABREAST>
INLINE void tile_strip(const Half* a, int a_row, const uint32_t* words, int columns, float* c, int c_row, int inner, bool add) {
    const ptrdiff_t a_bytes = (ptrdiff_t)a_row * sizeof(Half), w_bytes = (ptrdiff_t)columns * 4, c_bytes = (ptrdiff_t)c_row * 4;
    each_tile<ABREAST>([&](auto n) { add ? tile_load<n>(c + n * LANES, c_bytes) : tile_zero<n>(); });
    for (; inner >= 2 * TILE; inner -= 2 * TILE, a += 2 * TILE, words += (size_t)TILE * columns) {
        tile_load<4>(a, a_bytes);
        each_tile<ABREAST>([&](auto n) { tile_load<5>(words + n * LANES, w_bytes), tile_multiply<HALVES, n, 4, 5>(); });
    }
    if (inner) {
        tile_load<6>(a, a_bytes);
        each_tile<ABREAST>([&](auto n) { tile_load<7>(words + n * LANES, w_bytes), tile_multiply<HALVES, n, 6, 7>(); });
    }
    each_tile<ABREAST>([&](auto n) { tile_store<n>(c + n * LANES, c_bytes); });
}

template <>
inline void product(const Half* a, int a_row, int rows, const uint32_t* words, int columns, int count, float* c, int c_row,
                    int inner, bool add) {
    shape_blocks();
    for (int r = 0; r < rows; r += TILE, a += (size_t)TILE * a_row, c += (size_t)TILE * c_row) {
        int n = 0;
        for (; n + 4 * LANES <= count; n += 4 * LANES) tile_strip<4>(a, a_row, words + n, columns, c + n, c_row, inner, add);
        if (n + 3 * LANES == count) tile_strip<3>(a, a_row, words + n, columns, c + n, c_row, inner, add);
        if (n + 2 * LANES == count) tile_strip<2>(a, a_row, words + n, columns, c + n, c_row, inner, add);
        if (n + LANES == count) tile_strip<1>(a, a_row, words + n, columns, c + n, c_row, inner, add);
    }
}
#endif

// 16 rows of 16 words become columns. The lengths of rows are in words.
INLINE void transpose16(const void* from, size_t from_row, void* to, size_t to_row) {
#if OCTAVO_AVX512
    I16 a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) a[i] = i_load((const int32_t*)from + i * from_row);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2)  // of neighbours, words in turn
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]), b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4)  // a[4i + c]: column c of each quarter, of four rows
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]), a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]),
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]), a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {  // quarters are gathered
        const I16 even = _mm512_shuffle_i32x4(a[c], a[c + 4], 0x88), odd = _mm512_shuffle_i32x4(a[c], a[c + 4], 0xdd);
        const I16 even_below = _mm512_shuffle_i32x4(a[c + 8], a[c + 12], 0x88), odd_below = _mm512_shuffle_i32x4(a[c + 8], a[c + 12], 0xdd);
        i_store((int32_t*)to + c * to_row, _mm512_shuffle_i32x4(even, even_below, 0x88));
        i_store((int32_t*)to + (c + 4) * to_row, _mm512_shuffle_i32x4(odd, odd_below, 0x88));
        i_store((int32_t*)to + (c + 8) * to_row, _mm512_shuffle_i32x4(even, even_below, 0xdd));
        i_store((int32_t*)to + (c + 12) * to_row, _mm512_shuffle_i32x4(odd, odd_below, 0xdd));
    }
#else
    for (size_t i = 0; i < 16; i++)
        for (size_t j = 0; j < 16; j++)
            std::memcpy((char*)to + 4 * (j * to_row + i), (const char*)from + 4 * (i * from_row + j), 4);
#endif
}

// Rows (count, width) become columns of words.
template <class E>
INLINE void put_columns(const E* rows, int count, int width, uint32_t* words, int columns) {
    const int steps = width / PAIR<E>;
    for (int j = 0; j < count; j += LANES) {
        int s = 0;
        for (; s + LANES <= steps; s += LANES)
            transpose16(rows + (size_t)j * width + s * PAIR<E>, steps, words + (size_t)s * columns + j, columns);
        for (; s < steps; s++)  // bf16 of a head of 16, of 48 ..
            for (int i = 0; i < LANES; i++)
                std::memcpy(words + (size_t)s * columns + j + i, rows + (size_t)(j + i) * width + s * PAIR<E>, 4);
    }
}

// Rows (count, width) become words of as many steps: neighbours in one word.
INLINE void put_rows(const float* rows, int row, int count, int width, uint32_t* words, int columns) {
    for (int i = 0; i < count; i++) std::memcpy(words + (size_t)i * columns, rows + (size_t)i * row, width * 4);
}
INLINE void put_rows(const Half* rows, int row, int count, int width, uint32_t* words, int columns) {
    for (int i = 0; i < count; i += 2) {
        const Half *low = rows + (size_t)i * row, *high = low + row;
        uint32_t* to = words + (size_t)(i / 2) * columns;
        for (int c = 0; c < width; c++) to[c] = low[c] | (uint32_t)high[c] << 16;
    }
}

// Columns of words (steps, columns) become rows of numbers.
INLINE void part_columns(const uint32_t* words, int steps, int columns, float* numbers) {
    std::memcpy(numbers, words, (size_t)steps * columns * 4);
}
INLINE void part_columns(const uint32_t* words, int steps, int columns, Half* numbers) {
    for (int s = 0; s < steps; s++, words += columns, numbers += 2 * (size_t)columns)
        for (int j = 0; j < columns; j++) numbers[j] = (Half)words[j], numbers[columns + j] = (Half)(words[j] >> 16);
}
