// Rows of activations times packed weights.
//
// Outputs stand in pairs of panels of 16, so that one stream of memory feeds a pair; inputs are padded to 64 with zeros.
//   BF16   pair: [K/2][2 panels][16 outputs][2 inputs] bf16
//   W8     pair: [K/4][2][16][4] uint8 = weight + 128; logical weight = int8 * scale of its output
//   W4     pair: [K/8][2][16][4] uint8, low nibble: inputs 8i .. 8i+3, high: 8i+4 .. 8i+7, nibble = weight + 8;
//          groups of 32 inputs: pair [K/64][2][16] uint8, low nibble: factor of the even group, high: of the odd one;
//          logical weight = int4 * factor * scale of its output
// With W8 and W4 the activations are int8 with one scale a row, and a sum of products is an exact integer. Before they are
// rounded, blocks of `rotation` of them are multiplied with a Hadamard matrix, which spreads outliers; the weights were
// multiplied with the same matrix, so the product stays what it was (QuaRot, arXiv:2404.00456).
//
// Three more hold what GGUF files hold, exactly: weights of 8 or 4 bits with a half-precision scale for 32 inputs. Their
// activations have a scale for 32 inputs as well, and groups are added up in fp32, in order.
//   G8     data as W8; groups: pair [K/32][2][16] scales         (Q8_0)
//   G4     data as W4; groups: the same                          (Q4_0)
//   G4M    data as W4, nibble = weight; groups: pair [K/32][2 of scales, 2 of minima][16]   (Q4_1)
#pragma once
#include "pool.h"
#include "rotate.h"
#include "tiles.h"

enum Kind : int32_t { BF16 = 0, W8 = 1, W4 = 2, G8 = 3, G4 = 4, G4M = 5 };

constexpr int PAIR = 2 * LANES;    // outputs of a pair of panels
constexpr int PAD = 64;            // inputs are padded to a multiple of this
constexpr float TINY = 1e-30f;     // a row whose largest number is below this is zero
#if OCTAVO_AMX
constexpr int FEW = 4;             // rows up to which W4 is multiplied without being widened first
#else
constexpr int FEW = 8;
#endif
constexpr int GAP = 64;            // bytes between rows: those of a tile must not all fall into a few places of a cache
constexpr int AHEAD = 2048;        // bytes that a stream of weights is fetched ahead
#if OCTAVO_AVX512
constexpr int MOST = 12;           // rows whose sums fit the registers
#else
constexpr int MOST = 3;
#endif
#if OCTAVO_AVX2
constexpr bool NIBBLES_FIRST = true;   // W4 as it is takes fewer instructions than W8, however many rows there are
#else
constexpr bool NIBBLES_FIRST = false;
#endif

// Bytes of a pair of panels, and of its groups.
constexpr ptrdiff_t pair_bytes(int kind, ptrdiff_t wide) {
    return wide * PAIR * (kind == BF16 ? 4 : kind == W8 || kind == G8 ? 2 : 1) / 2;
}
constexpr ptrdiff_t group_bytes(int kind, ptrdiff_t wide) {
    return kind == W4 ? wide / 2 : kind == G8 || kind == G4 ? wide * 2 : kind == G4M ? wide * 4 : 0;
}

constexpr int padded(int inputs) { return (inputs + PAD - 1) / PAD * PAD; }

struct Matrix {
    int32_t kind, outputs, inputs, rotation;  // outputs: a multiple of PAIR; inputs: as the model has them
    const uint8_t* data;
    const uint8_t* groups;  // W4
    const float* scale;     // W8, W4: one for each output
    const float* bias;      // or null
};

// Rows ready to be multiplied. Their values lie `stride` apart: int8 or bf16, padded with zeros.
struct Rows {
    uint8_t* data = nullptr;
    float* scale = nullptr;    // of a row
    int32_t* sum = nullptr;    // of a row, times 128
    int32_t* sums = nullptr;   // of each group of 32 of a row, times -8
    float* scales = nullptr;   // of each group of 32 of a row, for G8, G4 and G4M
    int inputs = 0;

