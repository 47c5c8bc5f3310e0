// What training calls: two of each, for activations in fp32 and in bf16.
#include "outer.h"

#define OCTAVO_TRAINING(NAME, E)                                                                                        \
    void octavo_norm_forward_##NAME(int rows, int width, const float* x, const void* added, const float* weight,         \
                                    float eps, float* sum, void* y, int threads) {                                       \
        norm_forward<E>(rows, width, x, (const E*)added, weight, eps, sum, (E*)y, threads);                              \
    }                                                                                                                    \
    void octavo_norm_backward_##NAME(int rows, int width, const void* dy, const float* x, const float* weight,           \
                                     float eps, float* dx, void* low, int fresh, float* dweight, int threads) {          \
        norm_backward<E>(rows, width, (const E*)dy, x, weight, eps, dx, (E*)low, fresh, dweight, threads);               \
    }                                                                                                                    \
    void octavo_swiglu_forward_##NAME(int rows, int inner, const void* both, void* made, int threads) {                  \
        swiglu_forward<E>(rows, inner, (const E*)both, (E*)made, threads);                                               \
    }                                                                                                                    \
    void octavo_swiglu_backward_##NAME(int rows, int inner, const void* dmade, const void* both, void* dboth,            \
                                       void* made, int threads) {                                                        \
        swiglu_backward<E>(rows, inner, (const E*)dmade, (const E*)both, (E*)dboth, (E*)made, threads);                  \
    }                                                                                                                    \
    void octavo_surprise_##NAME(int rows, int vocab, void* logits, const int64_t* target, const float* weight,           \
                                float* logprob, float* entropy, int threads) {                                           \
        surprise_rows<E>(rows, vocab, (E*)logits, target, weight, logprob, entropy, threads);                            \
    }                                                                                                                    \
    void octavo_documents_forward_##NAME(const Documents* d) { documents_forward<E>(*d); }                               \
    void octavo_documents_backward_##NAME(const Documents* d) { documents_backward<E>(*d); }

extern "C" {
int octavo_training_ready() { return tiles_allowed(); }  // before any other call

// Whether it was made; else the caller does it in another way.
int octavo_outer(int tokens, int outputs, int inputs, const void* dy, const void* x, float* made, int threads) {
#if OCTAVO_AMX
    outer(tokens, outputs, inputs, (const Half*)dy, (const Half*)x, made, threads);
    return 1;
#else
    return 0;
#endif
}

OCTAVO_TRAINING(fp32, float)
OCTAVO_TRAINING(bf16, Half)
}
