// The kernels of linear.h: R rows times a pair of panels; sums go to out[R][2][16]. They stand alone, so that a compiler
// keeps all sums in registers. Here for registers that hold a whole panel, and for plain C++.
#pragma once

constexpr int BYTES_SHIFT = 1;  // products_u8 takes weights as they lie, + 128

#define KERNEL template <int R> __attribute__((noinline)) void

// Where row r begins, as a base that four rows share and a multiple of the stride below four: few registers do.
#define ROW(r) (base[(r) / 4] + (r) % 4 * stride)
#define BASES                               \
    const uint8_t* base[(R + 3) / 4];       \
    for (int r = 0; r < R; r += 4) base[r / 4] = a + r * stride;
#define NEXT(bytes) \
    for (auto& one : base) one += bytes;

// soon: memory that will be read next, of which each round fetches `pace` bytes.
KERNEL products_u8(const uint8_t* w, const uint8_t* a, ptrdiff_t stride, int inputs, int32_t* out, const uint8_t* soon,
                   ptrdiff_t pace) {
    I16 acc[R][2];
    BASES
    for (int r = 0; r < R; r++) acc[r][0] = acc[r][1] = i_zero();
    for (int i = 0; i < inputs; i += 4, w += 128, soon += pace) {
        const Bytes w0 = b_load(w), w1 = b_load(w + 64);
        __builtin_prefetch(soon), __builtin_prefetch(soon + pace / 2);
        for (int r = 0; r < R; r++) {
            const Bytes x = b_set4(ROW(r));
            acc[r][0] = dot4(acc[r][0], w0, x);
            acc[r][1] = dot4(acc[r][1], w1, x);
        }
        NEXT(4)
    }
    for (int r = 0; r < R; r++) i_store(out + r * PAIR, acc[r][0]), i_store(out + r * PAIR + LANES, acc[r][1]);
}

KERNEL products_u4(const uint8_t* w, const uint8_t* groups, const uint8_t* a, ptrdiff_t stride, const int32_t* sums,
                   int inputs, int32_t* out) {
    I16 acc[R][2];
    BASES
    for (int r = 0; r < R; r++) acc[r][0] = acc[r][1] = i_zero();
    const int per_row = inputs / 32;
    for (int i = 0; i < inputs; i += 64, groups += 32) {
        const I16 both0 = from_u8(groups), both1 = from_u8(groups + 16);
        __builtin_prefetch(groups + AHEAD / 8);
        for (int half = 0; half < 2; half++) {
            I16 dot[R][2];
            for (int r = 0; r < R; r++) dot[r][0] = dot[r][1] = i_set(sums[r * per_row + i / 32 + half]);
            for (int j = 0; j < 4; j++, w += 128) {
                const Bytes w0 = b_load(w), w1 = b_load(w + 64);
                __builtin_prefetch(w + AHEAD), __builtin_prefetch(w + AHEAD + 64);
                const Bytes low0 = low_nibbles(w0), low1 = low_nibbles(w1);
                const Bytes high0 = high_nibbles(w0), high1 = high_nibbles(w1);
                for (int r = 0; r < R; r++) {
                    const Bytes x = b_set4(ROW(r)), y = b_set4(ROW(r) + 4);
                    dot[r][0] = dot4(dot4(dot[r][0], low0, x), high0, y);
                    dot[r][1] = dot4(dot4(dot[r][1], low1, x), high1, y);
                }
                NEXT(8)
            }
            const I16 f0 = half ? odd_nibble(both0) : even_nibble(both0);
            const I16 f1 = half ? odd_nibble(both1) : even_nibble(both1);
            for (int r = 0; r < R; r++) {
                acc[r][0] = scale_add(acc[r][0], dot[r][0], f0);
                acc[r][1] = scale_add(acc[r][1], dot[r][1], f1);
            }
        }
    }
    for (int r = 0; r < R; r++) i_store(out + r * PAIR, acc[r][0]), i_store(out + r * PAIR + LANES, acc[r][1]);
}

KERNEL products_bf16(const uint8_t* w, const uint8_t* a, ptrdiff_t stride, int inputs, float* out) {
    F16 acc[R][2];
    BASES
    for (int r = 0; r < R; r++) acc[r][0] = acc[r][1] = f_zero();
    for (int i = 0; i < inputs; i += 2, w += 128) {
        const Bytes w0 = b_load(w), w1 = b_load(w + 64);
        __builtin_prefetch(w + AHEAD), __builtin_prefetch(w + AHEAD + 64);
        for (int r = 0; r < R; r++) {
            const Bytes x = b_set4(ROW(r));
            acc[r][0] = dot2(acc[r][0], w0, x);
            acc[r][1] = dot2(acc[r][1], w1, x);
        }
        NEXT(4)
    }
    for (int r = 0; r < R; r++) f_store(out + r * PAIR, acc[r][0]), f_store(out + r * PAIR + LANES, acc[r][1]);
}

// G8, G4 and G4M. R rows; sums of the rows' groups and their scales lie `per_row` apart.
template <int R, int KIND>
__attribute__((noinline)) void products_groups(const uint8_t* w, const uint16_t* groups, const uint8_t* a, ptrdiff_t stride,
                                               const int32_t* sums, const float* scales, int inputs, float* out) {
    F16 acc[R][2];
    BASES
    for (int r = 0; r < R; r++) acc[r][0] = acc[r][1] = f_zero();
    const int per_row = inputs / 32;
    for (int g = 0; g < per_row; g++, groups += KIND == G4M ? 64 : 32) {
        I16 dot[R][2];
        for (int r = 0; r < R; r++)
            dot[r][0] = dot[r][1] = i_set((KIND == G4M ? 0 : KIND == G4 ? 1 : 16) * sums[r * per_row + g]);
        __builtin_prefetch((const uint8_t*)groups + AHEAD / 4);
        for (int j = 0; j < (KIND == G8 ? 8 : 4); j++, w += 128) {
            const Bytes w0 = b_load(w), w1 = b_load(w + 64);
            __builtin_prefetch(w + AHEAD), __builtin_prefetch(w + AHEAD + 64);
            for (int r = 0; r < R; r++) {
                const Bytes x = b_set4(ROW(r));
                if (KIND == G8) {
                    dot[r][0] = dot4(dot[r][0], w0, x), dot[r][1] = dot4(dot[r][1], w1, x);
                    continue;
                }
                const Bytes y = b_set4(ROW(r) + 4);
                dot[r][0] = dot4(dot4(dot[r][0], low_nibbles(w0), x), high_nibbles(w0), y);
                dot[r][1] = dot4(dot4(dot[r][1], low_nibbles(w1), x), high_nibbles(w1), y);
            }
            NEXT(KIND == G8 ? 4 : 8)
        }
        const F16 s0 = from_half(groups), s1 = from_half(groups + 16);
        for (int r = 0; r < R; r++) {
            const float scale = scales[r * per_row + g];
            acc[r][0] = f_fma(to_float(dot[r][0]), f_mul(s0, f_set(scale)), acc[r][0]);
            acc[r][1] = f_fma(to_float(dot[r][1]), f_mul(s1, f_set(scale)), acc[r][1]);
            if (KIND != G4M) continue;
            const F16 sum = f_set(scale * (float)(sums[r * per_row + g] / -8));
            acc[r][0] = f_fma(from_half(groups + 32), sum, acc[r][0]);
            acc[r][1] = f_fma(from_half(groups + 48), sum, acc[r][1]);
        }
    }
    for (int r = 0; r < R; r++) f_store(out + r * PAIR, acc[r][0]), f_store(out + r * PAIR + LANES, acc[r][1]);
}