    ptrdiff_t stride(int kind) const { return (ptrdiff_t)padded(inputs) * (kind == BF16 ? 2 : 1) + GAP; }
    const uint8_t* row(int kind, int r) const { return data + r * stride(kind); }
    float* group_scales(int r) const { return scales + (ptrdiff_t)r * (padded(inputs) / 32); }
    int32_t* group_sums(int r) const { return sums + (ptrdiff_t)r * (padded(inputs) / 32); }
};

// Numbers as int8 (to nearest, ties to even); returns their scale, which is NaN where one of them is not finite.
INLINE float to_int8(const float* values, int count, int8_t* out) {
    constexpr int ABREAST = 4 * LANES;
    F16 most[4] = {f_zero(), f_zero(), f_zero(), f_zero()}, nothing[4] = {f_zero(), f_zero(), f_zero(), f_zero()};
    int done = 0;
    for (; done + ABREAST <= count; done += ABREAST)
        for (int j = 0; j < 4; j++) {
            const F16 x = f_load(values + done + j * LANES);
            most[j] = f_max(most[j], f_abs(x)), nothing[j] = f_fma(x, f_zero(), nothing[j]);
        }
    for (int i = done; i < count; i += LANES) {
        const F16 x = f_load(values + i);
        most[0] = f_max(most[0], f_abs(x)), nothing[0] = f_fma(x, f_zero(), nothing[0]);
    }
    for (int j = 1; j < 4; j++) most[0] = f_max(most[0], most[j]), nothing[0] = f_add(nothing[0], nothing[j]);
    const float largest = f_most(most[0]), inverse = largest < TINY ? 0.0f : 127.0f / largest;
    for (int i = 0; i < count; i += LANES) to_s8(out + i, f_mul(f_load(values + i), f_set(inverse)));
    return (largest < TINY ? 0.0f : largest / 127.0f) + f_sum(nothing[0]);
}

// values, already padded with zeros, become row r as matrix m wants it; they are lost where m is rotated.
// spare: as many numbers.
INLINE void set_row(Rows& rows, const Matrix& m, int r, float* values, float* spare) {
    const int wide = padded(rows.inputs), kind = m.kind;
    if (m.rotation) rotate_blocks(values, rows.inputs, m.rotation, spare);
    uint8_t* out = rows.data + r * rows.stride(kind);
    if (kind == BF16) {
        for (int i = 0; i < wide; i += LANES) to_bf16((uint16_t*)out + i, f_load(values + i));
        return;
    }
    if (kind == W8 || kind == W4)
        rows.scale[r] = to_int8(values, wide, (int8_t*)out);
    else
        for (int i = 0; i < wide; i += 32) rows.group_scales(r)[i / 32] = to_int8(values + i, 32, (int8_t*)out + i);
    const uint32_t each = 0x01010101;
    const Bytes ones = b_set4(&each);
    int32_t total = 0;
    for (int i = 0; i < wide; i += 64) {
        int32_t fours[LANES], halves[2] = {0, 0};
        i_store(fours, dot4(i_zero(), ones, b_load(out + i)));
        for (int j = 0; j < LANES; j++) halves[j / 8] += fours[j];
        rows.group_sums(r)[i / 32] = -8 * halves[0], rows.group_sums(r)[i / 32 + 1] = -8 * halves[1];
        total += halves[0] + halves[1];
    }
    rows.sum[r] = 128 * total;
}

#if OCTAVO_AVX2
#include "products_avx2.h"
#else
#include "products.h"
#endif

// 64 inputs of a pair of W4 panels as W8, 2 KiB: exact, since factor * weight fits int8.
INLINE void widen_step(const uint8_t* w, const uint8_t* groups, uint8_t* out) {
    const I16 both0 = from_u8(groups), both1 = from_u8(groups + 16);
    for (int half = 0; half < 2; half++) {
        const I16 f0 = half ? odd_nibble(both0) : even_nibble(both0);
        const I16 f1 = half ? odd_nibble(both1) : even_nibble(both1);
        for (int j = 0; j < 4; j++, w += 128, out += 256) {
            __builtin_prefetch(w + AHEAD), __builtin_prefetch(w + AHEAD + 64);
            const Bytes w0 = b_load(w), w1 = b_load(w + 64);
            const Bytes wide[4] = {widen4(low_nibbles(w0), f0), widen4(low_nibbles(w1), f1),
                                   widen4(high_nibbles(w0), f0), widen4(high_nibbles(w1), f1)};
            std::memcpy(out, wide, 256);
        }
    }
}
INLINE void widen_pair(const uint8_t* w, const uint8_t* groups, int inputs, uint8_t* out) {
    for (int i = 0; i < inputs; i += 64, w += pair_bytes(W4, 64), groups += group_bytes(W4, 64), out += pair_bytes(W8, 64))
        widen_step(w, groups, out);
}

