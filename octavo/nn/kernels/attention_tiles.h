// Attention of up to 32 query rows by tiles (see tiles.h): scores of 16 rows times the keys of a page, then weights times
// panels of values. A row's result does not depend on the rows beside it.
#pragma once
#include "attention.h"

#if OCTAVO_AMX
class TiledAttention {
  public:
    TiledAttention(const Cache& cache, const Keys& keys, const Keys& soon, const Query* queries, int count, float scale)
        : cache(cache), keys(keys), soon(soon), queries(queries), count(count), width(cache.head_width),
          halves(cache.kind == KEEP_BF16), key_lines(width / (halves ? 2 : 4)), inner(tile_lines(key_lines)) {
        for (int r = 0; r < count; r++) begin(r, scale);
    }

    void run(bool far) {
        shape();
        for (int first = 0; first <= last; first += SPAN) {
            here = find_blocks(cache, keys, soon, first, last, block, after);
            // One after the other for all rows: what is stored has left the core before tiles are loaded of it.
            for (int g = 0; g < count; g += TILE) halves ? scores<HALVES>(g) : scores<SIGNED_UNSIGNED>(g);
            for (int r = 0; r < count; r++) weigh(r, first);
            for (int g = 0; g < count; g += TILE) halves ? values<HALVES>(g) : values<UNSIGNED_SIGNED>(g);
        }
        for (int r = 0; r < count; r++)
            for (int i = 0; i < width; i += LANES)
                f_write(far, queries[r].out + i, f_mul(f_load(out[r] + i), f_set(1.0f / softmax[r].total)));
    }

  private:
    static constexpr int ABREAST = SPAN / PAGE;      // tiles of sums: a page's scores each, or a panel of channels each
    static constexpr int STRIDE = 2 * WIDEST + 64;   // bytes from a query to the next one
    static constexpr int LINE = 64;

    const Cache& cache;
    const Keys &keys, &soon;
    const Query* queries;
    const int count, width;
    const bool halves;
    const int key_lines, inner;  // lines of a page's keys, and of a tile of them
    int last = 0, here = 0;      // position of the last query; pages of this span
    const uint8_t *block[ABREAST], *after[ABREAST];  // of this span, of what is read next
    Softmax softmax[TILED];
    float q_scale[TILED], alpha[TILED], unit[TILED];
    int32_t q_sum[TILED];
    alignas(64) uint8_t q[TILED][STRIDE];
    alignas(64) uint8_t weight[TILED][2 * SPAN];     // bf16, or uint8
    alignas(64) float scored[TILED][SPAN];
    alignas(64) float sums[TILE][ABREAST * LANES];   // fp32 or int32
    alignas(64) float out[TILED][WIDEST];

    void begin(int r, float scale) {
        last = queries[r].position > last ? queries[r].position : last;
        for (int i = 0; i < width; i += LANES) f_store(out[r] + i, f_zero());
        if (halves) {
            for (int i = 0; i < width; i += LANES) to_bf16((uint16_t*)q[r] + i, f_load(queries[r].q + i));
            q_scale[r] = scale * LOG2_E;
            return;
        }
        q_scale[r] = to_int8(queries[r].q, width, (int8_t*)q[r]) * scale * LOG2_E;
        q_sum[r] = 0;
        for (int i = 0; i < width; i++) q_sum[r] += (int8_t)q[r][i];
    }

    // Tiles: 0-3 sums, 4 queries, 5 keys, 6 weights, 7 values.
    void shape() const {
        TileShapes shapes;
        const int value_lines = PAGE / (halves ? 2 : 4);
        for (int i = 0; i < 8; i++) {
            shapes.row_bytes[i] = (uint16_t)(i == 4 ? 4 * inner : i == 6 ? 4 * value_lines : 64);
            shapes.rows[i] = (uint8_t)(i == 5 ? inner : i == 7 ? value_lines : count < TILE ? count : TILE);
        }
        configure(shapes);
    }

    template <TileKind KIND, int SUMS>
    INLINE_MEMBER void score(int offset, bool fetch) {
        if (SUMS >= here) return;
        for (int line = 0; fetch && line < inner; line++) __builtin_prefetch(after[SUMS] + offset + line * LINE);
        tile_load<5>(block[SUMS] + offset, LINE);
        tile_multiply<KIND, SUMS, 4, 5>();
    }

    template <TileKind KIND>
    void scores(int g) {
        clear();
        for (int line = 0; line < key_lines; line += inner) {
            tile_load<4>(q[g] + line * 4, STRIDE);
            score<KIND, 0>(line * LINE, g == 0), score<KIND, 1>(line * LINE, g == 0);
            score<KIND, 2>(line * LINE, g == 0), score<KIND, 3>(line * LINE, g == 0);
        }
        keep((uint8_t*)scored[g]);
    }

