// The documents' algorithm for whole epochs, without Python between the steps.
//
// Rows are examples. Each step leaves the factor 2s out of δ, and puts it into the update:
//
//   forward   z = a_prev Wᵀ + b,  a = σ(z)
//   δ / 2s    (a − y) ⊙ a(1 − a) in the last layer,  (δ_next W_next) ⊙ a(1 − a) before it
//   update    W ← W − η 2s δᵀ a_prev,  b ← b − η 2s Σ δ
//
// What makes it fast:
// - Where non-zero inputs are few, the first layer runs over them alone: z = Σ_k x_k Wᵀ[k].
//   A small batch in a narrow layer runs over the pixels that are not 0 in some example.
// - The first layer's W is held transposed: its forward pass and update go over rows of Wᵀ.
// - Each element of δᵀ a_prev is summed in a register and applied to W. No gradient is stored.
// - Bias, sigmoid and slope are applied to a block of results before it leaves the registers.
//
// Threads divide the examples for the forward pass and δ, and the weights for the update. One
// thread sums each number in one order, so the bytes do not depend on the number of threads.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <exception>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "nonzeros.h"
#include "products.h"
#include "state.h"

template <typename T>
class Training {
    using S = Simd<T>;
    using V = typename S::V;
    static constexpr int L = S::lanes;
    static constexpr Index kAhead = 8;   // rows to fetch in advance
    static constexpr Index kMany = 128;  // examples from which copying columns pays
    // Examples times units of the first layer, up to which lists of non-zeros do not pay.
    static constexpr Index kFew = 64 * L;

    struct Step {
        Index start, m;
        Descent<T> descend;
    };
    const Run& run_;
    const Index layers_, threads_;
    const bool every_pixel_;  // update the weights of a pixel that is 0 in the whole batch, too
    const bool sparse_;       // the first layer runs over lists of non-zeros
    std::vector<State<T>> state_;
    Buffer<T> output_delta_;
    // Without lists: the input of the pixels that take part (batch + kRows, ld_x), and these
    // pixels in order. Each thread has the same list of them, and marks of what is in it.
    Buffer<T> x_;
    Index ld_x_ = 0;
    std::vector<Buffer<int32_t>> pixel_;
    std::vector<Index> pixels_;
    std::vector<Buffer<uint8_t>> mark_;
    Nonzeros<T> nonzeros_;
    std::vector<double> squared_error_;  // (batch)
    std::vector<char> correct_;
    std::vector<Workspace<T>> workspaces_;  // of gemm, by thread
    std::vector<Buffer<T>> one_hot_;        // (n_out) zeros, by thread: where a label becomes a row
    Barrier barrier_;

public:
    explicit Training(const Run& run)
        : run_(run),
          layers_(run.n_layers),
          threads_(run.threads),
          every_pixel_(!run.skip_zeros || run.layers[0].weight_momentum || run.weight_decay != 0),
          sparse_(run.skip_zeros && run.batch * run.layers[0].n_out > kFew),
          barrier_(run.threads) {
        const Index rows = run.batch + kRows, n_in = run.layers[0].n_in;
        Index depth = run.batch, elements_of_a = 0;
        // The largest share of a thread.
        auto share_of = [this](Index n) { return n / threads_ + 2 * kPixels + kRows; };
        for (Index l = 0; l < layers_; l++) {
            state_.emplace_back(run.layers[l], rows, sparse_ && !l ? kPixels : kShare, !l,
                                l ? state_[l - 1].ld : 0);
            if (l) state_[l - 1].delta = state_[l].a;
            const Index widest = std::max(state_[l].n_in, state_[l].n_out);
            depth = std::max(depth, widest);
            elements_of_a = std::max(
                {elements_of_a, share_of(run.batch) * widest, share_of(widest) * run.batch});
        }
        output_delta_ = Buffer<T>(rows * state_.back().ld, true);
        state_.back().delta = output_delta_;
        for (Index t = 0; t < threads_; t++) {
            workspaces_.emplace_back(depth, elements_of_a, kPixels * round_up(run.batch, 16));
            if (run.labels) one_hot_.emplace_back(state_.back().n_out, true);
        }
        squared_error_.resize(run.batch);
        correct_.resize(run.batch);
        if (sparse_) {
            nonzeros_ = Nonzeros<T>(run.batch, n_in, threads_);
        } else {
            ld_x_ = round_up(n_in + kPixels, L);  // `keep` writes whole vectors
            x_ = Buffer<T>(rows * ld_x_, true);
            for (Index t = 0; t < threads_; t++) {
                pixel_.emplace_back(n_in + kPixels);
                mark_.emplace_back(n_in);
                std::memset(mark_[t], 1, n_in);
                std::iota(pixel_[t] + 0, pixel_[t] + n_in, 0);
            }
            pixels_.assign(threads_, n_in);
        }
    }

