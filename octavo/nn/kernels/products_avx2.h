// The kernels of linear.h for AVX2: R rows times a pair of panels; sums go to out[R][2][16]. Results are those of
// products.h to the bit.
//
// A pair of panels is four registers of 8 outputs, so the sums of three rows take twelve of the sixteen there are. AVX2
// multiplies unsigned by signed bytes and adds pairs of products in 16 bits, which holds 2 * 128 * 127, not 2 * 255 * 127:
// - weights of 8 bits are taken as their size, and the activations with the weights' signs;
// - weights of 4 bits, 0..15, are multiplied as they are, and a group's eight pairs of products added up in 16 bits.
#pragma once
#include <utility>

constexpr int BYTES_SHIFT = 0;  // products_u8 takes the weights' own values, not + 128
constexpr int PARTS = 4;        // registers of a pair of panels

#define KERNEL template <int R> __attribute__((noinline)) void

INLINE __m256i part(const uint8_t* w, int p) { return _mm256_loadu_si256((const __m256i*)w + p); }
INLINE __m256i four(const uint8_t* a) {  // the same four bytes in all lanes
    int32_t x;
    std::memcpy(&x, a, 4);
    return _mm256_set1_epi32(x);
}
// f(0), f(1), ... f(N - 1), each with its number as a constant: so arrays of sums become registers.
template <class F, int... I>
INLINE void in_turn(F f, std::integer_sequence<int, I...>) {
    (f(std::integral_constant<int, I>()), ...);
}
#define EACH(name, count, ...) \
    in_turn([&](auto name) __attribute__((always_inline)) __VA_ARGS__, std::make_integer_sequence<int, count>())
// Here a sum is in a register: without it the compiler begins all that comes next, and puts sums into memory for it.
#define HELD(sum) asm volatile("" : "+x"(sum))
INLINE __m256i pairs(__m256i x) { return _mm256_madd_epi16(x, _mm256_set1_epi16(1)); }
INLINE __m256i factors(const uint8_t* groups, bool odd) {  // of 8 outputs: low nibbles or high ones
    const __m256i both = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)groups));
    return odd ? _mm256_srli_epi32(both, 4) : _mm256_and_si256(both, _mm256_set1_epi32(15));
}

// Four inputs of part p, weights of 8 bits + 128, into the sums of R rows.
template <int R>
INLINE void add_bytes(const uint8_t* w, int p, const uint8_t* a, ptrdiff_t stride, __m256i (&sums)[R]) {
    const __m256i own = _mm256_xor_si256(part(w, p), _mm256_set1_epi8(-128)), size = _mm256_abs_epi8(own);
    EACH(r, R, {
        const __m256i x = _mm256_maddubs_epi16(size, _mm256_sign_epi8(four(a + r * stride), own));
        sums[r] = _mm256_add_epi32(sums[r], pairs(x));
        HELD(sums[r]);
    });
}

// A group of 32 inputs of part p, weights of 4 bits: its sums of R rows.
template <int R>
INLINE void nibbles(const uint8_t* w, int p, const uint8_t* a, ptrdiff_t stride, __m256i (&sums)[R]) {
    const __m256i mask = _mm256_set1_epi8(15);
    EACH(r, R, { sums[r] = _mm256_setzero_si256(); });
    EACH(j, 4, {
        const __m256i both = part(w + j * 128, p), low = _mm256_and_si256(both, mask);
        const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
        EACH(r, R, {
            const uint8_t* x = a + r * stride + 8 * j;
            sums[r] = _mm256_add_epi16(sums[r], _mm256_maddubs_epi16(low, four(x)));
            sums[r] = _mm256_add_epi16(sums[r], _mm256_maddubs_epi16(high, four(x + 4)));
        });
    });
    EACH(r, R, { sums[r] = pairs(sums[r]); });
}

