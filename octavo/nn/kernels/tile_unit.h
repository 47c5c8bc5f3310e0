// The instructions of tiles (Intel AMX): matrices of 16 rows of 64 bytes in registers, and products of them.
#pragma once
#include "vector.h"

#if OCTAVO_AMX
#include <sys/syscall.h>
#include <unistd.h>

constexpr int TILE = 16;  // rows of a tile

struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};

// Whether the system lets this process use tiles; asks it to.
inline bool tiles_allowed() {
    constexpr int REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

// Instructions on tiles number 0 to 7. Written out: compilers' own take no number from a template, and some do not see
// which memory they read.
template <int T>
INLINE void tile_zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(T));
}
template <int T>
INLINE void tile_load(const void* from, ptrdiff_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(T) : "memory");
}
template <int T>
INLINE void tile_load_past(const void* from, ptrdiff_t stride) {  // past the nearest cache
    asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(T) : "memory");
}
template <int T>
INLINE void tile_store(void* to, ptrdiff_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(T) : "memory");
}
enum TileKind { HALVES, SIGNED_UNSIGNED, UNSIGNED_SIGNED };  // bf16; int8 rows times uint8 panels; the other way round
template <TileKind KIND, int SUMS, int ROWS, int PANEL>
INLINE void tile_multiply() {  // sums += rows times panel
    if (KIND == HALVES)
        asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUMS), "i"(ROWS), "i"(PANEL));
    else if (KIND == SIGNED_UNSIGNED)
        asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUMS), "i"(ROWS), "i"(PANEL));
    else
        asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUMS), "i"(ROWS), "i"(PANEL));
}

inline thread_local TileShapes configured{0};  // what this thread's tiles are now, as far as our own calls know

// Gives this thread's tiles these shapes.
inline void configure(const TileShapes& shapes) {
    if (!std::memcmp(&configured, &shapes, sizeof shapes)) return;
    configured = shapes;
    asm volatile("ldtilecfg %0" ::"m"(configured) : "memory");
}

// Stands in every call from outside that may use tiles. Between calls others on the thread (PyTorch) shape tiles or give
// them up, after which our instructions would be wrong or illegal: so nothing is taken for configured at the next call.
// Meanwhile numbers below the smallest normal one are zero to vectors too, as they are to tiles.
struct TileUse {
    const unsigned before = _mm_getcsr();

    TileUse() {
        constexpr unsigned RESULTS = 1 << 15, OPERANDS = 1 << 6;  // flush to zero, denormals are zero
        _mm_setcsr(before | RESULTS | OPERANDS);
    }
    ~TileUse() {
        configured = TileShapes{0};
        asm volatile("tilerelease");
        _mm_setcsr(before);
    }
};
#else
inline bool tiles_allowed() { return true; }  // there are none to ask for

struct TileUse {
    ~TileUse() {}
};
#endif
