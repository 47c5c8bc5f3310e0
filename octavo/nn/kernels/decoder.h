// A decoder's forward pass over packed weights and paged keys and values: one call computes a whole step.
//
// All threads run the same function and meet at barriers; within a step, work is handed out in small runs. Each number
// is computed by one thread in a fixed order, so results depend neither on threads nor on what else is in the batch.
#pragma once
#include <algorithm>

#include "attention_tiles.h"
#include "buffers.h"

struct Layer {
    const float *norm_in, *norm_out, *norm_q, *norm_k;  // the last two may be null
    Matrix qkv, out, gate_up, down;                     // gate_up: a panel of gates, a panel of ups, and so on
    const float* router;                                // (experts, width), or null in a dense layer
    const Matrix *expert_gate_up, *expert_down;
};

struct Shape {
    int32_t layers, width, heads, kv_heads, head_width, inner, vocab, experts, chosen, expert_inner, normalise, reserved;
    float eps, rope_factor;
    const float* frequency;  // head_width / 2, radians per position
    const Layer* layer;
    const float* norm;
    Matrix head;
    const uint16_t* embedding;  // (vocab, width) bf16, or null: the head's weights
};

struct Step {  // one forward pass: tokens of all sequences end to end
    int32_t tokens, sequences, rows, hidden;  // hidden: the rows after the last norm are wanted, not their logits
    const int32_t* token;    // (tokens)
    const int32_t* count;    // (sequences) new tokens
    const int32_t* start;    // (sequences) position of the first of them
    const int32_t* pages;    // page numbers of all sequences end to end
    const int32_t* page_at;  // (sequences) where a sequence's page numbers begin
    const int32_t* row;      // (rows) tokens whose logits are wanted
    float* logits;           // (rows, vocab rounded up to 32), or (rows, width)
};

struct Run {  // tokens of one sequence that lie in one page
    int first, count, page, position;
};

struct Block {  // neighbouring tokens of one sequence whose queries are computed together
    int first, count, position;
    const int32_t* pages;
};

struct Pick {  // an expert that a token goes through
    int expert, token;
    float weight;
};

constexpr int ADJACENT = 8;  // pairs of panels of an expert that are read one after the other, as one stream
constexpr int STREAMED = 32;  // what more tokens than this make is written past the caches: they would not keep it

INLINE F16 silu(F16 x) { return f_div(x, f_add(exp2_(f_mul(x, f_set(-LOG2_E))), f_set(1.0f))); }

// out = x / rms(x) * weight, `wide` numbers of which `width` count
INLINE void norm_row(const float* x, const float* weight, int wide, int width, float eps, float* out) {
    F16 squares = f_zero();
    for (int i = 0; i < wide; i += LANES) squares = f_fma(f_load(x + i), f_load(x + i), squares);
    const F16 inverse = f_set(1.0f / std::sqrt(f_sum(squares) / width + eps));
    for (int i = 0; i < wide; i += LANES) f_store(out + i, f_mul(f_mul(f_load(x + i), inverse), f_load(weight + i)));
}

class Decoder {
  public:
    Decoder(const Shape& shape, const Cache& cache, int threads)
        : s(shape), cache(cache), pool(threads), wide(padded(s.width)), att_wide(padded(s.heads * s.head_width)),
          qkv_wide((s.heads + 2 * s.kv_heads) * s.head_width), inner_wide(padded(std::max(s.inner, s.expert_inner))),
          group(s.heads / s.kv_heads), scratch(threads), tmp(threads), spare(threads) {
        const size_t deepest = std::max({wide, att_wide, inner_wide});
        for (auto& one : scratch) one.need(deepest * PAIR);
        for (int i = 0; i < threads; i++) tmp[i].need(deepest), spare[i].need(deepest);
        qkv_wide = (qkv_wide + PAIR - 1) / PAIR * PAIR;
    }

    void forward(const Step& given) {
        step = &given;
        plan();
        auto all = [this](int thread) { run(thread); };
        pool.run(all, step->tokens);
    }

    const Shape s;
    const Cache cache;