    void train() {
        enum { kWait, kGo, kGiveUp };
        // No thread takes a step before all exist, because threads meet at barriers.
        std::atomic<int> start{kWait};
        std::vector<std::thread> others;
        auto join = [&] {
            for (auto& thread : others) thread.join();
        };
        try {
            for (Index t = 1; t < threads_; t++)
                others.emplace_back([this, t, &start] {
                    while (start == kWait) std::this_thread::yield();
                    if (start == kGo) steps(t);
                });
        } catch (...) {  // the system gives no more threads
            start = kGiveUp;
            join();
            throw;
        }
        start = kGo;
        steps(0);
        join();
        for (Index l = 0; l < layers_; l++) state_[l].copy_back(run_.layers[l]);
    }

private:
    Index begins(Index n, Index unit, Index t) const { return share(n, unit, t, threads_); }

    void steps(Index t) {
        const FlushDenormals flush;
        T* row = static_cast<T*>(run_.table);
        for (Index start = 0, i = 0; start < run_.n;
             start += run_.batch, i++, row += run_.table_columns) {
            const Index m = std::min(run_.batch, run_.n - start);
            const double two_s = m == run_.batch ? run_.two_s : run_.two_s_last;
            const Descent<T> descend{T(run_.lrs[i]), T(two_s), T(run_.momentum),
                                     T(run_.weight_decay)};
            const Step step{start, m, descend};
            examples(step, t);
            barrier_.wait();  // the next δ overwrites the output a of every example
            for (Index l = layers_ - 1; l >= 0; l--) {
                if (l) {
                    delta_back(step, l - 1, t);
                    barrier_.wait();
                    update_weight(step, l, t);
                } else if (sparse_) {
                    update_first_sparse(step, t);
                } else {
                    update_first_dense(step, t);
                }
                update_bias(step, l, t, row);
                if (l == 0 && t == 0) example_statistics(step, row);
                // Layer 1's update and layer 0's touch different memory: no barrier between them.
                if (l != 1) barrier_.wait();
            }
            if (t == 0 && run_.norms) weight_statistics(step, row);
        }
    }

    // Gather, forward, and δ of the output, for this thread's examples.
    void examples(const Step& step, Index t) {
        const Index first = begins(step.m, kShare, t), last = begins(step.m, kShare, t + 1);
        with_images([&](auto images) { gather(images, step, first, last, t); });
        if (first == last) return;
        for (Index l = 0; l < layers_; l++) forward(l, first, last, t);
        output_delta(first, last, step.start, t);
    }

    // f(images), as uint8 or T.
    template <typename F>
    void with_images(F f) const {
        if (run_.images_are_uint8) f(static_cast<const uint8_t*>(run_.images));
        else f(static_cast<const T*>(run_.images));
    }

    Index row_of(Index i) const { return run_.order ? run_.order[i] : i; }
    const T* target(Index i) const {
        return static_cast<const T*>(run_.targets) + row_of(i) * state_[layers_ - 1].n_out;
    }

    template <typename Pixel>
    void gather(const Pixel* images, const Step& step, Index first, Index last, Index t) {
        const Index n_in = state_[0].n_in;
        const T scale = run_.pixel_scale;
        if (!sparse_ && !every_pixel_) mark(images, step, t);
        Index e = nonzeros_.begin(first);
        for (Index i = first; i < last; i++) {
            const Pixel* p = images + row_of(step.start + i) * n_in;
            // Rows come in random order, so the processor cannot guess the next.
            if (step.start + i + kAhead < run_.n) {
                const Pixel* ahead = images + row_of(step.start + i + kAhead) * n_in;
                for (Index k = 0; k < n_in; k += 64 / sizeof(Pixel)) __builtin_prefetch(ahead + k);
                if (run_.labels) __builtin_prefetch(run_.labels + row_of(step.start + i + kAhead));
                else __builtin_prefetch(target(step.start + i + kAhead));
            }
            if (sparse_) e = nonzeros_.read(i, p, scale, e);
            else keep(p, static_cast<uint8_t*>(mark_[t]), n_in, scale, x_ + i * ld_x_, nullptr, 0);
        }
    }

