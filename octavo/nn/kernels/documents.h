// Training: causal attention within documents, forward and backward, with the norms and rotations of queries and keys.
//
// One key/value head of one document at a time, so that all of it stays in the nearest caches. Products are of tiles in
// registers: bf16 pairs or fp32, summed in fp32; probabilities and their gradients are rounded to E before a product.
// Scores are in powers of two: queries are multiplied by scale * log2(e) beforehand.
//
// A document may fork: a trunk, then branches, each of which sees the trunk and itself. What lies between is not computed.
#pragma once
#include <algorithm>
#include <memory>

#include "blocks.h"

struct Documents {
    int32_t documents, heads, groups, width, threads;  // width of a head: a multiple of 16
    float eps, scale;
    const int32_t* start;                       // (documents + 1): where each begins on the axis of T tokens
    const int32_t *trunk, *since, *until;       // within a document: (documents) where its trunk ends; (T) where a token's
                                                // branch begins, and ends; 0 and the end for tokens of a trunk
    const void* qkv;                            // (T, heads + 2 groups, width), not normed, not rotated
    const float *norm_q, *norm_k, *cos, *sin;   // (width), or null: no norm; (T, width), sines signed
    void* out;                                  // (T, heads, width)
    float* size;                                // (heads, T): log2 of the sum of powers
    const void* dout;                           // gradients, for the backward pass
    void* dqkv;
    float *dnorm_q, *dnorm_k;                   // += ; null where there is no norm
};

constexpr int AHEAD = 16, PANEL = 128, MOST_WIDTH = 512;

// look(width) with the usual widths of a head as numbers that a template takes; else with 0.
template <class F>
INLINE void at_width(int width, F look) {
    if (width == 32) look(std::integral_constant<int, 32>());
    else if (width == 64) look(std::integral_constant<int, 64>());
    else if (width == 128) look(std::integral_constant<int, 128>());
    else look(std::integral_constant<int, 0>());
}

template <int WIDTH>
INLINE int width_of(const Documents& d) {
    return WIDTH ? WIDTH : d.width;
}

template <class E>
INLINE float norm_factor(const E* raw, int width, float eps) {
    F16 squares = f_zero();
    for (int c = 0; c < width; c += LANES) squares = f_fma(load(raw + c), load(raw + c), squares);
    return 1.0f / std::sqrt(f_sum(squares) / width + eps);
}

// A query or a key: normed, rotated, times factor.
template <int WIDTH, class E>
INLINE void turn(const Documents& d, const E* raw, const float* norm, int t, float factor, E* out) {
    float twice[2 * (WIDTH ? WIDTH : MOST_WIDTH)];
    const int width = width_of<WIDTH>(d);
    const F16 r = f_set(norm ? norm_factor(raw, width, d.eps) : 1.0f), f = f_set(factor);
    for (int c = 0; c < width; c += LANES) {
        F16 v = f_mul(load(raw + c), r);
        if (norm) v = f_mul(v, f_load(norm + c));
        f_store(twice + c, v), f_store(twice + width + c, v);
    }
    const float *cos = d.cos + (size_t)t * width, *sin = d.sin + (size_t)t * width;
    for (int c = 0; c < width; c += LANES) {
        const F16 v = f_mul(f_load(twice + c + width / 2), f_load(sin + c));
        save(out + c, f_mul(f_fma(f_load(twice + c), f_load(cos + c), v), f));
    }
}

// The gradient dy * factor by what `turn` made (its own factor apart) becomes that by what it was made of; dnorm += its own.
template <int WIDTH, class E>
INLINE void turn_back(const Documents& d, const float* dy, float factor, const E* raw, const float* norm, int t, E* out, float* dnorm) {
    constexpr int MOST = WIDTH ? WIDTH : MOST_WIDTH;
    float twice[2 * MOST], slope[MOST];
    const int width = width_of<WIDTH>(d);
    const float *cos = d.cos + (size_t)t * width, *sin = d.sin + (size_t)t * width;
    const F16 f = f_set(factor);
    for (int c = 0; c < width; c += LANES) {
        const F16 v = f_mul(f_mul(f_load(dy + c), f), f_load(sin + c));
        f_store(twice + c, v), f_store(twice + width + c, v);
    }
    const float r = norm ? norm_factor(raw, width, d.eps) : 1.0f;
    F16 along = f_zero();
    for (int c = 0; c < width; c += LANES) {
        F16 g = f_fma(f_mul(f_load(dy + c), f), f_load(cos + c), f_load(twice + c + width / 2));
        if (norm) {
            const F16 v = load(raw + c);
            f_store(dnorm + c, f_fma(f_mul(g, f_set(r)), v, f_load(dnorm + c)));
            g = f_mul(g, f_load(norm + c));
            along = f_fma(g, v, along);
        }
        f_store(slope + c, g);
    }
    const F16 back = f_set(norm ? -r * r * r / width * f_sum(along) : 0.0f);
    for (int c = 0; c < width; c += LANES)
        save(out + c, f_fma(f_load(slope + c), f_set(r), norm ? f_mul(load(raw + c), back) : f_zero()));
}

