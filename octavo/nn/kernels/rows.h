// Training: what stands between the matrix products, row by row, forward and backward.
//
//   E   what activations are stored in: float, or bf16 as uint16_t. Everything is computed in fp32; the residual stream and
//       all gradients of vectors are fp32.
//
// Rows are dealt out in parts whose number does not depend on the threads, and sums over rows are made part by part in
// order: the number of threads changes no bit.
#pragma once
#include <atomic>
#include <thread>
#include <vector>

#include "vector.h"

using Half = uint16_t;
constexpr int PARTS = 16;  // of the rows
constexpr float LOG2_E = 1.44269504f, LN_2 = 0.69314718f;

INLINE F16 load(const float* p) { return f_load(p); }
INLINE F16 load(const Half* p) { return from_bf16(p); }
INLINE void save(float* p, F16 x) { f_store(p, x); }
INLINE void save(Half* p, F16 x) {
#if OCTAVO_AVX512 && defined(__AVX512BF16__)
    _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x));
#else
    to_bf16(p, x);
#endif
}
INLINE float one(const float* p) { return *p; }
INLINE float one(const Half* p) {
    const uint32_t bits = (uint32_t)*p << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
INLINE void set_one(float* p, float x) { *p = x; }
INLINE void set_one(Half* p, float x) {
    Half lanes[LANES];
    save(lanes, f_set(x));
    *p = lanes[0];
}

// 2**x as E wants it: where that is bf16, off by 8e-5 of itself at most, a fiftieth of what bf16 rounds, in half the time.
template <class E>
INLINE F16 exp2_for(F16 x) {
#if OCTAVO_AVX512
    if constexpr (sizeof(E) == sizeof(Half)) {
        const F16 magic = f_set(12582912.0f);  // the last bits of its sum with x are x, rounded
        x = f_max(f_set(-126.0f), x);  // there it is less than the smallest normal number: 0 as bf16
        const F16 whole = f_add(x, magic), part = f_sub(x, f_sub(whole, magic));
        F16 y = f_fma(f_set(5.517166954e-2f), part, f_set(2.426111254e-1f));  // minimax on [-0.5, 0.5]
        y = f_fma(y, part, f_set(6.932609857e-1f));
        y = f_fma(y, part, f_set(9.999280733e-1f));
        return (F16)i_add((I16)y, _mm512_slli_epi32((I16)whole, 23));
    }
#endif
    return exp2_(x);
}

// f(0) .. f(count - 1), in any order, on so many threads.
template <class F>
void share(int count, int threads, F f) {
    std::atomic<int> next{0};
    auto work = [&] {
        for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) f(i);
    };
    std::vector<std::thread> others;
    for (int i = 1; i < threads && i < count; i++) others.emplace_back(work);
    work();
    for (auto& other : others) other.join();
}

// f(first, last, part) over the parts of the rows.
template <class F>
void share_rows(int rows, int threads, F f) {
    const int size = (rows + PARTS - 1) / PARTS;
    share(PARTS, threads, [&](int part) {
        if (part * size < rows) f(part * size, part * size + size < rows ? part * size + size : rows, part);
    });
}

// to[i] += the sum over parts of from[part][i], in order.
inline void add_parts(float* to, const float* from, int parts, int count) {
    for (int part = 0; part < parts; part++)
        for (int i = 0; i < count; i++) to[i] += from[(size_t)part * count + i];
}

// sum = x + added (where added is there), y = sum / rms(sum) * weight.   (rows, width), width a multiple of 16
template <class E>
void norm_forward(int rows, int width, const float* x, const E* added, const float* weight, float eps, float* sum, E* y,
                  int threads) {
    share_rows(rows, threads, [=](int first, int last, int) {
        for (size_t at = (size_t)first * width; at < (size_t)last * width; at += width) {
            F16 squares = f_zero();
            const float* from = x + at;
            if (added) {
                for (int i = 0; i < width; i += LANES) {
                    const F16 v = f_add(f_load(x + at + i), load(added + at + i));
                    f_store(sum + at + i, v), squares = f_fma(v, v, squares);
                }
                from = sum + at;
            } else {
                for (int i = 0; i < width; i += LANES) squares = f_fma(f_load(from + i), f_load(from + i), squares);
            }
            const F16 r = f_set(1.0f / std::sqrt(f_sum(squares) / width + eps));
            for (int i = 0; i < width; i += LANES) save(y + at + i, f_mul(f_mul(f_load(from + i), r), f_load(weight + i)));
        }
    });
}

