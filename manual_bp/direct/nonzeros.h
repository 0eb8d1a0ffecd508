// The non-zero inputs of a batch: listed by example for the forward pass, and by pixel for the
// first layer's gradient.
#pragma once

#include <utility>
#include <vector>

#include "kernels.h"

// Where thread t's share of n things begins. A share is made of whole units.
static Index share(Index n, Index unit, Index t, Index threads) {
    return std::min(n, round_up(n, unit) / unit * t / threads * unit);
}

template <typename T>
class Nonzeros {
    Index n_in_ = 0, threads_ = 0;
    Buffer<T> value_, column_value_;   // listed by example, and by pixel
    Buffer<int32_t> pixel_, example_;  // the other index of each
    // (batch, threads + 1): where an example's list begins, for each thread's range of pixels.
    std::vector<Index> row_begin_;
    std::vector<Index> column_end_;  // (n_in): where a pixel's list ends, counted from its range
    Index batch_ = 0;

public:
    static constexpr Index kPixels = 16;  // threads divide pixels in units of so many

    struct List {
        const T* value;
        const int32_t* index;
        Index count;
    };

    Nonzeros() = default;
    Nonzeros(Index batch, Index n_in, Index threads)
        : n_in_(n_in), threads_(threads), batch_(batch) {
        value_ = Buffer<T>(begin(batch));
        pixel_ = Buffer<int32_t>(begin(batch));
        column_value_ = Buffer<T>(batch * n_in);
        example_ = Buffer<int32_t>(batch * n_in);
        row_begin_.resize(batch * (threads + 1));
        column_end_.resize(n_in);
    }

    Index first_pixel(Index t) const { return share(n_in_, kPixels, t, threads_); }

    // Where a thread's lists begin if `first` is its first example. keep_nonzeros writes whole
    // vectors: kPixels an example keep the last one out of the next thread's lists.
    Index begin(Index first) const { return first * (n_in_ + kPixels); }

    // Lists example i from e on; returns where the next example's list begins.
    template <typename Pixel>
    Index read(Index i, const Pixel* p, T scale, Index e) {
        Index* begin = &row_begin_[i * (threads_ + 1)];
        *begin++ = e;
        for (Index t = 0; t < threads_; t++)
            *begin++ = e = keep_nonzeros<Pixel, T>(p, first_pixel(t), first_pixel(t + 1), scale,
                                                   value_, pixel_, e);
        return e;
    }

    List of_example(Index i) const {
        const Index *begin = &row_begin_[i * (threads_ + 1)], e = *begin;
        return {value_ + e, pixel_ + e, begin[threads_] - e};
    }

    // Lists thread t's range of the first m examples by pixel: count, add up, distribute.
    void sort(Index m, Index t) {
        const Index first = first_pixel(t), last = first_pixel(t + 1);
        T* value = column_value_ + batch_ * first;
        int32_t* example = example_ + batch_ * first;
        Index* end = column_end_.data();
        const int32_t* pixel = pixel_;
        const T* by_row = value_;
        auto each = [=](auto f) {
            for (Index i = 0; i < m; i++) {
                const Index* begin = &row_begin_[i * (threads_ + 1) + t];
                for (Index e = begin[0], stop = begin[1]; e < stop; e++) f(i, e);
            }
        };
        std::fill(end + first, end + last, 0);
        each([=](Index, Index e) { end[pixel[e]]++; });
        for (Index k = first, sum = 0; k < last; k++) sum += std::exchange(end[k], sum);
        each([=](Index i, Index e) {
            const Index to = end[pixel[e]]++;
            value[to] = by_row[e], example[to] = static_cast<int32_t>(i);
        });
    }

    // f(k, list) for each pixel k of thread t's range, after sort.
    template <typename F>
    void each_pixel(Index t, F f) const {
        const Index first = first_pixel(t), last = first_pixel(t + 1);
        const T* value = column_value_ + batch_ * first;
        const int32_t* example = example_ + batch_ * first;
        const Index* end = column_end_.data();
        for (Index k = first, e = 0; k < last; e = end[k++])
            f(k, List{value + e, example + e, end[k] - e});
    }
};