// Memory for one head of one document: what the thread had for the last one, as that left it.
class Scratch {
  public:
    template <class T>
    T* take(size_t count) {
        const size_t bytes = (count * sizeof(T) + 127) & ~(size_t)63;
        if (at == blocks.size() || sizes[at] < bytes) {
            blocks.resize(at), sizes.resize(at);
            blocks.emplace_back(new char[bytes + 64]), sizes.push_back(bytes);
        }
        return (T*)(((uintptr_t)blocks[at++].get() + 63) & ~(uintptr_t)63);
    }
    Scratch& again() {
        at = 0;
        return *this;
    }

  private:
    size_t at = 0;
    std::vector<std::unique_ptr<char[]>> blocks;
    std::vector<size_t> sizes;
};

constexpr int up(int count, int step) { return (count + step - 1) / step * step; }

template <class T>
INLINE void clear(T* from, size_t count) {
    std::memset((void*)from, 0, count * sizeof(T));
}

struct Shade {  // added to the scores of a block: 0 up to a place, minus infinity after it; or 0 from a place on
    float last[2 * BLOCK], begin[2 * BLOCK];
    Shade() {
        for (int i = 0; i < 2 * BLOCK; i++) last[i] = i < BLOCK ? 0.0f : -INFINITY, begin[i] = i < BLOCK ? -INFINITY : 0.0f;
    }
    F16 upto(int place) const { return f_load(last + BLOCK - 1 - place); }
    F16 from(int place) const { return f_load(begin + BLOCK - place); }
};

template <class E, int WIDTH>
struct Head {  // one key/value head of one document
    const Documents& d;
    const int first, tokens, padded, trunk, group, share_, row, out_row;
    const int32_t *since, *until;
    const E* qkv;

    Head(const Documents& d, int item)
        : d(d), first(d.start[item / d.groups]), tokens(d.start[item / d.groups + 1] - first),
          padded(up(tokens, BLOCK)), trunk(d.trunk[item / d.groups]), group(item % d.groups), share_(d.heads / d.groups),
          row((d.heads + 2 * d.groups) * d.width), out_row(d.heads * d.width), since(d.since + first),
          until(d.until + first), qkv((const E*)d.qkv + (size_t)first * row) {}
    int query(int r) const { return (group * share_ + r) * d.width; }  // where in a row
    int key() const { return (d.heads + group) * d.width; }
    int value() const { return (d.heads + d.groups + group) * d.width; }
    size_t in_at(int t, int place) const { return (size_t)t * row + place; }  // from the document's first row of qkv
    size_t out_at(int t, int r) const { return (size_t)(first + t) * out_row + query(r); }

    // What is read or written soon: rows of a head lie too far apart for the processor to foresee them.
    void fetch(const E* head) const {
        for (int c = 0; c < d.width; c += 64 / sizeof(E)) __builtin_prefetch(head + c);
    }

    void forward() const {
        const int width = width_of<WIDTH>(d);
        static thread_local Scratch mine;
        Scratch& scratch = mine.again();
        auto* keys = scratch.take<uint32_t>((size_t)width * padded);
        auto* values = scratch.take<uint32_t>((size_t)width * padded);
        E *rows = scratch.take<E>((size_t)padded * width), *chance = scratch.take<E>((size_t)BLOCK * padded);
        float *scores = scratch.take<float>((size_t)BLOCK * padded), *made = scratch.take<float>(BLOCK * width);
        for (int j = 0; j < tokens; j++) {
            fetch(qkv + in_at(j + AHEAD, key())), fetch(qkv + in_at(j + AHEAD, value()));
            turn<WIDTH>(d, qkv + in_at(j, key()), d.norm_k, first + j, 1.0f, rows + (size_t)j * width);
        }
        clear(rows + (size_t)tokens * width, (size_t)(padded - tokens) * width);
        put_columns(rows, padded, width, keys, padded);
        for (int j = 0; j < tokens; j++) std::memcpy(rows + (size_t)j * width, qkv + in_at(j, value()), width * sizeof(E));
        put_rows(rows, width, padded, width, values, width);
        for (int r = 0; r < share_; r++)
            for (int i0 = 0; i0 < tokens; i0 += BLOCK) forward_block(r, i0, keys, values, rows, chance, scores, made);
    }

