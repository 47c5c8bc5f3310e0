// Keys and values in pages of 16 tokens, and attention over them.
//
// A page's keys and values of all layers and heads lie together. A block holds those of one head of one layer; it is laid out as a panel of weights is, tokens being the
// outputs of the keys' panel and the inputs of the values' panels:
//   bf16   keys [K/2][16 tokens][2], values [K/16][8][16 channels][2 tokens]
//   int8   keys [K/4][16][4] uint8 = key + 128, values [K/16][4][16][4] int8, scales of 16 keys, scales of 16 values
// Softmax goes over blocks of 64 keys counted from the first token of a sequence, so that a query's result depends on
// its position alone: not on the chunk it came in, and not on its neighbours.
#pragma once
#include "linear.h"

enum CacheKind : int32_t { KEEP_BF16 = 0, KEEP_INT8 = 1 };

constexpr int PAGE = 16;
constexpr int SPAN = 64;      // keys of one step of the softmax
constexpr int WIDEST = 256;   // head width
#if OCTAVO_AMX
constexpr int QUERIES = TILED;  // rows that share a read of the keys
#else
constexpr int QUERIES = 8;
#endif
constexpr float LOG2_E = 1.44269504088896341f;

struct Cache {
    uint8_t* blocks;
    int32_t kind, layers, kv_heads, head_width;

    size_t values_at() const { return (size_t)head_width * PAGE * (kind == KEEP_BF16 ? 2 : 1); }
    size_t block_bytes() const { return 2 * values_at() + (kind == KEEP_BF16 ? 0 : 2 * PAGE * sizeof(float)); }
    uint8_t* block(int layer, int page, int head) const {
        return blocks + (((size_t)page * layers + layer) * kv_heads + head) * block_bytes();
    }
    float* scales(uint8_t* block) const { return (float*)(block + 2 * values_at()); }

    // Have the lines fetched that `put` will write.
    void expect(int layer, int page, int slot, int head) const {
        const int together = kind == KEEP_BF16 ? 2 : 4;
        uint8_t *keys = block(layer, page, head), *values = keys + values_at();
        for (int i = 0; i < head_width; i += together) __builtin_prefetch(keys + i / together * 64, 1);
        for (int c = 0; c < head_width; c += 16)
            __builtin_prefetch(values + (size_t)c * PAGE * 4 / together + slot / together * 64, 1);
    }

    void put(int layer, int page, int slot, int head, const float* k, const float* v) const {
        uint8_t* to = block(layer, page, head);
        if (kind == KEEP_BF16) {
            uint16_t *keys = (uint16_t*)to, *values = (uint16_t*)(to + values_at()), k16[WIDEST], v16[WIDEST];
            if (slot == 0) std::memset(values, 0, values_at());  // what is masked is multiplied by 0, so it must be finite
            for (int i = 0; i < head_width; i += LANES) to_bf16(k16 + i, f_load(k + i)), to_bf16(v16 + i, f_load(v + i));
            for (int i = 0; i < head_width; i += 2) std::memcpy(keys + i * 16 + slot * 2, k16 + i, 4);
            for (int c = 0; c < head_width; c += 16)
                for (int i = 0; i < 16; i++) values[c * 16 + slot / 2 * 32 + slot % 2 + i * 2] = v16[c + i];
            return;
        }
        int8_t k8[WIDEST], v8[WIDEST];
        scales(to)[slot] = to_int8(k, head_width, k8), scales(to)[PAGE + slot] = to_int8(v, head_width, v8);
        uint8_t *keys = to, *values = to + values_at();
        for (int i = 0; i < head_width; i++) k8[i] = (int8_t)(k8[i] ^ -128);
        for (int i = 0; i < head_width; i += 4) std::memcpy(keys + i * 16 + slot * 4, k8 + i, 4);
        for (int c = 0; c < head_width; c += 16)
            for (int i = 0; i < 16; i++) values[c * 16 + slot / 4 * 64 + slot % 4 + i * 4] = (uint8_t)v8[c + i];
    }

