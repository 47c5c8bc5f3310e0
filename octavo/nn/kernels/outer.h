// Training: the gradient of a matrix of weights, dY transposed times X, by tiles. A product of torch's takes longer for it
// by half, for it transposes first.
//
// Tokens go in steps of 32, some steps at a time: columns of the narrower side become rows of tiles, those of the other one
// words (see blocks.h), so that what is multiplied is in the nearest caches. Memory is read along its rows: down a column
// of 32 it takes three times as long.
// The two tiles of 32 columns have columns 8q to 8q + 3 and 8q + 4 to 8q + 7: their order is mended in what comes out.
#pragma once
#include "documents.h"

#if OCTAVO_AMX
constexpr int STEP = 2 * TILE, CELL = TILE * LANES, STEPS = 8, PANEL_WORDS = STEPS * 2 * CELL;  // tokens and columns of a step; words of a tile

// A step of up to 32 columns as words, zeros where there is nothing.
INLINE void lay_words(const Half* from, size_t row, int rows, int columns, uint32_t* to) {
    const __mmask32 some = columns < STEP ? (1u << columns) - 1 : ~0u;
    const auto load = [&](int i) { return i < rows ? _mm512_maskz_loadu_epi16(some, from + i * row) : i_zero(); };
    for (int i = 0; i < TILE; i++, to += LANES) {
        const I16 even = load(2 * i), odd = load(2 * i + 1);
        i_store((int32_t*)to, _mm512_unpacklo_epi16(even, odd)), i_store((int32_t*)to + CELL, _mm512_unpackhi_epi16(even, odd));
    }
}
// The same as rows of words.
INLINE void lay_rows(const Half* from, size_t row, int rows, int columns, uint32_t* to) {
    lay_words(from, row, rows, columns, to);
    transpose16(to, LANES, to, LANES), transpose16(to + CELL, LANES, to + CELL, LANES);
}

// Four tiles of sums (of the first rows with both tiles of words, then of the others) += steps of rows times steps of words.
INLINE void add_cells(const uint32_t* rows, const uint32_t* words, int steps, float* sums, bool fresh) {
    if (fresh)
        tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
    else
        tile_load<0>(sums, 64), tile_load<1>(sums + CELL, 64), tile_load<2>(sums + 2 * CELL, 64), tile_load<3>(sums + 3 * CELL, 64);
    for (int i = 0; i < steps; i++, rows += 2 * CELL, words += 2 * CELL) {
        for (int line = 0; line < 4 * TILE / STEPS; line++)  // the next four
            __builtin_prefetch(sums + 4 * CELL + (i * 4 * TILE / STEPS + line) * LANES);
        tile_load<4>(rows, 64), tile_load<6>(words, 64), tile_multiply<HALVES, 0, 4, 6>();
        tile_load<7>(words + CELL, 64), tile_multiply<HALVES, 1, 4, 7>();
        tile_load<5>(rows + CELL, 64), tile_multiply<HALVES, 2, 5, 6>(), tile_multiply<HALVES, 3, 5, 7>();
    }
    tile_store<0>(sums, 64), tile_store<1>(sums + CELL, 64), tile_store<2>(sums + 2 * CELL, 64), tile_store<3>(sums + 3 * CELL, 64);
}

// Numbers of the two tiles of 32 columns in their own order, 16 each.
struct Mended {
    F16 first, second;
    Mended(F16 a, F16 b) {
        alignas(64) static const int32_t order[2][LANES] = {{0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23},
                                                            {8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31}};
        first = _mm512_permutex2var_ps(a, i_load(order[0]), b), second = _mm512_permutex2var_ps(a, i_load(order[1]), b);
    }
};

struct Side {  // `columns` of a matrix from `first` on, multiples of 16; rows of `width`, or tiles of them (see matrix.h)
    const Half* from;
    int width;
    bool tiled;
    int first, columns;
    int blocks() const { return up(columns, STEP) / STEP; }
    size_t row() const { return tiled ? STEP : width; }
    const Half* block(int t, int n) const {  // of 32 tokens and 32 columns
        const size_t column = first + (size_t)n * STEP;
        return from + (tiled ? (size_t)t * width + column * STEP : (size_t)t * width + column);
    }
};