    // Blocks of keys that a block of queries sees: before `skip`, and from `from` on.
    struct Keys {
        int skip, from;
        int next(int j) const { return j == skip ? from : j; }
        template <class F>
        void each(int first, int upto, F&& look) const {
            for (int j = next(first); j < upto; j = next(j + LANES)) look(j);
        }
    };

    Keys keys_of(int i0, int count) const {
        const int stem = up(trunk, BLOCK), from = *std::min_element(since + i0, since + i0 + count) / BLOCK * BLOCK;
        return from <= stem ? Keys{0, 0} : Keys{stem, from};
    }

    void forward_block(int r, int i0, const uint32_t* keys, const uint32_t* values, E* queries, E* chance, float* scores,
                       float* made) const {
        static const Shade shade;
        const int width = width_of<WIDTH>(d), upto = i0 + BLOCK, here = std::min(tokens - i0, BLOCK);
        const Keys seen = keys_of(i0, here);
        for (int i = 0; i < here; i++) {
            fetch(qkv + in_at(i0 + i + AHEAD, query(r))), fetch((const E*)d.out + out_at(i0 + i, r));
            turn<WIDTH>(d, qkv + in_at(i0 + i, query(r)), d.norm_q, first + i0 + i, d.scale * LOG2_E, queries + i * width);
        }
        if (seen.skip) product(queries, width, BLOCK, keys, padded, seen.skip, scores, padded, width, false);
        product(queries, width, BLOCK, keys + seen.from, padded, upto - seen.from, scores + seen.from, padded, width, false);
        float shares[BLOCK];
        for (int i = 0; i < here; i++) {
            float* s = scores + (size_t)i * padded;
            f_store(s + i0, f_add(f_load(s + i0), shade.upto(i)));
            seen.each(trunk / BLOCK * BLOCK, since[i0 + i], [&](int j) {  // some of other branches
                const F16 stem = shade.upto(std::max(trunk - 1 - j, -1)), own = shade.from(std::min(since[i0 + i] - j, BLOCK));
                f_store(s + j, f_add(f_load(s + j), f_max(stem, own)));
            });
            F16 most16 = f_load(s + seen.from), sum = f_zero();
            seen.each(0, upto, [&](int j) { most16 = f_max(most16, f_load(s + j)); });
            const float most = f_most(most16);
            seen.each(0, upto, [&](int j) {
                const F16 p = exp2_for<E>(f_sub(f_load(s + j), f_set(most)));
                sum = f_add(sum, p);
                save(chance + (size_t)i * padded + j, p);
            });
            shares[i] = 1.0f / f_sum(sum);
            d.size[(size_t)(group * share_ + r) * d.start[d.documents] + first + i0 + i] = most + std::log2(f_sum(sum));
        }
        if (seen.skip) product(chance, padded, BLOCK, values, width, width, made, width, seen.skip, false);
        product(chance + seen.from, padded, BLOCK, values + (size_t)seen.from / PAIR<E> * width, width, width, made, width,
                upto - seen.from, seen.skip > 0);
        for (int i = 0; i < here; i++)
            for (int c = 0; c < width; c += LANES)
                save((E*)d.out + out_at(i0 + i, r) + c, f_mul(f_load(made + i * width + c), f_set(shares[i])));
    }

    struct Back {  // what the backward pass holds
        E *key_rows, *key_columns, *value_rows, *rows, *chance, *slope;
        uint32_t *queries, *douts, *query_steps, *dout_steps, *slopes;
        float *along, *size, *dkeys, *dvalues, *dqueries, *scores, *dscores;
    };