    // The first `count` slots of a page, in every layer and head; the others become zeros.
    void copy(int from, int to, int count) const {
        std::memcpy(block(0, to, 0), block(0, from, 0), layers * kv_heads * block_bytes());
        if (kind != KEEP_BF16) return;
        for (int layer = 0; layer < layers; layer++)
            for (int head = 0; head < kv_heads; head++) {
                uint8_t* values = block(layer, to, head) + values_at();
                for (int i = 0; i < head_width; i++)
                    for (int slot = count; slot < PAGE; slot++)
                        ((uint16_t*)values)[i / 16 * 256 + slot / 2 * 32 + i % 16 * 2 + slot % 2] = 0;
            }
    }
};

// Keys and values of one head of a sequence: the numbers of its pages, `count` of them.
struct Keys {
    int layer, head, count;
    const int32_t* pages;
};

// One query row: q and out have head_width numbers; it sees the keys at positions 0 .. position.
struct Query {
    const float* q;
    float* out;
    int position;
};

struct Softmax {  // of one row, as far as it has come
    float top = -INFINITY, total = 0;

    // scores (64, in units of log2) -> weights; returns what the earlier output must be multiplied by
    float step(float* scores) {
        F16 most = f_load(scores);
        for (int i = LANES; i < SPAN; i += LANES) most = f_max(most, f_load(scores + i));
        const float before = top, now = f_most(most);
        top = now > before ? now : before;
        F16 sum = f_zero();
        for (int i = 0; i < SPAN; i += LANES) {
            const F16 weight = exp2_(f_add(f_load(scores + i), f_set(-top)));
            f_store(scores + i, weight);
            sum = f_add(sum, weight);
        }
        float alpha[LANES] = {1.0f};  // what the line below makes of 0
        if (before != top) f_store(alpha, exp2_(f_set(before - top)));
        total = std::fma(total, alpha[0], f_sum(sum));
        return alpha[0];
    }
};

// A row's weights times the values' scales become numbers 0..255 with one scale, which is returned: the sum over keys is
// exact. scales: of the values of each page
INLINE float round_weights(float* weights, const float* const* scales, int pages, uint8_t* out) {
    F16 most = f_zero();
    for (int p = 0; p < pages; p++) {
        float* here = weights + p * PAGE;
        for (int i = 0; i < PAGE; i++) here[i] = here[i] > 0 ? here[i] * scales[p][i] : 0;
        most = f_max(most, f_load(here));
    }
    const float largest = f_most(most), inverse = largest > 0 ? 255.0f / largest : 0.0f;
    for (int i = 0; i < pages * PAGE; i += LANES) to_u8(out + i, f_mul(f_load(weights + i), f_set(inverse)));
    return largest / 255.0f;
}

// Blocks of the span that begins at position `first`, and those that are read after it; returns how many hold keys.
INLINE int find_blocks(const Cache& cache, const Keys& keys, const Keys& soon, int first, int last,
                       const uint8_t* (&block)[SPAN / PAGE], const uint8_t* (&after)[SPAN / PAGE]) {
    int here = 0;
    for (; here < SPAN / PAGE && first + here * PAGE <= last; here++) {
        const int page = first / PAGE + here, next = page + SPAN / PAGE;
        block[here] = after[here] = cache.block(keys.layer, keys.pages[page], keys.head);
        if (next * PAGE <= last)
            after[here] = cache.block(keys.layer, keys.pages[next], keys.head);
        else if (here < soon.count)
            after[here] = cache.block(soon.layer, soon.pages[here], soon.head);
    }
    return here;
}

template <int R>
struct Span {  // R queries over up to 64 keys
    const Cache& cache;
    const uint8_t *block[SPAN / PAGE], *after[SPAN / PAGE];  // of this span, of what is read next
    int pages;                                               // of the span that hold keys

    // While keys are read their values are fetched, and while values are read the keys that come next: memory never waits.
    void fetch_values(int p, int i) const { __builtin_prefetch(block[p] + cache.values_at() + i); }
    void fetch_keys(int p, int i) const { __builtin_prefetch(after[p] + i); }

    // Pages, and panels of values, go two at a time: their sums do not wait for each other. The last may be its own twin.
    int twin(int p) const { return p + 1 < pages ? p + 1 : p; }