// Scales of one pair of panels, and what is added to it.
struct Finish {
    F16 scale[2], bias[2];

    Finish(const Matrix& m, int pair) : scale{f_zero(), f_zero()}, bias{f_zero(), f_zero()} {
        if (m.kind == W8 || m.kind == W4) scale[0] = f_load(m.scale + pair * PAIR), scale[1] = f_load(m.scale + pair * PAIR + LANES);
        if (m.bias) bias[0] = f_load(m.bias + pair * PAIR), bias[1] = f_load(m.bias + pair * PAIR + LANES);
    }
    // The sums of one row: give(row, first 16 outputs, next 16) gets the finished numbers.
    template <class Give>
    INLINE_MEMBER void floats(int r, const float* sums, Give give) const {
        give(r, f_add(f_load(sums), bias[0]), f_add(f_load(sums + LANES), bias[1]));
    }
    template <class Give>
    INLINE_MEMBER void integers(int r, const int32_t* sums, float row_scale, int32_t shift, Give give) const {
        const F16 by = f_set(row_scale);
        const F16 y0 = f_mul(to_float(i_sub(i_load(sums), i_set(shift))), f_mul(by, scale[0]));
        const F16 y1 = f_mul(to_float(i_sub(i_load(sums + LANES), i_set(shift))), f_mul(by, scale[1]));
        give(r, f_add(y0, bias[0]), f_add(y1, bias[1]));
    }
};

#if OCTAVO_AMX
// Pairs of panels of W4, widened step by step.
struct Widened {
    const uint8_t *w, *groups;
    alignas(64) uint8_t made[2][STEP_BYTES];

    INLINE_MEMBER const uint8_t* step(int i) {
        widen_step(w + i * pair_bytes(W4, 64), groups + i * group_bytes(W4, 64), made[i % 2]);
        return made[i % 2];
    }
};

// All rows times one pair of panels. scratch: 32 * padded(inputs) bytes
template <class Give>
INLINE void tiles_of_pair(const Matrix& m, const uint8_t* w, const uint8_t* groups, const Rows& rows, int first, int last,
                          int pair, uint8_t* scratch, Give give) {
    const Finish finish(m, pair);
    const int wide = padded(rows.inputs), steps = wide / (m.kind == BF16 ? 32 : 64);
    const ptrdiff_t stride = rows.stride(m.kind);
    const bool widened = m.kind == W4 && last - first <= TILED;
    if (m.kind == W4 && !widened) widen_pair(w, groups, wide, scratch);
    union {
        alignas(64) float f[TILED][PAIR];
        int32_t i[TILED][PAIR];
    } sums;
    for (int r = first; r < last; r += TILED) {
        const int some = last - r < TILED ? last - r : TILED;
        Stored stored{m.kind == W4 ? scratch : w, m.kind != W4 && r == first ? 2 * AHEAD : 0};
        if (m.kind == BF16) {
            tile_products<HALVES>(stored, rows.row(BF16, r), stride, some, steps, sums.f);
            for (int i = 0; i < some; i++) finish.floats(r + i, sums.f[i], give);
            continue;
        }
        if (widened) {
            Widened panels;
            panels.w = w, panels.groups = groups;
            tile_products<SIGNED_UNSIGNED>(panels, rows.row(W8, r), stride, some, steps, sums.i);
        } else {
            tile_products<SIGNED_UNSIGNED>(stored, rows.row(W8, r), stride, some, steps, sums.i);
        }
        for (int i = 0; i < some; i++) finish.integers(r + i, sums.i[i], rows.scale[r + i], rows.sum[r + i], give);
    }
}
#endif