    // Marks and lists the pixels that are not 0 in some example of the batch.
    template <typename Pixel>
    void mark(const Pixel* images, const Step& step, Index t) {
        const Index n_in = state_[0].n_in;
        uint8_t* marked = mark_[t];
        std::memset(marked, 0, n_in);
        for (Index i = 0; i < step.m; i++) {
            const Pixel* p = images + row_of(step.start + i) * n_in;
            for (Index k = 0; k < n_in; k++) marked[k] |= p[k] != 0;
        }
        T* unused = workspaces_[t].panel;
        pixels_[t] = keep(marked, marked, n_in, T{1}, unused, pixel_[t] + 0, 0);
    }

    void forward(Index l, Index first, Index last, Index t) {
        State<T>& s = state_[l];
        auto activate = [&s](Index i, Index j, V z) {
            z += S::load(s.bias + j);
            if (s.sigmoid) z = sigmoid(z);
            S::store(s.a + i * s.ld + j, z);  // a = σ(z + b)
            return z;
        };
        if (l) {  // z = a_prev Wᵀ  (m, n_out)
            gemm<T, 1>({state_[l - 1].a, state_[l - 1].ld, 1}, first, last, {s.weight, 1, s.n_in},
                       s.n_in, s.n_out, workspaces_[t], nullptr, activate);
            return;
        }
        if (!sparse_) {
            gemm<T, 1>({x_, ld_x_, 1}, first, last, {s.weight_t, s.ld_t, 1, pixel_[t]}, pixels_[t],
                       s.ld_t, workspaces_[t], nullptr, activate);
            return;
        }
        in_blocks(s.ld_t / L, s.n_in, [&](auto block, auto in_pieces, Index v0) {
            const auto [rows, ld] = columns<block>(s.weight_t, s.n_in, s.ld_t, v0, last - first, t);
            nonzeros_.each_example(first, last, [&, w = rows, w_ld = ld](Index i, auto list) {
                constexpr int ways = block >= 4 ? 1 : 4 / block;
                // z = Σ_k x_k Wᵀ[k]
                weighted_rows<T, block, ways, in_pieces>(
                    list.value, list.index, list.count, w, w_ld,
                    [&](int v, V z) { activate(i, (v0 + v) * L, z); });
            });
        });
    }

    // Columns v0 L … (v0 + block) L of the n `rows`, and the stride between rows. For many examples
    // the columns are copied together: rows are read many times in no order, and may lie on a page
    // each.
    template <int block>
    std::pair<const T*, Index> columns(const T* rows, Index n, Index ld, Index v0, Index examples,
                                       Index t) const {
        rows += v0 * L;
        if (examples < kMany || ld == block * L) return {rows, ld};
        T* copy = workspaces_[t].panel;
        for (Index i = 0; i < n; i++)
            for (int v = 0; v < block; v++)
                S::store(copy + (i * block + v) * L, S::load(rows + i * ld + v * L));
        return {copy, block * L};
    }

    // Without a branch, which no processor would guess.
    static Index largest(const T* p, Index n) {
        Index at = 0;
        T most = p[0];
        for (Index j = 1; j < n; j++) {
            const bool more = p[j] > most;
            at = more ? j : at;
            most = more ? p[j] : most;
        }
        return at;
    }

    void output_delta(Index first, Index last, Index start, Index t) {
        State<T>& s = state_[layers_ - 1];
        for (Index i = first; i < last; i++) {
            const T* a = s.a + i * s.ld;
            T* hot = run_.labels ? one_hot_[t] + run_.labels[row_of(start + i)] : nullptr;
            if (hot) *hot = 1;
            const T* y = hot ? one_hot_[t] : target(start + i);
            T* delta = s.delta + i * s.ld;
            T squared_error = 0;
            for (Index j = 0; j < s.n_out; j++) {
                const T residual = a[j] - y[j];
                squared_error += residual * residual;
                // δ = (a − y) ⊙ a(1 − a)
                delta[j] = s.sigmoid ? residual * (a[j] * (1 - a[j])) : residual;
            }
            squared_error_[i] = squared_error;
            correct_[i] = largest(a, s.n_out) == (hot ? hot - one_hot_[t] : largest(y, s.n_out));
            if (hot) *hot = 0;
            if (run_.norms) {
                V squares = {};
                for (Index j = 0; j < s.n_out; j += L)
                    squares += S::load(delta + j) * S::load(delta + j);
                S::store(s.delta_squares + i * L, squares);
            }
        }
    }

