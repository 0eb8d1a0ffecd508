// What a run is given, and what the run keeps of each layer.
#pragma once

#include "kernels.h"

// native.py mirrors Layer and Run, and refuses a library whose kLayout or sizes are not its own.
// Count kLayout up in both files when a field changes.
constexpr Index kLayout = 2;

struct Layer {
    void *weight, *bias, *weight_momentum, *bias_momentum;  // all but the weight may be null
    Index n_in, n_out;
    int32_t sigmoid;
};
struct Run {
    const Layer* layers;
    const void *images, *targets;  // (N, n_in) uint8 or T; (N, n_out) T
    const Index* labels;           // (N) in place of targets: class numbers, for one-hot rows
    const Index* order;            // n row numbers, or null for 0 … n − 1
    const double* lrs;             // η of each step
    void* table;                   // (steps, 2 + 3 layers) T, to be filled
    Index n_layers, n, batch, table_columns;
    double two_s, two_s_last, momentum, weight_decay, pixel_scale;
    int32_t images_are_uint8, skip_zeros, norms, threads;
};

// v ← μ v + 2s g + λ w, w ← w − η v. Without momentum v is null, and w ← w − η (2s g + λ w).
template <typename T>
struct Descent {
    using S = Simd<T>;
    using V = typename S::V;
    T lr, two_s, momentum, weight_decay;

    V operator()(V w, V g, T* v) const {
        g *= two_s;
        if (weight_decay != 0) g += weight_decay * w;
        if (v) {
            g += momentum * S::load(v);
            S::store(v, g);
        }
        return w - lr * g;
    }
};

// One layer: its tensors, copies of some of them, and what each example gives in it.
template <typename T>
struct State {
    static constexpr int L = Simd<T>::lanes;

    Index n_in, n_out, ld;  // ld: the padded row length of a and δ
    bool sigmoid;
    T *weight, *weight_momentum;
    Buffer<T> a;                     // (rows, ld)
    T* delta = nullptr;              // δ / 2s  (rows, ld), its padding zero
    Buffer<T> bias, bias_momentum;   // (ld), copies
    Buffer<T> weight_t, momentum_t;  // (n_in, ld_t), transposed copies, of the first layer alone
    Index ld_t = 0;
    Buffer<T> delta_squares;   // Σ δ² of each example, a vector each
    Buffer<T> weight_squares;  // Σ g² of each unit of rows, a vector each
    Index weight_units;

    // This layer's a also holds δ of the layer before: once this layer's δ exists, no one reads a.
    State(const Layer& layer, Index rows, Index unit, bool first, Index ld_before)
        : n_in(layer.n_in),
          n_out(layer.n_out),
          sigmoid(layer.sigmoid),
          weight(static_cast<T*>(layer.weight)),
          weight_momentum(static_cast<T*>(layer.weight_momentum)) {
        // Products read kRows beyond the last column and write whole vectors. A length of a
        // multiple of 4 vectors would put a column's elements into few sets of the cache.
        ld = round_up(n_out + kRows, L);
        if (ld % (4 * L) == 0) ld += L;
        a = Buffer<T>(rows * std::max(ld, ld_before), true);
        bias = copy(layer.bias), bias_momentum = copy(layer.bias_momentum);
        weight_units = round_up(first ? n_in : n_out, unit) / unit;
        weight_squares = Buffer<T>(weight_units * L, true);
        delta_squares = Buffer<T>(rows * L, true);
        if (first) {
            ld_t = round_up(n_out, L);
            weight_t = transposed(weight), momentum_t = transposed(weight_momentum);
        }
    }

    // Write the copies back into the tensors.
    void copy_back(const Layer& layer) const {
        if (layer.bias) std::memcpy(layer.bias, bias, n_out * sizeof(T));
        if (layer.bias_momentum) std::memcpy(layer.bias_momentum, bias_momentum, n_out * sizeof(T));
        if (ld_t) transpose_back(weight_t, weight), transpose_back(momentum_t, weight_momentum);
    }

private:
    Buffer<T> copy(const void* from) const {
        Buffer<T> to(ld, true);
        if (from) std::memcpy(to, from, n_out * sizeof(T));
        return to;
    }
    Buffer<T> transposed(const T* w) const {
        if (!w) return {};
        Buffer<T> w_t(n_in * ld_t, true);
        transpose(w, n_out, n_in, n_in, w_t, ld_t);
        return w_t;
    }
    void transpose_back(const T* w_t, T* w) const {
        if (w) transpose(w_t, n_in, n_out, ld_t, w, n_in);
    }
    // to[c, r] = from[r, c], square by square: a square stays in the cache.
    static void transpose(const T* from, Index rows, Index columns, Index ld_from, T* to,
                          Index ld_to) {
        constexpr Index side = 16;
        for (Index r0 = 0; r0 < rows; r0 += side)
            for (Index c0 = 0; c0 < columns; c0 += side)
                for (Index r = r0; r < std::min(r0 + side, rows); r++)
                    for (Index c = c0; c < std::min(c0 + side, columns); c++)
                        to[c * ld_to + r] = from[r * ld_from + c];
    }
};