template <int R>
INLINE void zero(__m256i (&sums)[PARTS][R]) {
    EACH(p, PARTS, { EACH(r, R, { sums[p][r] = _mm256_setzero_si256(); }); });
}
template <int R>
INLINE void zero(__m256 (&sums)[PARTS][R]) {
    EACH(p, PARTS, { EACH(r, R, { sums[p][r] = _mm256_setzero_ps(); }); });
}
template <int R>
INLINE void store(int32_t* out, const __m256i (&sums)[PARTS][R]) {
    EACH(p, PARTS, { EACH(r, R, { _mm256_storeu_si256((__m256i*)(out + r * PAIR) + p, sums[p][r]); }); });
}
template <int R>
INLINE void store(float* out, const __m256 (&sums)[PARTS][R]) {
    EACH(p, PARTS, { EACH(r, R, { _mm256_storeu_ps(out + r * PAIR + 8 * p, sums[p][r]); }); });
}

// soon: memory that will be read next, of which each round fetches `pace` bytes.
KERNEL products_u8(const uint8_t* w, const uint8_t* a, ptrdiff_t stride, int inputs, int32_t* out, const uint8_t* soon,
                   ptrdiff_t pace) {
    __m256i acc[PARTS][R];
    zero<R>(acc);
    for (int i = 0; i < inputs; i += 4, w += 128, a += 4, soon += pace) {
        __builtin_prefetch(soon), __builtin_prefetch(soon + pace / 2);
        EACH(p, PARTS, { add_bytes<R>(w, p, a, stride, acc[p]); });
    }
    store<R>(out, acc);
}

KERNEL products_u4(const uint8_t* w, const uint8_t* groups, const uint8_t* a, ptrdiff_t stride, const int32_t* sums,
                   int inputs, int32_t* out) {
    __m256i acc[PARTS][R];
    zero<R>(acc);
    const int per_row = inputs / 32;
    for (int g = 0; g < per_row; g++, w += 512, a += 32) {
        const uint8_t* both = groups + g / 2 * PAIR;
        for (int ahead = 0; ahead < 512; ahead += 64) __builtin_prefetch(w + AHEAD + ahead);
        EACH(p, PARTS, {
            __m256i dot[R];
            nibbles<R>(w, p, a, stride, dot);
            const __m256i by = factors(both + 8 * p, g % 2);
            EACH(r, R, {
                const __m256i whole = _mm256_add_epi32(dot[r], _mm256_set1_epi32(sums[r * per_row + g]));  // fits 16 bits
                acc[p][r] = _mm256_add_epi32(acc[p][r], _mm256_madd_epi16(whole, by));
            });
        });
    }
    store<R>(out, acc);
}

INLINE __m256 first(__m256i both) { return (__m256)_mm256_slli_epi32(both, 16); }  // bf16 of each lane, as floats
INLINE __m256 second(__m256i both) { return (__m256)_mm256_and_si256(both, _mm256_set1_epi32((int)0xffff0000)); }

KERNEL products_bf16(const uint8_t* w, const uint8_t* a, ptrdiff_t stride, int inputs, float* out) {
    __m256 acc[PARTS][R], x[R];
    zero<R>(acc);
    for (int i = 0; i < inputs; i += 2, w += 128, a += 4) {
        __builtin_prefetch(w + AHEAD), __builtin_prefetch(w + AHEAD + 64);
        EACH(r, R, { x[r] = second(four(a + r * stride)); });
        EACH(p, PARTS, {
            const __m256 y = second(part(w, p));
            EACH(r, R, { acc[p][r] = _mm256_fmadd_ps(y, x[r], acc[p][r]); HELD(acc[p][r]); });
        });
        EACH(r, R, { x[r] = first(four(a + r * stride)); });
        EACH(p, PARTS, {
            const __m256 y = first(part(w, p));
            EACH(r, R, { acc[p][r] = _mm256_fmadd_ps(y, x[r], acc[p][r]); HELD(acc[p][r]); });
        });
    }
    store<R>(out, acc);
}

// Many rows: a piece of a pair of panels is made floats once for all of them, two inputs' [second, first][32 outputs].
constexpr int PIECE = 128, BLOCK = 48;  // inputs, and rows, whose floats stay in the first cache