// dx (+)= the norm's gradient by x, where dy is given; low (where it is there) = dx in E; dweight += its own gradient.
template <class E>
void norm_backward(int rows, int width, const E* dy, const float* x, const float* weight, float eps, float* dx, E* low,
                   int fresh, float* dweight, int threads) {
    std::vector<float> parts((size_t)PARTS * width);
    share_rows(rows, threads, [&](int first, int last, int part) {
        float* dw = parts.data() + (size_t)part * width;
        for (size_t at = (size_t)first * width; at < (size_t)last * width; at += width) {
            F16 squares = f_zero(), along = f_zero();
            for (int i = 0; i < width; i += LANES) {
                const F16 v = f_load(x + at + i);
                squares = f_fma(v, v, squares);
                along = f_fma(f_mul(load(dy + at + i), f_load(weight + i)), v, along);
            }
            const float r = 1.0f / std::sqrt(f_sum(squares) / width + eps);
            const F16 grow = f_set(r), back = f_set(-r * r * r / width * f_sum(along));
            for (int i = 0; i < width; i += LANES) {
                const F16 v = f_load(x + at + i), slope = f_mul(load(dy + at + i), grow);
                f_store(dw + i, f_fma(slope, v, f_load(dw + i)));
                F16 d = f_fma(slope, f_load(weight + i), f_mul(v, back));
                if (!fresh) d = f_add(d, f_load(dx + at + i));
                f_store(dx + at + i, d);
                if (low) save(low + at + i, d);
            }
        }
    });
    add_parts(dweight, parts.data(), PARTS, width);
}

// As E wants it, as exp2_for.
template <class E>
INLINE F16 sigmoid(F16 x) {
    const F16 ones = f_set(1.0f), bound = f_max(f_set(-126.0f), f_mul(x, f_set(LOG2_E)));
    const F16 sum = f_add(ones, exp2_for<E>(f_mul(bound, f_set(-1.0f))));
#if OCTAVO_AVX512
    if constexpr (sizeof(E) == sizeof(Half)) return _mm512_rcp14_ps(sum);
#endif
    return f_div(ones, sum);
}

// made = silu(gate) * up; both (rows, 2 * inner): a row's gate, then its up. inner: a multiple of 16
template <class E>
void swiglu_forward(int rows, int inner, const E* both, E* made, int threads) {
    share_rows(rows, threads, [=](int first, int last, int) {
        for (size_t row = first; row < (size_t)last; row++)
            for (int i = 0; i < inner; i += LANES) {
                const F16 gate = load(both + 2 * row * inner + i), up = load(both + (2 * row + 1) * inner + i);
                save(made + row * inner + i, f_mul(f_mul(gate, sigmoid<E>(gate)), up));
            }
    });
}

// dboth = the gradient by gate and up; made = what the forward made, once more. dboth may be `both` itself.
template <class E>
void swiglu_backward(int rows, int inner, const E* dmade, const E* both, E* dboth, E* made, int threads) {
    share_rows(rows, threads, [=](int first, int last, int) {
        for (size_t row = first; row < (size_t)last; row++)
            for (int i = 0; i < inner; i += LANES) {
                const size_t g = 2 * row * inner + i, u = g + inner;
                const F16 gate = load(both + g), up = load(both + u), d = load(dmade + row * inner + i);
                const F16 s = sigmoid<E>(gate), silu = f_mul(gate, s);
                save(made + row * inner + i, f_mul(silu, up));
                save(dboth + u, f_mul(d, silu));
                const F16 rise = f_fma(silu, f_sub(f_set(1.0f), s), s);  // s + g s (1 - s)
                save(dboth + g, f_mul(f_mul(d, up), rise));
            }
    });
}

