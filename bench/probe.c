// Limits of this machine: memory read bandwidth, and multiply-add rate of its widest matrix or vector unit.
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif
#if defined(__AMX_INT8__) && defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

typedef struct { int int8; const uint64_t *from; size_t words; uint64_t sum; double ops; } Job;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void *read_all(void *given) {
    Job *job = given;
    uint64_t sums[32] = {0};
    for (size_t i = 0; i + 32 <= job->words; i += 32)
        for (int j = 0; j < 32; j++) sums[j] += job->from[i + j];
    for (int j = 0; j < 32; j++) job->sum += sums[j];
    return NULL;
}

static double run(Job *jobs, int threads, void *(*work)(void *)) {
    pthread_t ids[threads];
    double start = now_s();
    for (int t = 1; t < threads; t++) pthread_create(&ids[t], NULL, work, &jobs[t]);
    work(&jobs[0]);
    for (int t = 1; t < threads; t++) pthread_join(ids[t], NULL);
    return now_s() - start;
}

double read_seconds(int threads, size_t bytes) {
    static uint64_t *array;
    static size_t size;
    if (size != bytes) {
        free(array);
        array = aligned_alloc(1 << 21, bytes);
        memset(array, 1, size = bytes);
    }
    Job jobs[threads];
    memset(jobs, 0, sizeof jobs);
    size_t words = bytes / 8 / threads;
    for (int t = 0; t < threads; t++) jobs[t].from = array + t * words, jobs[t].words = words;
    double took_s = run(jobs, threads, read_all);
    volatile uint64_t kept = 0;
    for (int t = 0; t < threads; t++) kept += jobs[t].sum;
    return took_s;
}

enum { TIMES = 20000000 };

#if defined(__AMX_INT8__) && defined(__AMX_BF16__)
static void *multiply(void *given) {
    Job *job = given;
    struct { uint8_t palette, start, rest[14]; uint16_t width[16]; uint8_t rows[16]; } shape = {.palette = 1};
    for (int t = 0; t < 8; t++) shape.width[t] = 64, shape.rows[t] = 16;
    syscall(SYS_arch_prctl, 0x1023, 18);
    _tile_loadconfig(&shape);
    for (int i = 0; i < TIMES / 16; i++)
        if (job->int8) {
            _tile_dpbusd(0, 4, 6); _tile_dpbusd(1, 5, 6); _tile_dpbusd(2, 4, 7); _tile_dpbusd(3, 5, 7);
        } else {
            _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 5, 6); _tile_dpbf16ps(2, 4, 7); _tile_dpbf16ps(3, 5, 7);
        }
    _tile_release();
    job->ops = TIMES / 16 * 4.0 * 2 * 16 * 16 * (job->int8 ? 64 : 32);
    return NULL;
}
#else
// Twelve sums at once, so that none waits for itself; the empty asm keeps the compiler from folding the loop.
#define TWELVE(ONE) ONE(0) ONE(1) ONE(2) ONE(3) ONE(4) ONE(5) ONE(6) ONE(7) ONE(8) ONE(9) ONE(10) ONE(11)
#define LOOP(KIND, ZERO, STEP, PER)                                             \
    {                                                                           \
        KIND s[12];                                                             \
        for (int j = 0; j < 12; j++) s[j] = ZERO;                               \
        for (int i = 0; i < TIMES; i++) { TWELVE(STEP) }                        \
        for (int j = 0; j < 12; j++) __asm__ volatile("" : : "x"(s[j]));        \
        job->ops = (double)TIMES * 12 * 2 * (PER);                              \
    }
static void *multiply(void *given) {
    Job *job = given;
#if defined(__AVX512VNNI__)
#define INT8(j) s[j] = _mm512_dpbusd_epi32(s[j], a, b); __asm__ volatile("" : "+v"(s[j]));
    __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2);
    if (job->int8) { LOOP(__m512i, _mm512_setzero_si512(), INT8, 64) return NULL; }
#elif defined(__AVX2__)
#define INT8(j) s[j] = _mm256_add_epi32(s[j], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), one)); \
    __asm__ volatile("" : "+x"(s[j]));
    __m256i a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(2), one = _mm256_set1_epi16(1);
    __asm__ volatile("" : "+x"(a), "+x"(b));
    if (job->int8) { LOOP(__m256i, _mm256_setzero_si256(), INT8, 32) return NULL; }
#endif
#if defined(__AVX512BF16__)
#define BF16(j) s[j] = _mm512_dpbf16_ps(s[j], x, y); __asm__ volatile("" : "+v"(s[j]));
    __m512bh x = (__m512bh)_mm512_set1_epi16(0x3f80), y = (__m512bh)_mm512_set1_epi16(0x3f80);
    LOOP(__m512, _mm512_setzero_ps(), BF16, 32)
#elif defined(__AVX512F__)
#define BF16(j) s[j] = _mm512_fmadd_ps(x, y, s[j]); __asm__ volatile("" : "+v"(s[j]));
    __m512 x = _mm512_set1_ps(1), y = _mm512_set1_ps(1);
    LOOP(__m512, _mm512_setzero_ps(), BF16, 16)
#elif defined(__AVX2__)
#define BF16(j) s[j] = _mm256_fmadd_ps(x, y, s[j]); __asm__ volatile("" : "+x"(s[j]));
    __m256 x = _mm256_set1_ps(1), y = _mm256_set1_ps(1);
    LOOP(__m256, _mm256_setzero_ps(), BF16, 8)
#else
#define BF16(j) s[j] += x; __asm__ volatile("" : "+w"(s[j]));
    float x = 1;
    for (int i = 0; i < 12; i++) job->ops = 0;
#endif
    return NULL;
}
#endif

double matrix_ops(int threads, int int8) {
    Job jobs[threads];
    memset(jobs, 0, sizeof jobs);
    for (int t = 0; t < threads; t++) jobs[t].int8 = int8;
    double took_s = run(jobs, threads, multiply), ops = 0;
    for (int t = 0; t < threads; t++) ops += jobs[t].ops;
    return ops / took_s;
}