    void backward(float* dnorm_q, float* dnorm_k) const {
        const int width = width_of<WIDTH>(d);
        const size_t all = (size_t)padded * width, strip = (size_t)BLOCK * padded;
        E* dqkv = (E*)d.dqkv + (size_t)first * row;
        static thread_local Scratch mine;
        Scratch& s = mine.again();
        Back b{s.take<E>(all), s.take<E>(all), s.take<E>(all), s.take<E>(all), s.take<E>(strip), s.take<E>(strip),
               s.take<uint32_t>(all), s.take<uint32_t>(all), s.take<uint32_t>(all), s.take<uint32_t>(all),
               s.take<uint32_t>((size_t)PANEL * padded), s.take<float>(padded), s.take<float>(padded), s.take<float>(all),
               s.take<float>(all), s.take<float>(all), s.take<float>(strip), s.take<float>(strip)};
        for (int j = 0; j < tokens; j++) {
            fetch(qkv + in_at(j + AHEAD, key())), fetch(qkv + in_at(j + AHEAD, value()));
            turn<WIDTH>(d, qkv + in_at(j, key()), d.norm_k, first + j, 1.0f, b.key_rows + (size_t)j * width);
            std::memcpy(b.value_rows + (size_t)j * width, qkv + in_at(j, value()), width * sizeof(E));
        }
        clear(b.key_rows + (size_t)tokens * width, (size_t)(padded - tokens) * width);
        clear(b.value_rows + (size_t)tokens * width, (size_t)(padded - tokens) * width);
        clear(b.rows + (size_t)tokens * width, (size_t)(padded - tokens) * width);
        put_columns(b.key_rows, padded, width, b.queries, padded);
        part_columns(b.queries, width / PAIR<E>, padded, b.key_columns);
        clear(b.dkeys, all), clear(b.dvalues, all);
        for (int r = 0; r < share_; r++) {
            prepare(r, b);
            for (int p0 = 0; p0 < padded; p0 += PANEL) panel(p0, p0 + PANEL < padded ? p0 + PANEL : padded, b);
            for (int i0 = 0; i0 < tokens; i0 += BLOCK) {
                float dy[BLOCK * MOST_WIDTH];
                for (int c = 0; c < width; c += BLOCK)
                    transpose16(b.dqueries + (size_t)c * padded + i0, padded, dy + c, width);
                for (int i = i0; i < std::min(tokens, i0 + BLOCK); i++) {
                    const size_t at = in_at(i, query(r)), soon = in_at(i + AHEAD, query(r));
                    fetch(qkv + soon), fetch(dqkv + soon);
                    turn_back<WIDTH>(d, dy + (i - i0) * width, d.scale, qkv + at, d.norm_q, first + i, dqkv + at, dnorm_q);
                }
            }
        }
        for (int j = 0; j < tokens; j++) {
            const size_t at = in_at(j, key()), soon = in_at(j + AHEAD, key()), of_value = in_at(j, value());
            fetch(qkv + soon), fetch(dqkv + soon), fetch(dqkv + in_at(j + AHEAD, value()));
            turn_back<WIDTH>(d, b.dkeys + (size_t)j * width, LN_2, qkv + at, d.norm_k, first + j, dqkv + at, dnorm_k);
            for (int c = 0; c < width; c += LANES) save(dqkv + of_value + c, f_load(b.dvalues + (size_t)j * width + c));
        }
    }

    void prepare(int r, const Back& b) const {
        const int width = width_of<WIDTH>(d);
        const E *out = (const E*)d.out, *dout = (const E*)d.dout;
        for (int i = 0; i < tokens; i++) {
            const size_t at = out_at(i, r), soon = out_at(i + AHEAD, r);
            fetch(qkv + in_at(i + AHEAD, query(r))), fetch(out + soon), fetch(dout + soon);
            turn<WIDTH>(d, qkv + in_at(i, query(r)), d.norm_q, first + i, d.scale * LOG2_E, b.rows + (size_t)i * width);
            F16 along = f_zero();
            for (int c = 0; c < width; c += LANES) along = f_fma(load(out + at + c), load(dout + at + c), along);
            b.along[i] = f_sum(along);
            b.size[i] = d.size[(size_t)(group * share_ + r) * d.start[d.documents] + first + i];
        }
        for (int i = tokens; i < padded; i++) b.along[i] = 0, b.size[i] = INFINITY;
        put_columns(b.rows, padded, width, b.queries, padded);
        put_rows(b.rows, width, padded, width, b.query_steps, width);
        for (int i = 0; i < tokens; i++)
            std::memcpy(b.rows + (size_t)i * width, dout + out_at(i, r), width * sizeof(E));
        put_columns(b.rows, padded, width, b.douts, padded);
        put_rows(b.rows, width, padded, width, b.dout_steps, width);
        clear(b.dqueries, (size_t)padded * width);
    }

