// Training: products of activations with matrices of weights, by tiles, and an MLP of them. What follows a product is
// computed between the tiles of the next one, while its sums are in the nearest cache: the units of tiles and of vectors
// work at the same time.
//
//   panels   a matrix (inputs, outputs) as words: blocks of 32 outputs, steps of 32 inputs, two tiles
//   pairs    gates and ups (rows, 2 inner) of an MLP, 16 of each in turn: so they lie in panels, in memory, and in gradients
//   tiles    how rows lie that only tiles work with: written and read one after the other, where 32 rows of a matrix are
//            32 places far from each other, which share few sets of the caches
#pragma once
#include "outer.h"

#if OCTAVO_AMX
INLINE void save_two(Half* to, F16 first, F16 second) { _mm512_storeu_si512(to, (I16)_mm512_cvtne2ps_pbh(second, first)); }

struct Panels {
    const uint32_t* words;
    int steps, blocks;
    Panels(const void* words, int inputs, int outputs) : words((const uint32_t*)words), steps(inputs / STEP), blocks(outputs / STEP) {}
    const uint32_t* block(int n) const { return words + (size_t)n * steps * 2 * CELL; }
};

// Sums (+)= those of 32 rows with 32 outputs. Meanwhile between(0) .. between(31) are computed, EACH with a step.
template <int EACH, class F>
INLINE void multiply(const uint32_t* rows, const uint32_t* panel, int steps, float* sums, bool fresh, F between) {
    if (fresh)
        tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
    else
        tile_load<0>(sums, 64), tile_load<1>(sums + CELL, 64), tile_load<2>(sums + 2 * CELL, 64), tile_load<3>(sums + 3 * CELL, 64);
    for (int s = 0; s < steps; s++, rows += 2 * CELL, panel += 2 * CELL) {
        tile_load<4>(rows, 64), tile_load<6>(panel, 64), tile_multiply<HALVES, 0, 4, 6>();
        tile_load<7>(panel + CELL, 64), tile_multiply<HALVES, 1, 4, 7>();
        tile_load<5>(rows + CELL, 64), tile_multiply<HALVES, 2, 5, 6>(), tile_multiply<HALVES, 3, 5, 7>();
#pragma GCC unroll 8
        for (int i = 0; i < EACH; i++) between(s * EACH + i);
    }
    for (int i = steps * EACH; i < STEP; i++) between(i);
    tile_store<0>(sums, 64), tile_store<1>(sums + CELL, 64), tile_store<2>(sums + 2 * CELL, 64), tile_store<3>(sums + 3 * CELL, 64);
}

// Rows (rows, width) as tiles: 32 rows, then steps of 32 columns, then two tiles; zeros where there is no row.
struct Tiles {
    uint32_t* words;
    int width;
    uint32_t* of(int row) const { return words + (size_t)row / STEP * STEP * width / 2 + row % STEP * LANES; }  // its first 32 columns
    uint32_t* of(int row, int step) const { return of(row) + step * 2 * CELL; }
    Half* at(int row, int column) const { return (Half*)of(row, column / STEP) + column % STEP; }
    static size_t size(int rows, int width) { return (size_t)up(rows, STEP) * width / 2; }
    void lay(const Half* x, int rows) const {
        for (int r = 0; r < up(rows, STEP); r++)
            for (int s = 0; s < width / STEP; s++)
                i_store((int32_t*)of(r, s), r < rows ? i_load((const int32_t*)(x + (size_t)r * width + s * STEP)) : i_zero());
    }
};