  private:
    Pool pool;
    int wide, att_wide, qkv_wide, inner_wide, group;
    const Step* step = nullptr;
    Buffer<float> x, y, att, h, h_expert, angles, normed, chances;
    RowBuffer in, mid, in_expert, mid_expert;
    Rows x_rows, y_rows, h_rows, x_expert, h_expert_rows;
    std::vector<Buffer<uint8_t>> scratch;
    std::vector<Buffer<float>> tmp, spare;
    std::vector<Run> runs;
    std::vector<Block> blocks;
    std::vector<Pick> picks, sorted;
    std::vector<int> firsts;  // of each expert in `sorted`, and the end

    void plan() {
        const int tokens = step->tokens, picked = tokens * s.chosen;
        x.need((size_t)tokens * wide), y.need((size_t)tokens * qkv_wide), att.need((size_t)tokens * att_wide);
        h.need((size_t)tokens * padded(s.inner)), h_expert.need((size_t)picked * padded(s.expert_inner));
        normed.need(s.experts ? (size_t)tokens * wide : 0), chances.need((size_t)tokens * s.experts);
        angles.need((size_t)tokens * s.head_width), picks.resize(picked), firsts.resize(s.experts + 1);
        x_rows = in.need(tokens, std::max(s.width, s.heads * s.head_width)), x_rows.inputs = s.width;
        y_rows = x_rows, y_rows.inputs = s.heads * s.head_width;  // never in use at the same time
        h_rows = mid.need(tokens, s.inner);
        x_expert = in_expert.need(picked, s.width), h_expert_rows = mid_expert.need(picked, s.expert_inner);
        runs.clear(), blocks.clear();
        const int together = std::max(1, QUERIES / group);
        for (int i = 0, first = 0; i < step->sequences; first += step->count[i], i++) {
            const int32_t* pages = step->pages + step->page_at[i];
            const int start = step->start[i], count = step->count[i];
            for (int done = 0; done < count;) {
                const int position = start + done, some = std::min(count - done, PAGE - position % PAGE);
                runs.push_back({first + done, some, pages[position / PAGE], position});
                done += some;
            }
            for (int done = 0; done < count; done += together)
                blocks.push_back({first + done, std::min(together, count - done), start + done, pages});
        }
    }

    bool far() const { return step->tokens > STREAMED; }

    // work over 0 .. count-1, then prepare(row) for each row: a single one by the last thread to arrive, more by all
    template <class Work, class Prepare>
    void phase(int count, int size, Work work, int rows, Prepare prepare) {
        if (rows < 2) return pool.each(count, size, work, [&] { rows ? prepare(0) : (void)0; });
        pool.each(count, size, work);
        pool.each(rows, 1, [&](int first, int last) {
            for (int r = first; r < last; r++) prepare(r);
        });
    }

    template <class Give, class Prepare>
    void linear(const Matrix& m, const Rows& rows, int count, int thread, Give give, int prepared, Prepare prepare) {
        const int pairs = m.outputs / PAIR, size = std::max(1, pairs / (pool.threads * 8));
        phase(pairs, size, [&](int first, int last) {
            for (int pair = first; pair < last; pair++)
                pair_of_panels(m, rows, 0, count, pair, scratch[thread].data,
                               [&](int r, F16 y0, F16 y1) { give(pair * PAIR, r, y0, y1); });
            if (far()) f_settle();
        }, prepared, prepare);
    }

    void embed(int t, int thread) {
        float* to = x.data + (size_t)t * wide;
        const int token = step->token[t];
        if (s.embedding) {
            const uint16_t* row = s.embedding + (size_t)token * s.width;
            for (int i = 0; i < s.width; i++) {
                const uint32_t bits = (uint32_t)row[i] << 16;
                std::memcpy(to + i, &bits, 4);
            }
        } else {
            row_of(s.head, token, to, spare[thread].data);
        }
        std::memset(to + s.width, 0, (wide - s.width) * sizeof(float));  // a token before may have left NaN there
        int position = 0;
        for (int i = 0, first = 0; i < step->sequences; first += step->count[i], i++)
            if (t >= first) position = step->start[i] + t - first;
        float *cosine = angles.data + (size_t)t * s.head_width, *sine = cosine + s.head_width / 2;
        for (int i = 0; i < s.head_width / 2; i++) {
            const float angle = (float)position * s.frequency[i];
            cosine[i] = std::cos(angle) * s.rope_factor, sine[i] = std::sin(angle) * s.rope_factor;
        }
    }