    void delta_back(const Step& step, Index l, Index t) {
        State<T>& s = state_[l];
        const State<T>& next = state_[l + 1];
        const Index first = begins(step.m, kShare, t), last = begins(step.m, kShare, t + 1);
        if (first == last) return;
        gemm<T, 1>({next.delta, next.ld, 1}, first, last, {next.weight, next.n_in, 1}, next.n_out,
                   next.n_in, workspaces_[t], norms(s.delta_squares),
                   [&](Index i, Index j, V delta) {
                       const V a = S::load(s.a + i * s.ld + j);
                       if (s.sigmoid) delta *= a * (1 - a);  // δ = (δ_next W) ⊙ a(1 − a)
                       S::store(s.delta + i * s.ld + j, delta);
                       return delta;
                   });
    }

    T* norms(T* squares) const { return run_.norms ? squares : nullptr; }

    // A function that descends Wᵀ[k, j … j + L) by g. It holds copies of what it reads: the
    // compiler then knows that they are constant.
    auto first_descent(const Step& step) const {
        const State<T>& s = state_[0];
        return [w_t = static_cast<T*>(s.weight_t), momentum_t = static_cast<T*>(s.momentum_t),
                ld = s.ld_t, descend = step.descend](Index k, Index j, V g) {
            const Index at = k * ld + j;
            S::store(w_t + at,
                     descend(S::load(w_t + at), g, momentum_t ? momentum_t + at : nullptr));
        };
    }

    // First layer, this thread's pixels: Wᵀ[k] descends by g = Σ_i x_ik δ_i. Here i runs over the
    // examples where x_ik is not 0.
    void update_first_sparse(const Step& step, Index t) {
        State<T>& s = state_[0];
        const Index first = begins(s.n_in, kPixels, t), last = begins(s.n_in, kPixels, t + 1);
        with_images([&](auto images) {
            auto row = [&](Index i) { return images + row_of(step.start + i) * s.n_in; };
            using Pixel = std::remove_const_t<std::remove_pointer_t<decltype(images)>>;
            nonzeros_.sort(row, step.m, first, last, t, T(run_.pixel_scale),
                           reinterpret_cast<Pixel*>(static_cast<T*>(workspaces_[t].square)));
        });
        const auto descend = first_descent(step);
        in_blocks(s.ld_t / L, step.m, [=, &s](auto block, auto in_pieces, Index v0) {
            const auto delta = columns<block>(s.delta, step.m, s.ld, v0, step.m, t);
            for (Index k0 = first; k0 < last; k0 += kPixels) {
                V squares = {};
                auto update = [=, &squares](Index k, typename Nonzeros<T>::List list) {
                    if (!list.count && !every_pixel_) return;
                    weighted_rows<T, block, 1, in_pieces>(
                        list.value, list.index, list.count, delta.first, delta.second,
                        [=, &squares](int v, V g) {
                            squares += g * g;
                            descend(k, (v0 + v) * L, g);
                        });
                };
                nonzeros_.each_pixel(first, k0, std::min(k0 + kPixels, last), t, update);
                put(s.weight_squares + k0 / kPixels * L, squares, v0);
            }
        });
    }

    void update_first_dense(const Step& step, Index t) {
        State<T>& s = state_[0];
        const Index pixels = pixels_[t];
        const Index first = begins(pixels, kShare, t), last = begins(pixels, kShare, t + 1);
        if (first == last) return;
        const auto descend = first_descent(step);
        gemm<T, kShare>({x_, 1, ld_x_}, first, last, {s.delta, s.ld, 1}, step.m, s.ld_t,
                        workspaces_[t], norms(s.weight_squares),
                        [=, pixel = static_cast<int32_t*>(pixel_[t])](Index i, Index j, V g) {
                            descend(pixel[i], j, g);
                            return g;
                        });
    }