// Panels of a matrix whose outputs come 16 by 16, in turn from two places: of the one an MLP multiplies its inputs with,
// from gates and ups; of another, from its odd and even sixteens.
struct Matrix {
    const float *even, *odd;
    size_t next;  // from sixteen to sixteen
    int outputs, inputs;
    Matrix(const float* weight, int outputs, int inputs)
        : even(weight), odd(weight + (size_t)TILE * inputs), next((size_t)STEP * inputs), outputs(outputs), inputs(inputs) {}
    Matrix(const float* gate, const float* up, int inner, int inputs)
        : even(gate), odd(up), next((size_t)TILE * inputs), outputs(2 * inner), inputs(inputs) {}
    const float* row(int output) const {
        return (output / TILE % 2 ? odd : even) + output / STEP * next + (size_t)(output % TILE) * inputs;
    }

    // As panels for x (rows, inputs).
    void lay(uint32_t* panels) const {
        for (int n = 0; n < outputs; n += STEP)
            for (int s = 0; s < inputs; s += STEP)
                for (int side = 0; side < 2; side++, panels += CELL) {
                    for (int i = 0; i < TILE; i++) {
                        const float* from = row(n + side * TILE + i) + s;
                        save_two((Half*)(panels + i * LANES), f_load(from), f_load(from + LANES));
                    }
                    transpose16(panels, LANES, panels, LANES);
                }
    }
    // As panels for gradients (rows, outputs).
    void lay_back(uint32_t* panels) const {
        alignas(64) Half order[STEP];
        for (int i = 0; i < STEP; i++) order[i] = i / 2 + i % 2 * LANES;
        for (int n = 0; n < inputs; n += STEP)
            for (int s = 0; s < outputs; s += STEP)
                for (int side = 0; side < 2; side++)
                    for (int i = 0; i < TILE; i++, panels += LANES) {
                        const int at = n + side * LANES;
                        const I16 two = (I16)_mm512_cvtne2ps_pbh(f_load(row(s + 2 * i + 1) + at), f_load(row(s + 2 * i) + at));
                        i_store((int32_t*)panels, _mm512_permutexvar_epi16(i_load((const int32_t*)order), two));
                    }
    }
};

// finish(row, block, 16 sums, 16 more) of all rows times panels. As many panels at a time as stay in the second cache.
template <int EACH, class F>
void multiply_rows(const Tiles& x, int rows, const Panels& panels, F finish) {
    constexpr int NEAR_BYTES = 768 << 10, ABREAST = 4, STEPS_NEAR = 8;
    alignas(64) float sums[2][ABREAST][4 * CELL];
    const float* last = nullptr;  // what is to be finished
    int turn = 0, first = 0, block = 0, count = 0;
    const auto finish_row = [&](int r) {
        const float* sum = last + r / TILE * 2 * CELL + r % TILE * LANES;
        if (r < count) finish(first + r, block, f_load(sum), f_load(sum + CELL));
    };
    const int parts = (panels.steps + STEPS_NEAR - 1) / STEPS_NEAR, size = (panels.steps + parts - 1) / parts;
    const int group = up(std::max(1, NEAR_BYTES / (panels.steps * 2 * CELL * 4)), ABREAST);
    for (int n0 = 0; n0 < panels.blocks; n0 += group)
        for (int m = 0; m < rows; m += STEP)
            for (int n1 = n0; n1 < std::min(n0 + group, panels.blocks); n1 += ABREAST, turn ^= 1)
                for (int s = 0; s < panels.steps; s += size)
                    for (int n = n1; n < std::min(n1 + ABREAST, panels.blocks); n++) {
                        float* sum = sums[turn][n - n1];
                        multiply<EACH>(x.of(m, s), panels.block(n) + s * 2 * CELL, std::min(size, panels.steps - s), sum,
                                       s == 0, finish_row);
                        count = 0;
                        if (s + size >= panels.steps) last = sum, first = m, block = n, count = std::min(STEP, rows - m);
                    }
    for (int r = 0; r < count; r++) finish_row(r);
}
template <class F>
void multiply_rows(const Tiles& x, int rows, const Panels& panels, F finish) {
    TileShapes shapes;
    for (int i = 0; i < 8; i++) shapes.row_bytes[i] = 64, shapes.rows[i] = TILE;
    configure(shapes);
    if (panels.steps > 4)
        multiply_rows<4>(x, rows, panels, finish);
    else
        multiply_rows<8>(x, rows, panels, finish);
}