// R rows from r0 on, one pair of panels; give(row, first 16 outputs, next 16) gets the finished numbers.
template <int R, class Give>
INLINE void rows_of_pair(const Matrix& m, const uint8_t* w, const uint8_t* groups, int kind, const Rows& rows, int r0,
                         int pair, const uint8_t* soon, Give give) {
    const ptrdiff_t stride = rows.stride(kind);
    const int wide = padded(rows.inputs);
    const uint8_t* a = rows.row(kind, r0);
    const Finish finish(m, pair);
    union {
        alignas(64) float f[R][PAIR];
        int32_t i[R][PAIR];
    } acc;
    if (kind != W8 && kind != W4) {
        const uint16_t* halves = (const uint16_t*)groups;
        if (kind == BF16) {
            products_bf16<R>(w, a, stride, wide, acc.f[0]);
        } else {
            const int32_t* sums = rows.group_sums(r0);
            const float* scales = rows.group_scales(r0);
            if (kind == G8)
                products_groups<R, G8>(w, halves, a, stride, sums, scales, wide, acc.f[0]);
            else if (kind == G4)
                products_groups<R, G4>(w, halves, a, stride, sums, scales, wide, acc.f[0]);
            else
                products_groups<R, G4M>(w, halves, a, stride, sums, scales, wide, acc.f[0]);
        }
        for (int r = 0; r < R; r++) finish.floats(r0 + r, acc.f[r], give);
        return;
    }
    if (kind == W4)
        products_u4<R>(w, groups, a, stride, rows.group_sums(r0), wide, acc.i[0]);
    else
        products_u8<R>(w, a, stride, wide, acc.i[0], soon, m.kind == W4 ? 64 : 128);
    for (int r = 0; r < R; r++)
        finish.integers(r0 + r, acc.i[r], rows.scale[r0 + r], kind == W8 ? BYTES_SHIFT * rows.sum[r0 + r] : 0, give);
}

// One pair of panels, rows first .. last-1. scratch: 32 * padded(inputs) bytes.
template <class Give>
INLINE void pair_of_panels(const Matrix& m, const Rows& rows, int first, int last, int pair, uint8_t* scratch, Give give) {
    const ptrdiff_t wide = padded(rows.inputs);
    const ptrdiff_t bytes = pair_bytes(m.kind, wide);
    const uint8_t *w = m.data + pair * bytes, *groups = m.groups + pair * group_bytes(m.kind, wide);
    const uint8_t* soon = w + (m.kind == W4 ? bytes : AHEAD);
    int kind = m.kind, r = first;
#if OCTAVO_AMX
    if (kind == BF16 || kind == W8 || (kind == W4 && last - first > FEW))
        return tiles_of_pair(m, w, groups, rows, first, last, pair, scratch, give);
#endif
#if OCTAVO_AVX2
    for (; kind == BF16 && r + FEW < last; r += BLOCK) {
        alignas(32) float sums[BLOCK][PAIR];
        const int some = last - r < BLOCK ? last - r : BLOCK;
        const Finish finish(m, pair);
        many_bf16(w, rows.row(BF16, r), rows.stride(BF16), some, (int)wide, sums[0]);
        for (int i = 0; i < some; i++) finish.floats(r + i, sums[i], give);
    }
#endif
    if (kind == W4 && last - first > FEW && !NIBBLES_FIRST) {
        widen_pair(w, groups, (int)wide, scratch);
        w = scratch, kind = W8;
    }
    for (; kind < G8 && r + MOST <= last; r += MOST) rows_of_pair<MOST>(m, w, groups, kind, rows, r, pair, soon, give);
#if OCTAVO_AVX512
    if (kind < G8 && r + 8 <= last) rows_of_pair<8>(m, w, groups, kind, rows, r, pair, soon, give), r += 8;
    for (; r + 4 <= last; r += 4) rows_of_pair<4>(m, w, groups, kind, rows, r, pair, soon, give);
#endif
    for (; r + 2 <= last; r += 2) rows_of_pair<2>(m, w, groups, kind, rows, r, pair, soon, give);
    for (; r < last; r++) rows_of_pair<1>(m, w, groups, kind, rows, r, pair, soon, give);
}
