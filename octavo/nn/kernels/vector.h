// Sixteen lanes of one instruction set: AVX-512, AVX2, or plain C++ that any compiler may vectorise.
//
//   I16, F16   sixteen int32, sixteen float
//   Bytes      sixty-four bytes: sixteen lanes of four int8, or of two bf16
//
// f_store_past writes past the caches, to multiples of 64 bytes, which spares them for what is read meanwhile; f_settle
// stands before others may read it.
//
// Every operation gives the same lanes whatever else is computed beside it, so a row's result never depends on its
// neighbours. Results of the integer operations are exact and equal on every instruction set.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)
#define OCTAVO_AVX512 1
#include <immintrin.h>
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define OCTAVO_AVX2 1
#include <immintrin.h>
#endif

#if OCTAVO_AVX512 && defined(__AMX_INT8__) && defined(__AMX_BF16__)
#define OCTAVO_AMX 1
#endif

#define INLINE static inline __attribute__((always_inline))
#define INLINE_MEMBER inline __attribute__((always_inline))

constexpr int LANES = 16;

#if OCTAVO_AVX512
using I16 = __m512i;
using F16 = __m512;
using Bytes = __m512i;

INLINE I16 i_zero() { return _mm512_setzero_si512(); }
INLINE F16 f_zero() { return _mm512_setzero_ps(); }
INLINE F16 f_set(float x) { return _mm512_set1_ps(x); }
INLINE F16 f_load(const float* p) { return _mm512_loadu_ps(p); }
INLINE void f_store(float* p, F16 x) { _mm512_storeu_ps(p, x); }
INLINE void f_store_past(float* p, F16 x) { _mm512_stream_ps(p, x); }
INLINE void f_settle() { _mm_sfence(); }
INLINE F16 f_add(F16 a, F16 b) { return _mm512_add_ps(a, b); }
INLINE F16 f_sub(F16 a, F16 b) { return _mm512_sub_ps(a, b); }
INLINE F16 f_mul(F16 a, F16 b) { return _mm512_mul_ps(a, b); }
INLINE F16 f_fma(F16 a, F16 b, F16 c) { return _mm512_fmadd_ps(a, b, c); }
INLINE F16 f_div(F16 a, F16 b) { return _mm512_div_ps(a, b); }
INLINE F16 f_max(F16 a, F16 b) { return _mm512_max_ps(a, b); }
INLINE F16 f_abs(F16 a) { return _mm512_abs_ps(a); }
INLINE F16 to_float(I16 a) { return _mm512_cvtepi32_ps(a); }
INLINE I16 i_set(int32_t x) { return _mm512_set1_epi32(x); }
INLINE I16 i_load(const int32_t* p) { return _mm512_loadu_si512(p); }
INLINE void i_store(int32_t* p, I16 x) { _mm512_storeu_si512(p, x); }
INLINE I16 i_add(I16 a, I16 b) { return _mm512_add_epi32(a, b); }
INLINE I16 i_sub(I16 a, I16 b) { return _mm512_sub_epi32(a, b); }
INLINE I16 i_mul(I16 a, I16 b) { return _mm512_mullo_epi32(a, b); }
INLINE Bytes b_load(const void* p) { return _mm512_loadu_si512(p); }
INLINE Bytes b_set4(const void* p) {
    int32_t x;
    std::memcpy(&x, p, 4);
    return _mm512_set1_epi32(x);
}
INLINE Bytes low_nibbles(Bytes x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
INLINE Bytes high_nibbles(Bytes x) { return low_nibbles(_mm512_srli_epi16(x, 4)); }
// lanes: acc + u0*s0 + u1*s1 + u2*s2 + u3*s3, u unsigned, s signed
INLINE I16 dot4(I16 acc, Bytes u, Bytes s) {
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(u), "v"(s));  // the intrinsic makes some compilers spill the sums
    return acc;
}
// acc + dot * factor, where both fit 16 bits and factor is not negative
INLINE I16 scale_add(I16 acc, I16 dot, I16 factor) {
    asm("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(dot), "v"(factor));
    return acc;
}
INLINE I16 from_u8(const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
INLINE I16 even_nibble(I16 x) { return _mm512_and_si512(x, _mm512_set1_epi32(15)); }
INLINE I16 odd_nibble(I16 x) { return _mm512_srli_epi32(x, 4); }
// four unsigned 4-bit numbers of a lane, times the lane's factor 0..15, plus 128 - 8 * factor. Products fit a byte, so two
// bytes are multiplied as one number
INLINE Bytes widen4(Bytes u, I16 factor) {
    const I16 twice = _mm512_or_si512(factor, _mm512_slli_epi32(factor, 16));
    const I16 shift = _mm512_sub_epi32(_mm512_set1_epi32(128), _mm512_slli_epi32(factor, 3));
    const Bytes shifts = _mm512_mullo_epi32(shift, _mm512_set1_epi32(0x01010101));
    return _mm512_add_epi8(_mm512_mullo_epi16(u, twice), shifts);
}
INLINE float f_sum(F16 a) {
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1)));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
INLINE float f_most(F16 a) { return _mm512_reduce_max_ps(a); }
// acc + w0*a0 + w1*a1 per lane, all bf16
INLINE F16 dot2(F16 acc, Bytes w, Bytes a) {
#if defined(__AVX512BF16__)
    asm("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(w), "v"(a));
    return acc;
#else
    const I16 high = _mm512_set1_epi32((int)0xffff0000);
    acc = f_fma((F16)_mm512_and_si512(w, high), (F16)_mm512_and_si512(a, high), acc);
    return f_fma((F16)_mm512_slli_epi32(w, 16), (F16)_mm512_slli_epi32(a, 16), acc);
#endif
}
INLINE void to_s8(int8_t* out, F16 x) {
    _mm_storeu_si128((__m128i*)out, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
}
INLINE void to_u8(uint8_t* out, F16 x) { to_s8((int8_t*)out, x); }  // the lowest byte, either way
INLINE void to_bf16(uint16_t* out, F16 x) {  // to nearest, ties to even; NaN stays NaN
#if defined(__AVX512BF16__)
    _mm256_storeu_si256((__m256i*)out, (__m256i)_mm512_cvtneps_pbh(x));
    return;
#endif
    const I16 bits = (I16)x;
    const I16 odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    I16 near = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    near = _mm512_mask_set1_epi32(near, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), 0x7fc0);
    _mm256_storeu_si256((__m256i*)out, _mm512_cvtepi32_epi16(near));
}
INLINE F16 from_bf16(const uint16_t* p) {
    return (F16)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
}
INLINE F16 from_half(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
INLINE F16 f_round(F16 a) { return _mm512_roundscale_ps(a, 0); }
INLINE F16 power_of_two(F16 whole) {  // 2**whole for whole numbers in -126..127; 0 for -127
    return (F16)_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(whole), _mm512_set1_epi32(127)), 23);
}
#elif OCTAVO_AVX2
struct I16 { __m256i a, b; };
struct F16 { __m256 a, b; };
using Bytes = I16;