    void scores_bf16(const Half (&q)[R][WIDEST], float scale, float (&scores)[R][SPAN]) const {
        const int lines = cache.head_width / 2, inner = tile_lines(lines);
        for (int p = 0; p < pages; p += 2) {
            HalfSum acc[R][2];
            for (int line = 0; line < lines; line += inner) {
                for (int i = line; i < line + inner; i++) {
                    const Bytes k0 = b_load(block[p] + i * 64), k1 = b_load(block[twin(p)] + i * 64);
                    fetch_values(p, i * 64), fetch_values(twin(p), i * 64);
                    for (int r = 0; r < R; r++) acc[r][0].add(k0, q[r] + 2 * i), acc[r][1].add(k1, q[r] + 2 * i);
                }
                for (int r = 0; r < R; r++) acc[r][0].close(), acc[r][1].close();
            }
            for (int r = 0; r < R; r++) {
                f_store(scores[r] + twin(p) * PAGE, f_mul(acc[r][1].sum, f_set(scale)));
                f_store(scores[r] + p * PAGE, f_mul(acc[r][0].sum, f_set(scale)));
            }
        }
    }

    void add_bf16(const float (&weights)[R][SPAN], const float (&alpha)[R], float (&out)[R][WIDEST]) const {
        Half w[R][SPAN];
        for (int r = 0; r < R; r++)
            for (int i = 0; i < SPAN; i += LANES) to_halves(w[r] + i, f_load(weights[r] + i));
        for (int c = 0; c < cache.head_width; c += 2 * LANES) {
            const int c1 = c + LANES < cache.head_width ? c + LANES : c;
            HalfSum acc[R][2];
            for (int p = 0; p < pages; p++) {
                const uint8_t* values = block[p] + cache.values_at();
                for (int slot = 0; slot < PAGE; slot += 2) {
                    const Bytes v0 = b_load(values + (c + slot) * 32), v1 = b_load(values + (c1 + slot) * 32);
                    fetch_keys(p, (c + slot) * 32), fetch_keys(p, (c1 + slot) * 32);
                    for (int r = 0; r < R; r++) {
                        const Half* x = w[r] + p * PAGE + slot;
                        acc[r][0].add(v0, x), acc[r][1].add(v1, x);
                    }
                }
                for (int r = 0; r < R; r++) acc[r][0].close(), acc[r][1].close();
            }
            for (int r = 0; r < R; r++) {
                const F16 a0 = f_mul(f_load(out[r] + c), f_set(alpha[r])), a1 = f_mul(f_load(out[r] + c1), f_set(alpha[r]));
                f_store(out[r] + c1, f_add(a1, acc[r][1].sum)), f_store(out[r] + c, f_add(a0, acc[r][0].sum));
            }
        }
    }

    void scores_int8(const int8_t (&q)[R][WIDEST], const float (&scale)[R], const int32_t (&sum)[R],
                     float (&scores)[R][SPAN]) const {
        for (int p = 0; p < pages; p += 2) {
            I16 acc[R][2];
            for (int r = 0; r < R; r++) acc[r][0] = acc[r][1] = i_set(-128 * sum[r]);
            for (int i = 0; i < cache.head_width; i += 4) {
                const Bytes k0 = b_load(block[p] + i * 16), k1 = b_load(block[twin(p)] + i * 16);
                fetch_values(p, i * 16), fetch_values(twin(p), i * 16);
                for (int r = 0; r < R; r++) {
                    const Bytes x = b_set4(q[r] + i);
                    acc[r][0] = dot4(acc[r][0], k0, x), acc[r][1] = dot4(acc[r][1], k1, x);
                }
            }
            for (int j = 1; j >= 0; j--) {
                const int page = j ? twin(p) : p;
                const F16 ks = f_load(cache.scales((uint8_t*)block[page]));
                for (int r = 0; r < R; r++)
                    f_store(scores[r] + page * PAGE, f_mul(to_float(acc[r][j]), f_mul(f_set(scale[r]), ks)));
            }
        }
    }