// made (columns of `narrow`, columns of `wide`) = their products, or made the other way round, where it is `turned`.
// half: where columns of dY are pairs (see matrix.h), how many of each there are; rows of made are parted.
struct Outer {
    const Side narrow, wide;
    const int tokens;
    float* made;
    const size_t made_row;
    const bool turned;
    const int half;

    void run() const {
        static thread_local Scratch mine;
        Scratch& scratch = mine.again();
        const int down = narrow.blocks(), across = wide.blocks();
        auto *rows = scratch.take<uint32_t>((size_t)down * PANEL_WORDS), *words = scratch.take<uint32_t>((size_t)across * PANEL_WORDS);
        auto* sums = scratch.take<float>((size_t)(down * across + 1) * 4 * CELL);
        TileShapes shapes;
        for (int i = 0; i < 8; i++) shapes.row_bytes[i] = 64, shapes.rows[i] = TILE;
        configure(shapes);
        for (int t = 0; t < tokens; t += STEPS * STEP) {
            const int steps = std::min(STEPS, up(tokens - t, STEP) / STEP);
            for (int i = 0; i < steps; i++) {  // along the rows: as the memory comes fastest
                lay<lay_rows>(narrow, t + i * STEP, rows + (size_t)i * 2 * CELL);
                lay<lay_words>(wide, t + i * STEP, words + (size_t)i * 2 * CELL);
            }
            for (int n = 0; n < across; n++)
                for (int m = 0; m < down; m++)
                    add_cells(rows + (size_t)m * PANEL_WORDS, words + (size_t)n * PANEL_WORDS, steps, sums + ((size_t)n * down + m) * 4 * CELL, t == 0);
        }
        for (int n = 0; n < across; n++)
            for (int m = 0; m < down; m++) finish(m, n, sums + ((size_t)n * down + m) * 4 * CELL);
    }

    // A step of all columns.
    template <void (*LAY)(const Half*, size_t, int, int, uint32_t*)>
    void lay(const Side& side, int t, uint32_t* to) const {
        for (int n = 0; n < side.blocks(); n++, to += PANEL_WORDS)
            LAY(side.block(t, n), side.row(), tokens - t, side.columns - n * STEP, to);
    }

    // Writes a block of 32 x 32.
    void finish(int m, int n, float* sums) const {
        if (turned) {
            std::swap(m, n);
            for (int i = 0; i < 4; i++) transpose16(sums + i * CELL, LANES, sums + i * CELL, LANES);
        }
        const int rows = (turned ? wide : narrow).columns - m * STEP, columns = (turned ? narrow : wide).columns - n * STEP;
        const int below = (turned ? 1 : 2) * CELL, beside = (turned ? 2 : 1) * CELL;
        for (int r = 0; r < STEP; r++) {
            const int side = r / TILE, row = r % TILE, at = row / 4 * 8 + side * 4 + row % 4;
            if (at >= rows) continue;
            const float* sum = sums + side * below + row * LANES;
            const Mended line(f_load(sum), f_load(sum + beside));
            const int output = m * STEP + at + (turned ? wide.first : 0);
            const int place = half ? output / TILE % 2 * half + output / STEP * TILE + output % TILE : output;
            float* to = made + place * made_row + n * STEP + (turned ? 0 : wide.first);
            f_store(to, line.first);
            if (columns > LANES) f_store(to + LANES, line.second);
        }
    }
};

// made (outputs, inputs) = dy (tokens, outputs) transposed times x (tokens, inputs). Widths: multiples of 16
inline void outer(int tokens, const Side& dy, const Side& x, float* made, int half, int threads) {
    constexpr int SUMS = 200 << 10;  // of a part of the wider side's columns: what the second cache holds beside the rest
    const bool turned = dy.columns > x.columns;
    const Side &narrow = turned ? x : dy, &wide = turned ? dy : x;
    const int size = std::min(up((wide.columns + threads - 1) / threads, STEP), std::max(STEP, SUMS / narrow.columns / STEP * STEP));
    share((wide.columns + size - 1) / size, threads, [&](int part) {
        const TileUse use;
        Side some = wide;
        some.first = part * size, some.columns = std::min(size, wide.columns - some.first);
        Outer{narrow, some, tokens, made, (size_t)x.columns, turned, half}.run();
    });
}
#endif
