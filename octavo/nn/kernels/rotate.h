// Rotations of rows: orthonormal transforms that spread outliers and are their own inverse.
#pragma once
#include "vector.h"

constexpr int MOST_BLOCKS = 32;  // that a rotation goes across

// Lanes swapped at a distance of `apart`: lane i gets lane i ^ apart.
template <int apart>
INLINE F16 swapped(F16 x) {
#if OCTAVO_AVX512
    if (apart < 4) return _mm512_permute_ps(x, apart == 1 ? 0xb1 : 0x4e);
    return _mm512_shuffle_f32x4(x, x, apart == 4 ? 0xb1 : 0x4e);
#elif OCTAVO_AVX2
    if (apart == 8) return {x.b, x.a};
    if (apart == 4) return {_mm256_permute2f128_ps(x.a, x.a, 1), _mm256_permute2f128_ps(x.b, x.b, 1)};
    constexpr int order = apart == 1 ? 0xb1 : 0x4e;
    return {_mm256_permute_ps(x.a, order), _mm256_permute_ps(x.b, order)};
#else
    F16 y;
    for (int i = 0; i < LANES; i++) y.v[i] = x.v[i ^ apart];
    return y;
#endif
}

// One step of a Walsh-Hadamard transform within the lanes: sums below, differences above.
template <int apart>
INLINE F16 butterfly(F16 x) {
    float sign[LANES];
    for (int i = 0; i < LANES; i++) sign[i] = i & apart ? -1.0f : 1.0f;
    return f_fma(x, f_load(sign), swapped<apart>(x));
}

struct Hartley {  // factor[n][i] = (cos + sin)(2 pi i / n) / sqrt(n)
    float factor[MOST_BLOCKS + 1][MOST_BLOCKS] = {};
    Hartley() {
        for (int n = 1; n <= MOST_BLOCKS; n++)
            for (int i = 0; i < n; i++) {
                const double angle = 2 * M_PI * i / n;
                factor[n][i] = (float)((std::cos(angle) + std::sin(angle)) / std::sqrt((double)n));
            }
    }
};

// `count` numbers = blocks of `block` of them: within each block an orthonormal Walsh-Hadamard transform (a power of two,
// 16 or more), across the blocks an orthonormal Hartley transform. Each is its own inverse, and so are both together.
// spare: as many numbers, aligned.
INLINE void rotate_blocks(float* x, int count, int block, float* spare) {
    const F16 size = f_set(1.0f / std::sqrt((float)block));
    for (float* one = x; one < x + count; one += block) {
        const int vectors = block / LANES;
        for (int i = 0; i < vectors; i++) {
            const F16 v = f_load(one + i * LANES);
            f_store(one + i * LANES, f_mul(butterfly<8>(butterfly<4>(butterfly<2>(butterfly<1>(v)))), size));
        }
        int apart = LANES;
        for (; 4 * apart <= block; apart *= 4)  // two steps at once
            for (int first = 0; first < block; first += 4 * apart)
                for (int i = first; i < first + apart; i += LANES) {
                    const F16 a = f_load(one + i), b = f_load(one + i + apart);
                    const F16 c = f_load(one + i + 2 * apart), d = f_load(one + i + 3 * apart);
                    const F16 ab = f_add(a, b), a_b = f_sub(a, b), cd = f_add(c, d), c_d = f_sub(c, d);
                    f_store(one + i, f_add(ab, cd)), f_store(one + i + apart, f_add(a_b, c_d));
                    f_store(one + i + 2 * apart, f_sub(ab, cd)), f_store(one + i + 3 * apart, f_sub(a_b, c_d));
                }
        for (int i = 0; apart < block && i < apart; i += LANES) {
            const F16 a = f_load(one + i), b = f_load(one + i + apart);
            f_store(one + i, f_add(a, b)), f_store(one + i + apart, f_sub(a, b));
        }
    }
    const int blocks = count / block;
    if (blocks == 1) return;
    static const Hartley table;
    std::memcpy(spare, x, count * sizeof(float));
    for (int k = 0; k < blocks; k++)
        for (int i = 0; i < block; i += LANES) {
            F16 sum = f_zero();
            for (int j = 0; j < blocks; j++)
                sum = f_fma(f_load(spare + j * block + i), f_set(table.factor[blocks][j * k % blocks]), sum);
            f_store(x + k * block + i, sum);
        }
}
