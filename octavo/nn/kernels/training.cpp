// What training calls: two of each, for activations in fp32 and in bf16.
#include "matrix.h"

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
    void octavo_divergence_##NAME(int rows, int vocab, void* ours, const void* theirs, const float* weight, float* far,  \
                                  int reverse, int threads) {                                                            \
        divergence_rows<E>(rows, vocab, (E*)ours, (const E*)theirs, weight, far, reverse, threads);                      \
    }                                                                                                                    \
    void octavo_documents_forward_##NAME(const Documents* d) { documents_forward<E>(*d); }                               \
    void octavo_documents_backward_##NAME(const Documents* d) { documents_backward<E>(*d); }

extern "C" {
int octavo_training_ready() { return tiles_allowed(); }  // before any other call

int octavo_training_tiles() {  // whether what follows can be called
#if OCTAVO_AMX
    return 1;
#else
    return 0;
#endif
}

#if OCTAVO_AMX
void octavo_outer(int tokens, int outputs, int inputs, const void* dy, const void* x, float* made, int tiled_y, int tiled_x,
                  int half, int threads) {
    outer(tokens, {(const Half*)dy, outputs, tiled_y != 0, 0, outputs}, {(const Half*)x, inputs, tiled_x != 0, 0, inputs}, made,
          half, threads);
}

void octavo_mlp_panels(int width, int inner, const float* gate, const float* up, const float* down, void* into, void* out,
                       void* into_back, void* out_back) {
    const Matrix first(gate, up, inner, width), second(down, width, inner);
    first.lay((uint32_t*)into), second.lay((uint32_t*)out);
    first.lay_back((uint32_t*)into_back), second.lay_back((uint32_t*)out_back);
}

void octavo_mlp_forward(int rows, int width, int inner, const void* x, const void* into, const void* out, void* pairs,
                        void* made, int threads) {
    MLP{rows, width, inner, threads}.forward((const Half*)x, into, out, (uint32_t*)pairs, (Half*)made);
}

void octavo_mlp_backward(int rows, int width, int inner, const void* dmade, const void* out_back, const void* into_back,
                         void* pairs, void* middle, void* dx, int threads) {
    MLP{rows, width, inner, threads}.backward((const Half*)dmade, out_back, into_back, (uint32_t*)pairs, (uint32_t*)middle, (Half*)dx);
}
#endif

OCTAVO_TRAINING(fp32, float)
OCTAVO_TRAINING(bf16, Half)
}