    // Weights of one output, as numbers.
    void row_of(const Matrix& m, int output, float* to, float* spare_row) {
        const int deep = padded(m.inputs), which = output / LANES % 2, lane = output % LANES;
        const uint8_t* w = m.data + output / PAIR * pair_bytes(m.kind, deep) + which * 64;
        const uint8_t* groups = m.groups + output / PAIR * group_bytes(m.kind, deep);
        const bool nibbles = m.kind == W4 || m.kind == G4 || m.kind == G4M;
        for (int i = 0; i < m.inputs; i++) {
            if (m.kind == BF16) {
                uint16_t half;
                std::memcpy(&half, w + i / 2 * 128 + lane * 4 + i % 2 * 2, 2);
                const uint32_t bits = (uint32_t)half << 16;
                std::memcpy(to + i, &bits, 4);
                continue;
            }
            const int byte = nibbles ? w[i / 8 * 128 + lane * 4 + i % 4] : w[i / 4 * 128 + lane * 4 + i % 4];
            const int q = !nibbles ? byte - 128 : (i % 8 < 4 ? byte & 15 : byte >> 4) - (m.kind == G4M ? 0 : 8);
            if (m.kind == W8) {
                to[i] = (float)q * m.scale[output];
            } else if (m.kind == W4) {
                const uint8_t both = groups[i / 64 * 32 + which * 16 + lane];
                to[i] = (float)(q * (i % 64 < 32 ? both & 15 : both >> 4)) * m.scale[output];
            } else {
                const uint16_t* halves = (const uint16_t*)groups + i / 32 * (m.kind == G4M ? 64 : 32) + which * 16;
                float scales[LANES], minima[LANES] = {};
                f_store(scales, from_half(halves));
                if (m.kind == G4M) f_store(minima, from_half(halves + 32));
                to[i] = (float)q * scales[lane] + minima[lane];
            }
        }
        if (m.rotation) rotate_blocks(to, m.inputs, m.rotation, spare_row);
    }

    void rotate(float* head, const float* norm, int t) {
        const int half = s.head_width / 2;
        if (norm) norm_row(head, norm, s.head_width, s.head_width, s.eps, head);
        const float *cosine = angles.data + (size_t)t * s.head_width, *sine = cosine + half;
        for (int i = 0; i + LANES <= half; i += LANES) {
            const F16 a = f_load(head + i), b = f_load(head + i + half), c = f_load(cosine + i), d = f_load(sine + i);
            f_store(head + i, f_sub(f_mul(a, c), f_mul(b, d))), f_store(head + i + half, f_add(f_mul(b, c), f_mul(a, d)));
        }
        for (int i = half / LANES * LANES; i < half; i++) {
            const float a = head[i], b = head[i + half];
            head[i] = a * cosine[i] - b * sine[i];
            head[i + half] = b * cosine[i] + a * sine[i];
        }
    }

    // Of one key/value head.
    void keep(const Layer& layer, int number, const Run& run, int head) {
        cache.expect(number, run.page, run.position % PAGE, head);
        for (int t = run.first; t < run.first + run.count; t++) {
            float* q = y.data + (size_t)t * qkv_wide;
            float *k = q + s.heads * s.head_width, *v = k + s.kv_heads * s.head_width;
            for (int i = head * group; i < (head + 1) * group; i++) rotate(q + i * s.head_width, layer.norm_q, t);
            k += head * s.head_width, v += head * s.head_width;
            rotate(k, layer.norm_k, t);
            cache.put(number, run.page, (run.position + t - run.first) % PAGE, head, k, v);
        }
    }

    // Items of attention: all blocks with the first key/value head, then with the next one.
    Keys keys_of(int number, int item) const {
        const Block& block = blocks[item % blocks.size()];
        return {number, item / (int)blocks.size(), (block.position + block.count - 1) / PAGE + 1, block.pages};
    }

    void attend_item(int number, int item, int next) {
        const Block& block = blocks[item % blocks.size()];
        const Keys keys = keys_of(number, item);
        Query queries[std::max(QUERIES, 1) * 8];
        int count = 0;
        const float scale = 1.0f / std::sqrt((float)s.head_width);
        for (int i = 0; i < block.count; i++)
            for (int r = 0; r < group; r++) {
                const size_t t = block.first + i, head = (size_t)keys.head * group + r;
                queries[count++] = {y.data + t * qkv_wide + head * s.head_width,
                                    att.data + t * att_wide + head * s.head_width, block.position + i};
            }
        attend_any(cache, keys, keys_of(number, next), queries, count, scale, far());
        if (far()) f_settle();
    }