    // Other layers, this thread's rows of W: g = δᵀ a_prev, used where it is made.
    void update_weight(const Step& step, Index l, Index t) {
        State<T>& s = state_[l];
        const Index first = begins(s.n_out, kShare, t), last = begins(s.n_out, kShare, t + 1);
        if (first == last) return;
        gemm<T, kShare>(
            {s.delta, 1, s.ld}, first, last, {state_[l - 1].a, state_[l - 1].ld, 1}, step.m, s.n_in,
            workspaces_[t], norms(s.weight_squares), [&](Index i, Index j, V g) {
                T* w = s.weight + i * s.n_in + j;
                T* momentum = s.weight_momentum ? s.weight_momentum + i * s.n_in + j : nullptr;
                const Index used = s.n_in - j;
                if (used >= L) {
                    S::store(w, step.descend(S::load(w), g, momentum));
                    return g;
                }
                // The row ends within the vector.
                alignas(kBytes) T w_end[L] = {}, momentum_end[L] = {};
                std::memcpy(w_end, w, used * sizeof(T));
                if (momentum) std::memcpy(momentum_end, momentum, used * sizeof(T));
                S::store(w_end, step.descend(S::load(w_end), g, momentum ? momentum_end : nullptr));
                std::memcpy(w, w_end, used * sizeof(T));
                if (momentum) std::memcpy(momentum, momentum_end, used * sizeof(T));
                return g;
            });
    }

    void update_bias(const Step& step, Index l, Index t, T* row) {
        if (!run_.layers[l].bias || t != l % threads_) return;
        State<T>& s = state_[l];
        V squares = {};
        for (Index j = 0; j < s.n_out; j += L) {
            V g = {};  // g = Σ_i δ_i
            for (Index i = 0; i < step.m;) {
                V sum = {};
                for (const Index end = std::min(step.m, i + kPiece); i < end; i++)
                    sum += S::load(s.delta + i * s.ld + j);
                g += sum;
            }
            T* momentum = run_.layers[l].bias_momentum ? s.bias_momentum + j : nullptr;
            S::store(s.bias + j, step.descend(S::load(s.bias + j), g, momentum));
            squares += g * g;
        }
        row[2 + 3 * l + 2] = S::sum(squares) * two_s_squared(step);
    }

    // The table's columns: Σ ‖a − y‖², correct examples, then by layer ‖δ‖², ‖∂C/∂W‖², ‖∂C/∂b‖².
    // The factor 2s comes back in here.
    void example_statistics(const Step& step, T* row) const {
        double squared_error = 0;
        Index correct = 0;
        for (Index i = 0; i < step.m; i++)
            squared_error += squared_error_[i], correct += correct_[i];
        row[0] = squared_error, row[1] = correct;
        for (Index l = 0; l < layers_ && run_.norms; l++)
            row[2 + 3 * l] = total(state_[l].delta_squares, step.m) * two_s_squared(step);
    }
    void weight_statistics(const Step& step, T* row) const {
        for (Index l = 0; l < layers_; l++) {
            const Index units =
                l || sparse_ ? state_[l].weight_units : round_up(pixels_[0], kShare) / kShare;
            row[2 + 3 * l + 1] = total(state_[l].weight_squares, units) * two_s_squared(step);
        }
    }
    static double two_s_squared(const Step& step) {
        return static_cast<double>(step.descend.two_s) * step.descend.two_s;
    }
    static double total(const T* vectors, Index count) {
        V sum = {};
        for (Index i = 0; i < count; i++) sum += S::load(vectors + i * L);
        return S::sum(sum);
    }
};

// Returns 0 when done, 1 when memory or threads ran out.
template <typename T>
static int train(const Run* run) {
    try {
        Training<T>(*run).train();
        return 0;
    } catch (const std::exception&) {
        return 1;
    }
}

extern "C" int train_float(const Run* run) { return train<float>(run); }
extern "C" int train_double(const Run* run) { return train<double>(run); }

// What native.py compares with its own structures before it calls anything else.
extern "C" void layout(Index found[3]) {
    found[0] = kLayout, found[1] = sizeof(Layer), found[2] = sizeof(Run);
}