    void add_int8(float (&weights)[R][SPAN], const float (&alpha)[R], float (&out)[R][WIDEST]) const {
        uint8_t w[R][SPAN];
        float unit[R];
        const float* scales[SPAN / PAGE];
        for (int p = 0; p < pages; p++) scales[p] = cache.scales((uint8_t*)block[p]) + PAGE;
        for (int r = 0; r < R; r++) unit[r] = round_weights(weights[r], scales, pages, w[r]);
        for (int c = 0; c < cache.head_width; c += 2 * LANES) {
            const int c1 = c + LANES < cache.head_width ? c + LANES : c;
            I16 acc[R][2];
            for (int r = 0; r < R; r++) acc[r][0] = acc[r][1] = i_zero();
            for (int p = 0; p < pages; p++) {
                const uint8_t* values = block[p] + cache.values_at();
                for (int slot = 0; slot < PAGE; slot += 4) {
                    const Bytes v0 = b_load(values + (c + slot) * 16), v1 = b_load(values + (c1 + slot) * 16);
                    fetch_keys(p, (c + slot) * 16), fetch_keys(p, (c1 + slot) * 16);
                    for (int r = 0; r < R; r++) {
                        const Bytes x = b_set4(w[r] + p * PAGE + slot);
                        acc[r][0] = dot4(acc[r][0], x, v0), acc[r][1] = dot4(acc[r][1], x, v1);
                    }
                }
            }
            for (int r = 0; r < R; r++) {
                const F16 a0 = f_mul(f_load(out[r] + c), f_set(alpha[r])), a1 = f_mul(f_load(out[r] + c1), f_set(alpha[r]));
                f_store(out[r] + c1, f_fma(to_float(acc[r][1]), f_set(unit[r]), a1));
                f_store(out[r] + c, f_fma(to_float(acc[r][0]), f_set(unit[r]), a0));
            }
        }
    }
};

// Causal attention of R queries of one key/value head over the pages of their sequence. soon: keys that are read next.
// far: out is written past the caches
template <int R>
void attend(const Cache& cache, const Keys& keys, const Keys& soon, const Query* queries, float scale, bool far) {
    const int width = cache.head_width;
    alignas(64) Half q16[R][WIDEST];
    alignas(64) int8_t q8[R][WIDEST];
    alignas(64) float scores[R][SPAN], out[R][WIDEST];
    float q_scale[R], alpha[R];
    int32_t q_sum[R];
    Softmax softmax[R];
    int last = 0;
    for (int r = 0; r < R; r++) {
        last = queries[r].position > last ? queries[r].position : last;
        for (int i = 0; i < width; i += LANES) f_store(out[r] + i, f_zero());
        if (cache.kind == KEEP_BF16) {
            for (int i = 0; i < width; i += LANES) to_halves(q16[r] + i, f_load(queries[r].q + i));
        } else {
            q_scale[r] = to_int8(queries[r].q, width, q8[r]) * scale * LOG2_E;
            q_sum[r] = 0;
            for (int i = 0; i < width; i++) q_sum[r] += q8[r][i];
        }
    }
    for (int first = 0; first <= last; first += SPAN) {
        Span<R> span{cache, {}, {}, 0};
        span.pages = find_blocks(cache, keys, soon, first, last, span.block, span.after);
        if (cache.kind == KEEP_BF16)
            span.scores_bf16(q16, scale * LOG2_E, scores);
        else
            span.scores_int8(q8, q_scale, q_sum, scores);
        for (int r = 0; r < R; r++) {
            const int seen = queries[r].position + 1 - first;
            for (int i = seen < 0 ? 0 : seen; i < SPAN; i++) scores[r][i] = -INFINITY;
            alpha[r] = softmax[r].step(scores[r]);
        }
        if (cache.kind == KEEP_BF16)
            span.add_bf16(scores, alpha, out);
        else
            span.add_int8(scores, alpha, out);
    }
    for (int r = 0; r < R; r++)
        for (int i = 0; i < width; i += LANES)
            f_write(far, queries[r].out + i, f_mul(f_load(out[r] + i), f_set(1.0f / softmax[r].total)));
}
