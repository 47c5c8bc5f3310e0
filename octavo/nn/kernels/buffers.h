// Memory that a step works in.
#pragma once
#include <cstdlib>

#include "linear.h"

template <class T>
struct Buffer {  // zeroed, 64-byte aligned memory that only grows
    T* data = nullptr;
    size_t size = 0;

    T* need(size_t count) {
        if (count > size) {
            std::free(data);
            const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
            data = (T*)std::aligned_alloc(64, bytes);
            if (!data) std::abort();
            std::memset((void*)data, 0, bytes);
            size = count;
        }
        return data;
    }
    ~Buffer() { std::free(data); }
};

struct RowBuffer {
    Buffer<uint8_t> data;
    Buffer<float> scale, scales;
    Buffer<int32_t> sum, sums;

    Rows need(int rows, int inputs) {
        const size_t wide = padded(inputs);
        Rows r;
        r.data = data.need(rows * (wide * 2 + GAP)), r.scale = scale.need(rows), r.sum = sum.need(rows);
        r.sums = sums.need(rows * wide / 32), r.scales = scales.need(rows * wide / 32), r.inputs = inputs;
        return r;
    }
};