INLINE void make_floats(const uint8_t* w, int inputs, float* out) {
    for (int i = 0; i < inputs; i += 2, w += 128, out += 2 * PAIR)
        EACH(p, PARTS, {
            _mm256_store_ps(out + 8 * p, second(part(w, p)));
            _mm256_store_ps(out + PAIR + 8 * p, first(part(w, p)));
        });
}

// Adds to sums[R][32]. In the order of products_bf16, so to the same bits.
KERNEL products_floats(const float* w, const uint8_t* a, ptrdiff_t stride, int inputs, float* sums) {
    __m256 acc[PARTS][R], x[R];
    EACH(p, PARTS, { EACH(r, R, { acc[p][r] = _mm256_load_ps(sums + r * PAIR + 8 * p); }); });
    for (int i = 0; i < inputs; i += 2, w += 2 * PAIR, a += 4) {
        EACH(r, R, { x[r] = second(four(a + r * stride)); });
        EACH(p, PARTS, {
            EACH(r, R, { acc[p][r] = _mm256_fmadd_ps(_mm256_load_ps(w + 8 * p), x[r], acc[p][r]); HELD(acc[p][r]); });
        });
        EACH(r, R, { x[r] = first(four(a + r * stride)); });
        EACH(p, PARTS, {
            EACH(r, R, { acc[p][r] = _mm256_fmadd_ps(_mm256_load_ps(w + PAIR + 8 * p), x[r], acc[p][r]); HELD(acc[p][r]); });
        });
    }
    store<R>(sums, acc);
}

// `count` rows, at most BLOCK, times a pair of bf16 panels; sums: [count][32]
INLINE void many_bf16(const uint8_t* w, const uint8_t* a, ptrdiff_t stride, int count, int inputs, float* sums) {
    alignas(32) float panel[PIECE * PAIR];
    std::memset(sums, 0, sizeof(float) * PAIR * count);
    for (int i = 0; i < inputs; i += PIECE) {
        const int here = inputs - i < PIECE ? inputs - i : PIECE;
        make_floats(w + (ptrdiff_t)i * 64, here, panel);
        int r = 0;
        for (; r + 3 <= count; r += 3) products_floats<3>(panel, a + r * stride + i * 2, stride, here, sums + r * PAIR);
        for (; r < count; r++) products_floats<1>(panel, a + r * stride + i * 2, stride, here, sums + r * PAIR);
    }
}

// G8, G4 and G4M. R rows; sums of the rows' groups and their scales lie `per_row` apart.
template <int R, int KIND>
__attribute__((noinline)) void products_groups(const uint8_t* w, const uint16_t* groups, const uint8_t* a, ptrdiff_t stride,
                                               const int32_t* sums, const float* scales, int inputs, float* out) {
    __m256 acc[PARTS][R];
    zero<R>(acc);
    const int per_row = inputs / 32;
    constexpr int BYTES = KIND == G8 ? 1024 : 512;
    for (int g = 0; g < per_row; g++, groups += KIND == G4M ? 64 : 32, w += BYTES, a += 32) {
        for (int ahead = 0; ahead < BYTES; ahead += 64) __builtin_prefetch(w + AHEAD + ahead);
        EACH(p, PARTS, {
            __m256i dot[R];
            if constexpr (KIND == G8) {
                EACH(r, R, { dot[r] = _mm256_setzero_si256(); });
                EACH(j, 8, { add_bytes<R>(w + j * 128, p, a + 4 * j, stride, dot); });
            } else {
                nibbles<R>(w, p, a, stride, dot);
            }
            const __m256 unit = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)groups + p));
            EACH(r, R, {
                const int32_t sum = sums[r * per_row + g];
                const float scale = scales[r * per_row + g];
                if (KIND == G4) dot[r] = _mm256_add_epi32(dot[r], _mm256_set1_epi32(sum));
                acc[p][r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[r]), _mm256_mul_ps(unit, _mm256_set1_ps(scale)), acc[p][r]);
                if (KIND == G4M) {
                    const __m256 least = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(groups + PAIR) + p));
                    acc[p][r] = _mm256_fmadd_ps(least, _mm256_set1_ps(scale * (float)(sum / -8)), acc[p][r]);
                }
            });
        });
    }
    store<R>(out, acc);
}