    // Row r of the next matrix: token t, normed. kept: given as it is, `count` numbers, beside that.
    void prepare_norm(const float* weight, const Matrix& next, int t, int r, int thread, float* kept = nullptr, int count = 0) {
        norm_row(x.data + (size_t)t * wide, weight, wide, s.width, s.eps, tmp[thread].data);
        if (kept) std::memcpy(kept + (size_t)r * count, tmp[thread].data, count * sizeof(float));
        set_row(x_rows, next, r, tmp[thread].data, spare[thread].data);
    }

    void run(int thread) {
        const TileUse use;
        const int tokens = step->tokens;
        phase(tokens, 1, [&](int first, int last) {
            for (int t = first; t < last; t++) embed(t, thread);
        }, tokens, [&](int r) { prepare_norm(s.layer[0].norm_in, s.layer[0].qkv, r, r, thread); });
        for (int i = 0; i < s.layers; i++) {
            attention(s.layer[i], i, thread);
            const bool last = i + 1 == s.layers;
            const float* norm = last ? s.norm : s.layer[i + 1].norm_in;
            const Matrix& after = last ? s.head : s.layer[i + 1].qkv;
            const int rows = last ? step->rows : tokens;
            float* kept = last && step->hidden ? step->logits : nullptr;
            auto next = [=, &after](int r) { prepare_norm(norm, after, last ? step->row[r] : r, r, thread, kept, s.width); };
            if (s.layer[i].router)
                experts(s.layer[i], thread, rows, next);
            else
                dense(s.layer[i], thread, rows, next);
        }
        if (step->hidden) return;
        const size_t logits_wide = s.head.outputs;
        linear(s.head, x_rows, step->rows, thread, [&](int at, int r, F16 y0, F16 y1) {
            float* to = step->logits + r * logits_wide + at;
            f_store(to, y0), f_store(to + LANES, y1);
        }, 0, [](int) {});
    }

    void attention(const Layer& layer, int number, int thread) {
        const int tokens = step->tokens;
        const bool past = far();
        linear(layer.qkv, x_rows, tokens, thread, [&](int at, int r, F16 y0, F16 y1) {
            float* to = y.data + (size_t)r * qkv_wide + at;
            f_write(past, to, y0), f_write(past, to + LANES, y1);
        }, 0, [](int) {});
        const bool together = tokens == step->sequences;  // one token each: who keeps a head's key attends with it at once
        const int kept = (int)runs.size() * s.kv_heads;
        if (!together)
            pool.each(kept, std::max(1, kept / (pool.threads * 8)), [&](int first, int last) {
                for (int i = first; i < last; i++) keep(layer, number, runs[i / s.kv_heads], i % s.kv_heads);
            });
        const int items = (int)blocks.size() * s.kv_heads;
        phase(items, std::max(1, items / (pool.threads * 8)), [&](int first, int last) {
            for (int i = first; i < last; i++) {
                if (together) keep(layer, number, runs[i % runs.size()], i / (int)runs.size());
                attend_item(number, i, i + 1 < last ? i + 1 : i);
            }
        }, tokens, [&](int r) { set_row(y_rows, layer.out, r, att.data + (size_t)r * att_wide, spare[thread].data); });
        const Matrix& next = layer.router ? *layer.expert_gate_up : layer.gate_up;
        linear(layer.out, y_rows, tokens, thread, [&](int at, int r, F16 y0, F16 y1) { add(at, r, y0, y1); }, tokens,
               [&](int r) { prepare_norm(layer.norm_out, next, r, r, thread, layer.router ? normed.data : nullptr, wide); });
    }

    void add(int at, int r, F16 y0, F16 y1) {
        float* to = x.data + (size_t)r * wide + at;
        f_store(to, f_add(f_load(to), y0)), f_store(to + LANES, f_add(f_load(to + LANES), y1));
    }