// y (rows, outputs) = x (rows, inputs) times panels
inline void multiply_to(const Tiles& x, int rows, const Panels& panels, Half* y) {
    const size_t row = (size_t)panels.blocks * STEP;
    multiply_rows(x, rows, panels, [=](int r, int n, F16 one, F16 two) { save_two(y + r * row + n * STEP, one, two); });
}

struct MLP {  // widths: multiples of 32
    int rows, width, inner, threads;

    // f(first row, rows, x of them as tiles, memory): more rows at a time where the second cache does not keep the weights.
    template <class F>
    void chunks(const Half* x, F f) const {
        constexpr size_t KEPT_BYTES = 1280 << 10;
        const int most = (size_t)width * inner * 3 * sizeof(Half) <= KEPT_BYTES ? 128 : 256;
        const int size = std::max(STEP, std::min(most, up((rows + threads - 1) / threads, STEP)));
        share((rows + size - 1) / size, threads, [=](int part) {
            static thread_local Scratch mine;
            const TileUse use;
            Scratch& scratch = mine.again();
            const int first = part * size, count = std::min(size, rows - first);
            const Tiles given{scratch.take<uint32_t>(Tiles::size(count, width)), width};
            given.lay(x + (size_t)first * width, count);
            f(first, count, given, scratch);
        });
    }

    // out = down(silu(gate) * up); pairs, as tiles
    void forward(const Half* x, const void* gate_up, const void* down, uint32_t* pairs, Half* out) const {
        const Panels in(gate_up, width, 2 * inner), back(down, inner, width);
        chunks(x, [&](int first, int count, const Tiles& given, Scratch& scratch) {
            const Tiles made{scratch.take<uint32_t>(Tiles::size(count, inner)), inner};
            const Tiles both{Tiles{pairs, 2 * inner}.of(first), 2 * inner};
            multiply_rows(given, count, in, [=](int r, int n, F16 gate, F16 up) {
                save_two(both.at(r, n * STEP), gate, up);
                save(made.at(r, n * LANES), f_mul(f_mul(gate, sigmoid<Half>(gate)), up));
            });
            multiply_to(made, count, back, out + (size_t)first * width);
        });
    }

    // dx; pairs become the gradient by them; what the forward pass made, as tiles
    void backward(const Half* dout, const void* down, const void* gate_up, uint32_t* pairs, uint32_t* made, Half* dx) const {
        const Panels in(down, width, inner), back(gate_up, 2 * inner, width);
        chunks(dout, [&](int first, int count, const Tiles& given, Scratch&) {
            const Tiles both{Tiles{pairs, 2 * inner}.of(first), 2 * inner}, to{Tiles{made, inner}.of(first), inner};
            multiply_rows(given, count, in, [=](int r, int n, F16 d0, F16 d1) {
                const F16 out0 = pair_back(both.at(r, 2 * n * STEP), d0), out1 = pair_back(both.at(r, (2 * n + 1) * STEP), d1);
                save_two(to.at(r, n * STEP), out0, out1);
            });
            multiply_to(both, count, back, dx + (size_t)first * width);
        });
    }

    // 16 gates and ups become their gradients. Gives what was made of them.
    static INLINE_MEMBER F16 pair_back(Half* pair, F16 d) {
        const F16 gate = load(pair), up = load(pair + LANES), s = sigmoid<Half>(gate), silu = f_mul(gate, s);
        const F16 rise = f_fma(silu, f_sub(f_set(1.0f), s), s);  // s + g s (1 - s)
        save_two(pair, f_mul(f_mul(d, up), rise), f_mul(d, silu));
        return f_mul(silu, up);
    }
};
#endif