INLINE I16 i_zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
INLINE F16 f_zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
INLINE F16 f_set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
INLINE F16 f_load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
INLINE void f_store(float* p, F16 x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
INLINE void f_store_past(float* p, F16 x) { _mm256_stream_ps(p, x.a), _mm256_stream_ps(p + 8, x.b); }
INLINE void f_settle() { _mm_sfence(); }
INLINE F16 f_add(F16 x, F16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
INLINE F16 f_sub(F16 x, F16 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
INLINE F16 f_mul(F16 x, F16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
INLINE F16 f_fma(F16 x, F16 y, F16 z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
INLINE F16 f_div(F16 x, F16 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
INLINE F16 f_max(F16 x, F16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
INLINE F16 f_abs(F16 x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
INLINE F16 to_float(I16 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
INLINE I16 i_set(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
INLINE I16 i_load(const int32_t* p) {
    return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
}
INLINE void i_store(int32_t* p, I16 x) {
    _mm256_storeu_si256((__m256i*)p, x.a), _mm256_storeu_si256((__m256i*)p + 1, x.b);
}
INLINE I16 i_add(I16 x, I16 y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
INLINE I16 i_sub(I16 x, I16 y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
INLINE I16 i_mul(I16 x, I16 y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
INLINE Bytes b_load(const void* p) {
    return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
}
INLINE Bytes b_set4(const void* p) {
    int32_t x;
    std::memcpy(&x, p, 4);
    return i_set(x);
}
INLINE Bytes low_nibbles(Bytes x) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
INLINE Bytes high_nibbles(Bytes x) { return low_nibbles({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)}); }
INLINE __m256i dot4_half(__m256i acc, __m256i u, __m256i s) {  // even and odd bytes apart: a sum of two may not fit 16 bits
    const __m256i ones = _mm256_set1_epi16(1), even = _mm256_set1_epi16(0x00ff);
    const __m256i x = _mm256_maddubs_epi16(_mm256_and_si256(u, even), s);
    const __m256i y = _mm256_maddubs_epi16(_mm256_andnot_si256(even, u), s);
    return _mm256_add_epi32(acc, _mm256_add_epi32(_mm256_madd_epi16(x, ones), _mm256_madd_epi16(y, ones)));
}
INLINE I16 dot4(I16 acc, Bytes u, Bytes s) { return {dot4_half(acc.a, u.a, s.a), dot4_half(acc.b, u.b, s.b)}; }
INLINE I16 scale_add(I16 acc, I16 dot, I16 factor) {
    return i_add(acc, {_mm256_madd_epi16(dot.a, factor.a), _mm256_madd_epi16(dot.b, factor.b)});
}
INLINE I16 from_u8(const uint8_t* p) {
    return {_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)), _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))};
}
INLINE I16 even_nibble(I16 x) {
    const __m256i mask = _mm256_set1_epi32(15);
    return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
INLINE I16 odd_nibble(I16 x) { return {_mm256_srli_epi32(x.a, 4), _mm256_srli_epi32(x.b, 4)}; }
INLINE __m256i widen4_half(__m256i u, __m256i factor) {
    const __m256i twice = _mm256_or_si256(factor, _mm256_slli_epi32(factor, 16));
    const __m256i shift = _mm256_sub_epi32(_mm256_set1_epi32(128), _mm256_slli_epi32(factor, 3));
    return _mm256_add_epi8(_mm256_mullo_epi16(u, twice), _mm256_mullo_epi32(shift, _mm256_set1_epi32(0x01010101)));
}
INLINE Bytes widen4(Bytes u, I16 factor) { return {widen4_half(u.a, factor.a), widen4_half(u.b, factor.b)}; }
INLINE float f_sum(F16 x) {
    const __m256 b = _mm256_add_ps(x.a, x.b);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
INLINE float f_most(F16 x) {
    const __m256 b = _mm256_max_ps(x.a, x.b);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
INLINE __m256 dot2_half(__m256 acc, __m256i w, __m256i a) {
    const __m256i high = _mm256_set1_epi32((int)0xffff0000);
    acc = _mm256_fmadd_ps((__m256)_mm256_and_si256(w, high), (__m256)_mm256_and_si256(a, high), acc);
    return _mm256_fmadd_ps((__m256)_mm256_slli_epi32(w, 16), (__m256)_mm256_slli_epi32(a, 16), acc);
}
INLINE F16 dot2(F16 acc, Bytes w, Bytes a) { return {dot2_half(acc.a, w.a, a.a), dot2_half(acc.b, w.b, a.b)}; }
INLINE void to_u8(uint8_t* out, F16 x) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));  // 0-3 8-11 4-7 12-15
    const __m256i bytes = _mm256_packus_epi16(words, words);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 0, 0, 0);
    _mm_storeu_si128((__m128i*)out, _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(bytes, order)));
}
INLINE void to_s8(int8_t* out, F16 x) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));  // 0-3 8-11 4-7 12-15
    const __m256i bytes = _mm256_packs_epi16(words, words);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 0, 0, 0);
    _mm_storeu_si128((__m128i*)out, _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(bytes, order)));
}
INLINE __m256i to_bf16_half(__m256 x) {
    const __m256i bits = (__m256i)x, odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i near = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    return _mm256_blendv_epi8(near, _mm256_set1_epi32(0x7fc0), (__m256i)_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}
INLINE void to_bf16(uint16_t* out, F16 x) {
    const __m256i words = _mm256_packus_epi32(to_bf16_half(x.a), to_bf16_half(x.b));
    _mm256_storeu_si256((__m256i*)out, _mm256_permute4x64_epi64(words, 0xd8));
}
INLINE F16 from_bf16(const uint16_t* p) {
    const __m256i a = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
    const __m256i b = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(p + 8)));
    return {(__m256)_mm256_slli_epi32(a, 16), (__m256)_mm256_slli_epi32(b, 16)};
}
INLINE F16 from_half(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
INLINE F16 f_round(F16 x) { return {_mm256_round_ps(x.a, 8), _mm256_round_ps(x.b, 8)}; }
INLINE __m256 power_half(__m256 whole) {
    return (__m256)_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)), 23);
}
INLINE F16 power_of_two(F16 whole) { return {power_half(whole.a), power_half(whole.b)}; }
#else
struct I16 { int32_t v[16]; };
struct F16 { float v[16]; };
struct Bytes { uint8_t v[64]; };
#define EACH for (int i = 0; i < 16; i++)