    template <class Next>
    void dense(const Layer& layer, int thread, int rows, Next next) {
        const int tokens = step->tokens, deep = padded(s.inner);
        const bool past = far();
        linear(layer.gate_up, x_rows, tokens, thread, [&](int at, int r, F16 gate, F16 up) {
            f_write(past, h.data + (size_t)r * deep + at / 2, f_mul(silu(gate), up));
        }, tokens, [&](int r) { set_row(h_rows, layer.down, r, h.data + (size_t)r * deep, spare[thread].data); });
        linear(layer.down, h_rows, tokens, thread, [&](int at, int r, F16 y0, F16 y1) { add(at, r, y0, y1); }, rows, next);
    }

    // How much each token likes each expert.
    void ask(const float* router, int first, int last) {
        for (int i = first; i < last; i++) {
            const float* values = normed.data + (size_t)(i / s.experts) * wide;
            const float* expert = router + (size_t)(i % s.experts) * wide;
            F16 sum = f_zero();
            for (int j = 0; j < wide; j += LANES) sum = f_fma(f_load(values + j), f_load(expert + j), sum);
            chances.data[i] = f_sum(sum);
        }
    }

    // The likeliest experts of a token; among equals the lower number.
    void pick(int t) {
        float *chance = chances.data + (size_t)t * s.experts, *end = chance + s.experts;
        const float most = *std::max_element(chance, end);
        float total = 0, kept = 0;
        for (float* c = chance; c < end; c++) total += *c = std::exp(*c - most);
        Pick* to = &picks[(size_t)t * s.chosen];
        for (int i = 0; i < s.chosen; i++) {
            const int best = (int)(std::max_element(chance, end) - chance);
            to[i] = {best, t, chance[best] / total};
            kept += to[i].weight;
            chance[best] = -1;
        }
        for (int i = 0; s.normalise && i < s.chosen; i++) to[i].weight /= kept;
    }

    void sort_picks() {
        sorted = picks;
        std::stable_sort(sorted.begin(), sorted.end(), [](const Pick& a, const Pick& b) { return a.expert < b.expert; });
        for (int e = 0, i = 0; e <= s.experts; e++) {
            firsts[e] = i;
            while (i < (int)sorted.size() && sorted[i].expert == e) i++;
        }
    }

    template <class Next>
    void experts(const Layer& layer, int thread, int rows, Next next) {
        const int tokens = step->tokens;
        phase(tokens * s.experts, 16, [&](int first, int last) { ask(layer.router, first, last); }, tokens, [&](int t) { pick(t); });
        pool.barrier([&] { sort_picks(); });
        const int kind = layer.expert_gate_up->kind, deep = padded(s.expert_inner), count = (int)sorted.size();
        pool.each(count, 4, [&](int first, int last) {
            for (int i = first; i < last; i++) {
                const int t = sorted[i].token;
                std::memcpy(x_expert.data + i * x_expert.stride(kind), x_rows.row(kind, t), x_rows.stride(kind));
                x_expert.scale[i] = x_rows.scale[t], x_expert.sum[i] = x_rows.sum[t];
                std::memcpy(x_expert.group_sums(i), x_rows.group_sums(t), wide / 32 * sizeof(int32_t));
                std::memcpy(x_expert.group_scales(i), x_rows.group_scales(t), wide / 32 * sizeof(float));
            }
        });
        phase(layer.expert_gate_up->outputs / PAIR, ADJACENT, [&](int first, int last) {
            for (int e = 0; e < s.experts; e++)
                for (int pair = first; pair < last; pair++)
                    pair_of_panels(layer.expert_gate_up[e], x_expert, firsts[e], firsts[e + 1], pair, scratch[thread].data,
                                   [&](int r, F16 gate, F16 up) {
                                       f_store(h_expert.data + (size_t)r * deep + pair * LANES, f_mul(silu(gate), up));
                                   });
        }, count, [&](int r) { set_row(h_expert_rows, *layer.expert_down, r, h_expert.data + (size_t)r * deep, spare[thread].data); });
        phase(layer.expert_down->outputs / PAIR, ADJACENT, [&](int first, int last) {
            for (int e = 0; e < s.experts; e++)
                for (int pair = first; pair < last; pair++)
                    pair_of_panels(layer.expert_down[e], h_expert_rows, firsts[e], firsts[e + 1], pair, scratch[thread].data,
                                   [&](int r, F16 y0, F16 y1) {
                                       const F16 weight = f_set(sorted[r].weight);
                                       add(pair * PAIR, sorted[r].token, f_mul(y0, weight), f_mul(y1, weight));
                                   });
        }, rows, next);
    }
};