    // Where the queries end that see one of a block of keys: whole pairs of blocks, as `panel` reads them.
    int seen_until(int j0) const {
        const int last = *std::max_element(until + j0, until + std::min(j0 + BLOCK, tokens));
        return std::min(up(last, 2 * BLOCK), padded);
    }

    // Keys p0 .. end against all queries from p0 on.
    void panel(int p0, int end, const Back& b) const {
        static const Shade shade;
        const int width = width_of<WIDTH>(d);
        for (int j0 = p0; j0 < end; j0 += BLOCK) {
            const int count = seen_until(j0) - j0;
            product(b.key_rows + (size_t)j0 * width, width, BLOCK, b.queries + j0, padded, count, b.scores, padded, width, false);
            product(b.value_rows + (size_t)j0 * width, width, BLOCK, b.douts + j0, padded, count, b.dscores, padded, width, false);
            for (int j = 0; j < BLOCK; j++) {
                const size_t at = (size_t)j * padded;
                const int seen = j0 + j < tokens ? until[j0 + j] - j0 : 0;  // queries, from the block's own on
                for (int i = 0; i < count; i += LANES) {
                    F16 p = f_zero();
                    if (i < seen) {
                        F16 score = f_sub(f_load(b.scores + at + i), f_load(b.size + j0 + i));
                        if (i == 0) score = f_add(score, shade.from(j));
                        if (seen - i < LANES) score = f_add(score, shade.upto(seen - i - 1));
                        p = exp2_for<E>(score);
                    }
                    save(b.chance + at + i, p);
                    save(b.slope + at + i, f_mul(p, f_sub(f_load(b.dscores + at + i), f_load(b.along + j0 + i))));
                }
            }
            product(b.chance, padded, BLOCK, b.dout_steps + (size_t)j0 / PAIR<E> * width, width, width,
                    b.dvalues + (size_t)j0 * width, width, count, true);
            product(b.slope, padded, BLOCK, b.query_steps + (size_t)j0 / PAIR<E> * width, width, width,
                    b.dkeys + (size_t)j0 * width, width, count, true);
            uint32_t* slopes = b.slopes + (size_t)(j0 - p0) / PAIR<E> * padded;
            put_rows(b.slope, padded, BLOCK, count, slopes + j0, padded);
            if ((j0 - p0) % (2 * BLOCK))  // the block of queries before these, which a product of two blocks reads
                for (int s = 0; s < BLOCK / PAIR<E>; s++) clear(slopes + (size_t)s * padded + j0 - BLOCK, BLOCK);
        }
        for (int i0 = p0; i0 < padded; i0 += 2 * BLOCK) {
            const int count = std::min(padded - i0, 2 * BLOCK), last = std::min(end, i0 + count);
            const Keys seen = keys_of(i0, std::min(tokens - i0, count));
            const auto add = [&](int from, int to) {
                if (from < to)
                    product(b.key_columns + from, padded, width, b.slopes + (size_t)(from - p0) / PAIR<E> * padded + i0, padded,
                            count, b.dqueries + i0, padded, to - from, true);
            };
            add(p0, std::min(last, seen.skip));
            add(std::max(p0, seen.from), last);
        }
    }
};

template <class E>
void documents_forward(const Documents& d) {
    share(d.documents * d.groups, d.threads, [&](int item) {
        const TileUse use;
        at_width(d.width, [&](auto width) { Head<E, width>(d, item).forward(); });
    });
}

template <class E>
void documents_backward(const Documents& d) {
    const int items = d.documents * d.groups;
    std::vector<float> parts((size_t)2 * items * d.width);
    float *of_q = parts.data(), *of_k = of_q + (size_t)items * d.width;
    share(items, d.threads, [&](int item) {
        const TileUse use;
        const size_t part = (size_t)item * d.width;
        at_width(d.width, [&](auto width) { Head<E, width>(d, item).backward(of_q + part, of_k + part); });
    });
    if (d.norm_q) add_parts(d.dnorm_q, of_q, items, d.width);
    if (d.norm_k) add_parts(d.dnorm_k, of_k, items, d.width);
}