INLINE I16 i_set(int32_t x) { I16 r; EACH r.v[i] = x; return r; }
INLINE F16 f_set(float x) { F16 r; EACH r.v[i] = x; return r; }
INLINE I16 i_zero() { return i_set(0); }
INLINE F16 f_zero() { return f_set(0); }
INLINE F16 f_load(const float* p) { F16 r; std::memcpy(r.v, p, 64); return r; }
INLINE void f_store(float* p, F16 x) { std::memcpy(p, x.v, 64); }
INLINE void f_store_past(float* p, F16 x) { f_store(p, x); }
INLINE void f_settle() {}
INLINE F16 f_add(F16 a, F16 b) { EACH a.v[i] += b.v[i]; return a; }
INLINE F16 f_sub(F16 a, F16 b) { EACH a.v[i] -= b.v[i]; return a; }
INLINE F16 f_mul(F16 a, F16 b) { EACH a.v[i] *= b.v[i]; return a; }
INLINE F16 f_fma(F16 a, F16 b, F16 c) { EACH a.v[i] = std::fma(a.v[i], b.v[i], c.v[i]); return a; }
INLINE F16 f_div(F16 a, F16 b) { EACH a.v[i] /= b.v[i]; return a; }
INLINE F16 f_max(F16 a, F16 b) { EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; }
INLINE F16 f_abs(F16 a) { EACH a.v[i] = std::fabs(a.v[i]); return a; }
INLINE F16 to_float(I16 a) { F16 r; EACH r.v[i] = (float)a.v[i]; return r; }
INLINE I16 i_load(const int32_t* p) { I16 r; std::memcpy(r.v, p, 64); return r; }
INLINE void i_store(int32_t* p, I16 x) { std::memcpy(p, x.v, 64); }
INLINE I16 i_add(I16 a, I16 b) { EACH a.v[i] += b.v[i]; return a; }
INLINE I16 i_sub(I16 a, I16 b) { EACH a.v[i] -= b.v[i]; return a; }
INLINE I16 i_mul(I16 a, I16 b) { EACH a.v[i] *= b.v[i]; return a; }
INLINE Bytes b_load(const void* p) { Bytes r; std::memcpy(r.v, p, 64); return r; }
INLINE Bytes b_set4(const void* p) { Bytes r; EACH std::memcpy(r.v + 4 * i, p, 4); return r; }
INLINE Bytes low_nibbles(Bytes x) { for (auto& v : x.v) v &= 15; return x; }
INLINE Bytes high_nibbles(Bytes x) { for (auto& v : x.v) v >>= 4; return x; }
INLINE I16 dot4(I16 acc, Bytes u, Bytes s) {
    EACH for (int j = 0; j < 4; j++) acc.v[i] += (int32_t)u.v[4 * i + j] * (int8_t)s.v[4 * i + j];
    return acc;
}
INLINE I16 scale_add(I16 acc, I16 dot, I16 factor) { EACH acc.v[i] += dot.v[i] * factor.v[i]; return acc; }
INLINE I16 from_u8(const uint8_t* p) { I16 r; EACH r.v[i] = p[i]; return r; }
INLINE I16 even_nibble(I16 x) { EACH x.v[i] &= 15; return x; }
INLINE I16 odd_nibble(I16 x) { EACH x.v[i] >>= 4; return x; }
INLINE Bytes widen4(Bytes u, I16 factor) {
    EACH for (int j = 0; j < 4; j++) u.v[4 * i + j] = (uint8_t)((u.v[4 * i + j] - 8) * factor.v[i] + 128);
    return u;
}
INLINE float f_sum(F16 a) {  // in the order of the vector versions
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) a.v[i] += a.v[i + half];
    return a.v[0];
}
INLINE float f_most(F16 a) {
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    return a.v[0];
}
INLINE float bf16_float(uint16_t x) {
    const uint32_t bits = (uint32_t)x << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}