    // Scores of a row become weights as they are multiplied with the values.
    void weigh(int r, int first) {
        float* row = scored[r];
        for (int p = 0; p < here; p++) {
            float* to = row + p * PAGE;
            if (halves) {
                f_store(to, f_mul(f_load(to), f_set(q_scale[r])));
            } else {
                const F16 ks = f_load(cache.scales((uint8_t*)block[p]));
                const I16 exact = i_sub(i_load((const int32_t*)to), i_set(128 * q_sum[r]));
                f_store(to, f_mul(to_float(exact), f_mul(f_set(q_scale[r]), ks)));
            }
        }
        const int seen = queries[r].position + 1 - first;
        for (int i = seen < 0 ? 0 : seen; i < SPAN; i++) row[i] = -INFINITY;
        alpha[r] = softmax[r].step(row);
        if (halves) {
            for (int i = 0; i < SPAN; i += LANES) to_bf16((uint16_t*)weight[r] + i, f_load(row + i));
        } else {
            const float* scales[ABREAST];
            for (int p = 0; p < here; p++) scales[p] = cache.scales((uint8_t*)block[p]) + PAGE;
            unit[r] = round_weights(row, scales, here, weight[r]);
        }
    }

    template <TileKind KIND, int SUMS>
    INLINE_MEMBER void value(int p, int panel, bool fetch) {
        constexpr int LINES = PAGE / (KIND == HALVES ? 2 : 4), BYTES = LINES * LINE;
        if ((panel + SUMS) * LANES >= width) return;
        const size_t offset = cache.values_at() + (size_t)(panel + SUMS) * BYTES;
        for (int line = 0; fetch && line < LINES; line++) __builtin_prefetch(after[p] + offset + line * LINE);
        tile_load<7>(block[p] + offset, LINE);
        tile_multiply<KIND, SUMS, 6, 7>();
    }

    template <TileKind KIND>
    void values(int g) {
        const int end = g + TILE < count ? g + TILE : count;
        for (int panel = 0; panel * LANES < width; panel += ABREAST) {
            clear();
            for (int p = 0; p < here; p++) {
                tile_load<6>(weight[g] + p * PAGE * (KIND == HALVES ? 2 : 1), sizeof weight[g]);
                value<KIND, 0>(p, panel, g == 0), value<KIND, 1>(p, panel, g == 0);
                value<KIND, 2>(p, panel, g == 0), value<KIND, 3>(p, panel, g == 0);
            }
            keep((uint8_t*)sums[0]);
            for (int r = g; r < end; r++)
                for (int i = 0; i < ABREAST * LANES && panel * LANES + i < width; i += LANES) {
                    float *to = out[r] + panel * LANES + i, *sum = sums[r - g] + i;
                    const F16 before = f_mul(f_load(to), f_set(alpha[r]));
                    f_store(to, KIND == HALVES ? f_add(before, f_load(sum))
                                       : f_fma(to_float(i_load((const int32_t*)sum)), f_set(unit[r]), before));
                }
        }
    }

    static void clear() { tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>(); }
    static void keep(uint8_t* to) {
        constexpr int ROW = SPAN * sizeof(float);
        tile_store<0>(to, ROW), tile_store<1>(to + 64, ROW), tile_store<2>(to + 128, ROW), tile_store<3>(to + 192, ROW);
    }
};
#endif

// Causal attention of any number of queries of one key/value head over the pages of their sequence. soon: the keys that
// will be asked for next, if that is known; far: out, then at multiples of 64 bytes, is written past the caches
INLINE void attend_any(const Cache& cache, const Keys& keys, const Keys& soon, const Query* queries, int count, float scale,
                       bool far) {
    int i = 0;
#if OCTAVO_AMX
    constexpr int FEW = 4;  // so many go by vectors: to the same bits, and without the way through memory that tiles take
    for (; count - i > FEW; i += TILED) {
        const bool last = i + TILED >= count;
        TiledAttention(cache, keys, last ? soon : keys, queries + i, last ? count - i : TILED, scale).run(far);
    }
#else
    for (; i + QUERIES <= count; i += QUERIES) attend<QUERIES>(cache, keys, i + QUERIES < count ? keys : soon, queries + i, scale, far);
#endif
    if (i + 4 <= count) attend<4>(cache, keys, i + 4 < count ? keys : soon, queries + i, scale, far), i += 4;
    if (i + 2 <= count) attend<2>(cache, keys, i + 2 < count ? keys : soon, queries + i, scale, far), i += 2;
    if (i < count) attend<1>(cache, keys, soon, queries + i, scale, far);
}
