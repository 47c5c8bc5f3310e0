// What Python calls: pointers in, pointers out. Structures are mirrored in library.py.
#include "decoder.h"

namespace {

using Clock = std::chrono::steady_clock;

// Seconds that f(thread) takes on all threads together.
template <class F>
double seconds(int threads, F f) {
    std::vector<std::thread> workers;
    const auto start = Clock::now();
    for (int i = 1; i < threads; i++) workers.emplace_back(f, i);
    f(0);
    for (auto& worker : workers) worker.join();
    return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

extern "C" {

// Whether this process may use all that the library was compiled for; before any other call.
int octavo_ready() { return tiles_allowed(); }

// threads: more than Pool::MOST are as many; results do not depend on them.
Decoder* octavo_open(const Shape* shape, const Cache* cache, int threads) {
    return new Decoder(*shape, *cache, std::min(threads, Pool::MOST));
}
void octavo_close(Decoder* decoder) { delete decoder; }
void octavo_forward(Decoder* decoder, const Step* step) { decoder->forward(*step); }

// The first `count` tokens of page `from` become those of page `to`, in every layer.
void octavo_copy(Decoder* decoder, int from, int to, int count) {
    decoder->cache.copy(from, to, count);
}

// One linear layer on one thread: x (rows, padded inputs), zeros in the padding, is lost -> out (rows, outputs).
void octavo_linear(const Matrix* m, float* x, int rows, float* out) {
    const TileUse use;
    RowBuffer buffer;
    Buffer<uint8_t> scratch;
    Buffer<float> spare;
    spare.need(padded(m->inputs));
    Rows prepared = buffer.need(rows, m->inputs);
    for (int r = 0; r < rows; r++) set_row(prepared, *m, r, x + (ptrdiff_t)r * padded(m->inputs), spare.data);
    scratch.need((size_t)padded(m->inputs) * PAIR);
    for (int pair = 0; pair < m->outputs / PAIR; pair++)
        pair_of_panels(*m, prepared, 0, rows, pair, scratch.data, [&](int r, F16 y0, F16 y1) {
            float* to = out + (ptrdiff_t)r * m->outputs + pair * PAIR;
            f_store(to, y0), f_store(to + LANES, y1);
        });
}

// Attention of one key/value head: keys and values (tokens, width) go to pages 0, 1, ...; q (queries, width) are the
// queries of the last `queries` / `group` tokens, `group` neighbours to a token.
void octavo_attend(const Cache* cache, const float* q, const float* k, const float* v, int tokens, int queries, int group,
                   float scale, float* out) {
    const TileUse use;
    const int width = cache->head_width;
    std::vector<int32_t> pages;
    for (int t = 0; t < tokens; t++) {
        if (t % PAGE == 0) pages.push_back(t / PAGE);
        cache->put(0, t / PAGE, t % PAGE, 0, k + (size_t)t * width, v + (size_t)t * width);
    }
    std::vector<Query> all;
    for (int i = 0; i < queries; i++)
        all.push_back({q + (size_t)i * width, out + (size_t)i * width, tokens - queries / group + i / group});
    const Keys keys{0, 0, (int)pages.size(), pages.data()};
    attend_any(*cache, keys, keys, all.data(), queries, scale, false);
}

// What a crew of `most` threads decides over `count` calls of so many tokens that take seconds[threads - 1] each and wait
// so much.
void octavo_crew(int most, int count, const int32_t* tokens, const double* seconds, const double* waited, int32_t* sizes) {
    Crew crew(most);
    for (int i = 0; i < count; i++) {
        sizes[i] = crew.size();
        crew.ran(tokens[i], seconds[i * most + sizes[i] - 1], sizes[i] == most ? waited[i] : 0);
    }
}

// Bytes per second that `threads` threads read from memory together: each its own part of `bytes` at `data`.
double octavo_bandwidth(const uint8_t* data, size_t bytes, int threads) {
    const size_t share = bytes / threads / 256 * 256;
    const double took = seconds(threads, [=](int thread) {
        Bytes acc[4] = {b_load(data), b_load(data), b_load(data), b_load(data)};
        I16 sum = i_zero();
        const uint8_t* from = data + thread * share;
        for (size_t i = 0; i < share; i += 256)
            for (int j = 0; j < 4; j++) {
                __builtin_prefetch(from + i + 64 * j + 2048);
                sum = dot4(sum, b_load(from + i + 64 * j), acc[j]);
            }
        volatile int32_t used[LANES];
        int32_t lanes[LANES];
        i_store(lanes, sum);
        for (int i = 0; i < LANES; i++) used[i] = lanes[i];
    });
    return (double)(share * threads) / took;
}

// Multiply-adds per second of the instructions that the matrix kernels stand on, between registers. Tiles that were only
// zeroed are multiplied at full speed even while a shared machine slows all others down, so they get numbers first.
double octavo_matrix_rate(int kind, int threads) {
#if OCTAVO_AMX
    constexpr int TILES = 2000000, DEEP = 64;
    const auto tiles = [=](int) {
        const TileUse use;
        alignas(64) uint8_t numbers[TILE * DEEP];
        for (int i = 0; i < TILE * DEEP; i++) numbers[i] = (uint8_t)(i * 41 % 61);  // of bf16: all finite
        shape_products(TILED);
        tile_load<4>(numbers, DEEP), tile_load<5>(numbers, DEEP), tile_load<6>(numbers, DEEP), tile_load<7>(numbers, DEEP);
        for (int i = 0; i < TILES; i += 4) {
            if (kind == BF16) {
                tile_multiply<HALVES, 0, 4, 6>(), tile_multiply<HALVES, 1, 4, 7>();
                tile_multiply<HALVES, 2, 5, 6>(), tile_multiply<HALVES, 3, 5, 7>();
            } else {
                tile_multiply<SIGNED_UNSIGNED, 0, 4, 6>(), tile_multiply<SIGNED_UNSIGNED, 1, 4, 7>();
                tile_multiply<SIGNED_UNSIGNED, 2, 5, 6>(), tile_multiply<SIGNED_UNSIGNED, 3, 5, 7>();
            }
        }
    };
    if (kind <= W4) return (double)threads * TILES * TILE * TILE * (kind == BF16 ? DEEP / 2 : DEEP) / seconds(threads, tiles);
#endif
    constexpr int CHAINS = 12, ROUNDS = 4000000;
    const double took = seconds(threads, [=](int) {
        const int32_t ones = 0x01010101, halves = 0x3f803f80;
        const Bytes u = b_set4(kind == BF16 ? &halves : &ones);
        float lanes[LANES];
        volatile float used = 0;
        if (kind == BF16) {
            F16 acc[CHAINS];
            for (auto& one : acc) one = f_zero();
            for (int i = 0; i < ROUNDS; i++)
#pragma GCC unroll 12
                for (int j = 0; j < CHAINS; j++) acc[j] = dot2(acc[j], u, u);
#pragma GCC unroll 12
            for (int j = 0; j < CHAINS; j++) f_store(lanes, acc[j]), used = used + lanes[0];
        } else {
            I16 acc[CHAINS];
            for (auto& one : acc) one = i_zero();
            for (int i = 0; i < ROUNDS; i++)
#pragma GCC unroll 12
                for (int j = 0; j < CHAINS; j++) acc[j] = dot4(acc[j], u, u);
#pragma GCC unroll 12
            for (int j = 0; j < CHAINS; j++) f_store(lanes, to_float(acc[j])), used = used + lanes[0];
        }
    });
    return (double)threads * ROUNDS * CHAINS * LANES * (kind == BF16 ? 2 : 4) / took;
}
}