INLINE uint16_t float_bf16(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    return f != f ? 0x7fc0 : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
INLINE F16 dot2(F16 acc, Bytes w, Bytes a) {
    uint16_t x[32], y[32];
    std::memcpy(x, w.v, 64), std::memcpy(y, a.v, 64);
    EACH acc.v[i] = std::fma(bf16_float(x[2 * i + 1]), bf16_float(y[2 * i + 1]), acc.v[i]);
    EACH acc.v[i] = std::fma(bf16_float(x[2 * i]), bf16_float(y[2 * i]), acc.v[i]);
    return acc;
}
INLINE void to_s8(int8_t* out, F16 x) { EACH out[i] = (int8_t)std::nearbyint(x.v[i]); }
INLINE void to_u8(uint8_t* out, F16 x) { EACH out[i] = (uint8_t)std::nearbyint(x.v[i]); }
INLINE void to_bf16(uint16_t* out, F16 x) { EACH out[i] = float_bf16(x.v[i]); }
INLINE F16 from_bf16(const uint16_t* p) { F16 r; EACH r.v[i] = bf16_float(p[i]); return r; }
INLINE float half_float(uint16_t x) {
    const int exponent = x >> 10 & 31, fraction = x & 1023;
    float f = exponent ? std::ldexp(1024.0f + fraction, exponent - 25) : std::ldexp((float)fraction, -24);
    if (exponent == 31) f = fraction ? NAN : INFINITY;
    return x & 0x8000 ? -f : f;
}
INLINE F16 from_half(const uint16_t* p) { F16 r; EACH r.v[i] = half_float(p[i]); return r; }
INLINE F16 f_round(F16 a) { EACH a.v[i] = std::nearbyint(a.v[i]); return a; }
INLINE F16 power_of_two(F16 whole) { EACH whole.v[i] = whole.v[i] > -127 ? std::ldexp(1.0f, (int)whole.v[i]) : whole.v[i] + 127; return whole; }
#undef EACH
#endif

// 2**x for x <= 127; exactly 0 below -126.5; NaN stays NaN. Minimax polynomial on [-0.5, 0.5].
INLINE F16 exp2_(F16 x) {
    x = f_max(f_set(-127.0f), x);  // this order: of a NaN and a number, the second is taken
    const F16 whole = f_round(x), part = f_add(x, f_mul(whole, f_set(-1.0f)));
    F16 y = f_set(1.535336188319500e-4f);
    y = f_fma(y, part, f_set(1.339887440266574e-3f));
    y = f_fma(y, part, f_set(9.618437357674640e-3f));
    y = f_fma(y, part, f_set(5.550332471162809e-2f));
    y = f_fma(y, part, f_set(2.402264791363012e-1f));
    y = f_fma(y, part, f_set(6.931472028550421e-1f));
    y = f_fma(y, part, f_set(1.0f));
    return f_mul(y, power_of_two(whole));
}

INLINE void f_write(bool far, float* p, F16 x) { far ? f_store_past(p, x) : f_store(p, x); }