// Of each row of logits: logprob of its target; entropy (where wanted); and where weights are given the logits become
// weight * (softmax - one-hot of the target).   (rows, vocab)
template <class E>
void surprise_rows(int rows, int vocab, E* logits, const int64_t* target, const float* weight, float* logprob,
                   float* entropy, int threads) {
    share_rows(rows, threads, [=](int first, int last, int) {
        const int whole = vocab / LANES * LANES;
        for (int row = first; row < last; row++) {
            E* z = logits + (size_t)row * vocab;
            F16 most16 = f_set(-INFINITY);
            for (int i = 0; i < whole; i += LANES) most16 = f_max(most16, load(z + i));
            float most = f_most(most16);
            for (int i = whole; i < vocab; i++) most = most > one(z + i) ? most : one(z + i);
            F16 sum16 = f_zero(), moment16 = f_zero();
            const F16 turn = f_set(LOG2_E), top = f_set(most);
            for (int i = 0; i < whole; i += LANES) {
                const F16 v = f_sub(load(z + i), top), e = exp2_(f_mul(v, turn));
                sum16 = f_add(sum16, e);
                if (entropy) moment16 = f_fma(e, v, moment16);
            }
            float sum = f_sum(sum16), moment = f_sum(moment16);
            for (int i = whole; i < vocab; i++) {
                const float e = std::exp(one(z + i) - most);
                sum += e, moment += e * (one(z + i) - most);
            }
            const float size = most + std::log(sum), at = one(z + target[row]);
            logprob[row] = at - size;
            if (entropy) entropy[row] = std::log(sum) - moment / sum;
            if (!weight) continue;
            const float w = weight[row];
            const F16 lower = f_set(size), weight16 = f_set(w);
            for (int i = 0; i < whole; i += LANES)
                save(z + i, f_mul(exp2_(f_mul(f_sub(load(z + i), lower), turn)), weight16));
            for (int i = whole; i < vocab; i++) set_one(z + i, std::exp(one(z + i) - size) * w);
            set_one(z + target[row], (std::exp(at - size) - 1.0f) * w);
        }
    });
}

// 16 numbers of a row, what is behind its end as good as minus infinity; and back.
template <class E>
INLINE F16 load_upto(const E* row, int i, int count) {
    if (i + LANES <= count) return load(row + i);
    float lanes[LANES];
    for (int k = 0; k < LANES; k++) lanes[k] = i + k < count ? one(row + i + k) : -1e30f;
    return f_load(lanes);
}
template <class E>
INLINE void save_upto(E* row, int i, int count, F16 x) {
    if (i + LANES <= count) return save(row + i, x);
    E lanes[LANES];
    save(lanes, x);
    std::memcpy(row + i, lanes, (count - i) * sizeof(E));
}

// log of the sum of exponentials
template <class E>
INLINE float log_sum(const E* row, int count) {
    F16 most16 = load_upto(row, 0, count), sum = f_zero();
    for (int i = LANES; i < count; i += LANES) most16 = f_max(most16, load_upto(row, i, count));
    const float most = f_most(most16);
    for (int i = 0; i < count; i += LANES)
        sum = f_add(sum, exp2_(f_mul(f_sub(load_upto(row, i, count), f_set(most)), f_set(LOG2_E))));
    return most + std::log(f_sum(sum));
}

// Of each row far = KL(ours || theirs) where `reverse`, else KL(theirs || ours), of rows of logits (rows, vocab); ours become
// weight * the gradient by them: p (log p - log q - far), else p - q, of our p and their q.
template <class E>
void divergence_rows(int rows, int vocab, E* ours, const E* theirs, const float* weight, float* far, int reverse, int threads) {
    share_rows(rows, threads, [=](int first, int last, int) {
        for (int row = first; row < last; row++) {
            E* our = ours + (size_t)row * vocab;
            const E* their = theirs + (size_t)row * vocab;
            const F16 our_sum = f_set(log_sum(our, vocab)), their_sum = f_set(log_sum(their, vocab)), turn = f_set(LOG2_E);
            const auto each = [&](auto look) {  // log p, log q
                for (int i = 0; i < vocab; i += LANES)
                    look(i, f_sub(load_upto(our, i, vocab), our_sum), f_sub(load_upto(their, i, vocab), their_sum));
            };
            F16 sum = f_zero();
            each([&](int, F16 p, F16 q) {
                sum = reverse ? f_fma(exp2_(f_mul(p, turn)), f_sub(p, q), sum) : f_fma(exp2_(f_mul(q, turn)), f_sub(q, p), sum);
            });
            far[row] = f_sum(sum);
            const F16 off = f_set(far[row]), w = f_set(weight[row]);
            each([&](int i, F16 p, F16 q) {
                const F16 chance = exp2_(f_mul(p, turn));
                const F16 slope = reverse ? f_mul(chance, f_sub(f_sub(p, q), off)) : f_sub(chance, exp2_(f_mul(q, turn)));
                save_upto(our, i, vocab, f_mul(slope, w));
            });
        }
    });
}
