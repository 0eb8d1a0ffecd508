// The non-zero inputs of a batch: listed by example for the forward pass, and by pixel for the
// first layer's gradient.
#pragma once

#include <type_traits>
#include <vector>

#include "kernels.h"

constexpr Index kPixels = 16;  // threads divide pixels in units of so many

// Where thread t's share of n things begins. A share is made of whole units.
static Index share(Index n, Index unit, Index t, Index threads) {
    return std::min(n, round_up(n, unit) / unit * t / threads * unit);
}

#if defined(__AVX2__) && !defined(__AVX512F__)
// For each set of numbers 0 … 7, as the bits of a byte: its numbers in order, a byte each.
struct Members {
    uint64_t of[256];
    constexpr Members() : of() {
        for (int set = 0; set < 256; set++)
            for (uint64_t i = 0, shift = 0; i < 8; i++)
                if (set >> i & 1) of[set] |= i << shift, shift += 8;
    }
};
static constexpr Members kMembers;
#endif

// Appends scale · p[k], and k unless `index` is null, for every k < n where chosen[k] is not 0.
// Returns how many there are now. Writes whole vectors, so up to a vector beyond the last.
template <typename Pixel, typename Chosen, typename T>
static Index keep(const Pixel* p, const Chosen* chosen, Index n, T scale, T* value, int32_t* index,
                  Index count) {
    Index k = 0;
    constexpr bool vectors = std::is_same_v<Pixel, uint8_t> && std::is_same_v<Chosen, uint8_t> &&
                             std::is_same_v<T, float>;
#if defined(__AVX512F__)
    if constexpr (vectors) {
        const __m512i sixteen = _mm512_set1_epi32(16);
        __m512i position =
            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        for (; k + 16 <= n; k += 16, position = _mm512_add_epi32(position, sixteen)) {
            const __m512i pixels =
                _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + k)));
            const __m128i choice = _mm_loadu_si128(reinterpret_cast<const __m128i*>(chosen + k));
            const __m512i wide = _mm512_cvtepu8_epi32(choice);
            const __mmask16 some = _mm512_test_epi32_mask(wide, wide);
            const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(pixels), _mm512_set1_ps(scale));
            _mm512_storeu_ps(value + count, _mm512_maskz_compress_ps(some, scaled));
            if (index)
                _mm512_storeu_si512(index + count, _mm512_maskz_compress_epi32(some, position));
            count += __builtin_popcount(some);
        }
    }
#elif defined(__AVX2__)
    if constexpr (vectors) {
        for (; k + 8 <= n; k += 8) {
            const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + k));
            const __m128i choice = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(chosen + k));
            const int some = 0xff & ~_mm_movemask_epi8(_mm_cmpeq_epi8(choice, _mm_setzero_si128()));
            const __m256i members =
                _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(kMembers.of[some])));
            const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight)),
                                                _mm256_set1_ps(scale));
            _mm256_storeu_ps(value + count, _mm256_permutevar8x32_ps(scaled, members));
            if (index)
                _mm256_storeu_si256(
                    reinterpret_cast<__m256i*>(index + count),
                    _mm256_add_epi32(members, _mm256_set1_epi32(static_cast<int>(k))));
            count += __builtin_popcount(some);
        }
    }
#endif
    for (; k < n; k++) {
        value[count] = scale * T(p[k]);
        if (index) index[count] = static_cast<int32_t>(k);
        count += chosen[k] != 0;  // without a branch: the next number overwrites this one
    }
    return count;
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define MANUAL_BP_SHUFFLES
#endif
#endif

// to[k, i] = row(i)[k] for i < m ≤ 16 and k < n ≤ 16, and 0 for other i. Rows of `to` are ld apart.
template <typename Pixel, typename Row>
static void transpose_square(Row row, Index m, Index n, Pixel* to, Index ld) {
#if defined(MANUAL_BP_SHUFFLES)
    if constexpr (sizeof(Pixel) == 1) {
        // Interleaving the upper and the lower half of the rows, four times, moves every bit of a
        // row's number into the column's.
        typedef uint8_t Bytes __attribute__((vector_size(16)));
        Bytes x[16] = {}, y[16];
        for (Index i = 0; i < m; i++) std::memcpy(&x[i], row(i), n);
        for (int round = 0; round < 4; round++) {
            for (int i = 0; i < 8; i++) {
                y[2 * i] = __builtin_shufflevector(x[i], x[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4,
                                                   20, 5, 21, 6, 22, 7, 23);
                y[2 * i + 1] = __builtin_shufflevector(x[i], x[i + 8], 8, 24, 9, 25, 10, 26, 11, 27,
                                                       12, 28, 13, 29, 14, 30, 15, 31);
            }
            std::memcpy(x, y, sizeof(x));
        }
        for (Index k = 0; k < n; k++) std::memcpy(to + k * ld, &x[k], 16);
        return;
    }
#endif
    for (Index k = 0; k < n; k++) std::fill(to + k * ld, to + k * ld + 16, Pixel{});
    for (Index i = 0; i < m; i++) {
        const Pixel* p = row(i);
        for (Index k = 0; k < n; k++) to[k * ld + i] = p[k];
    }
}

template <typename T>
class Nonzeros {
    Index n_in_ = 0, batch_ = 0;
    Buffer<T> value_, column_value_;   // listed by example, and by pixel
    Buffer<int32_t> pixel_, example_;  // the other index of each
    std::vector<Index> row_end_;       // (batch): where an example's list ends
    std::vector<Index> column_end_;    // (n_in): where a pixel's list ends, counted from its range

public:
    struct List {
        const T* value;
        const int32_t* index;
        Index count;
    };

    Nonzeros() = default;
    Nonzeros(Index batch, Index n_in, Index threads) : n_in_(n_in), batch_(batch) {
        value_ = Buffer<T>(begin(batch));
        pixel_ = Buffer<int32_t>(begin(batch));
        const Index columns = column_begin(n_in, threads);
        column_value_ = Buffer<T>(columns);
        example_ = Buffer<int32_t>(columns);
        row_end_.resize(batch);
        column_end_.resize(n_in);
    }

    // Where a thread's lists begin if `first` is its first example, or pixel. `keep` writes whole
    // vectors: the slack keeps the last one out of the next thread's lists.
    Index begin(Index first) const { return first * (n_in_ + kPixels); }
    Index column_begin(Index first, Index t) const { return first * batch_ + t * kPixels; }

    // Lists example i from e on; returns where the list ends.
    template <typename Pixel>
    Index read(Index i, const Pixel* p, T scale, Index e) {
        return row_end_[i] = keep(p, p, n_in_, scale, value_ + 0, pixel_ + 0, e);
    }

    // f(i, list) for examples first … last, the share of one thread.
    template <typename F>
    void each_example(Index first, Index last, F f) const {
        for (Index i = first, e = begin(first); i < last; e = row_end_[i++])
            f(i, List{value_ + e, pixel_ + e, row_end_[i] - e});
    }

    // Lists pixels [first, last) by pixel, of the examples row(0) … row(m − 1). This is thread t's
    // share. `square` has room for (kPixels, m rounded up to 16) pixels.
    template <typename Pixel, typename Row>
    void sort(Row row, Index m, Index first, Index last, Index t, T scale, Pixel* square) {
        T* value = column_value_ + column_begin(first, t);
        int32_t* example = example_ + column_begin(first, t);
        const Index ld = round_up(m, 16);
        Index e = 0;
        for (Index k = first; k < last; k += kPixels) {
            const Index n = std::min(kPixels, last - k);
            for (Index i = 0; i < m; i += 16)
                transpose_square([&](Index j) { return row(i + j) + k; },
                                 std::min(m - i, Index{16}), n, square + i, ld);
            for (Index j = 0; j < n; j++) {
                const Pixel* column = square + j * ld;
                column_end_[k + j] = e = keep(column, column, ld, scale, value, example, e);
            }
        }
    }

    // f(k, list) for pixels [first, last), after sort of a range [start, …) that holds them.
    template <typename F>
    void each_pixel(Index start, Index first, Index last, Index t, F f) const {
        const T* value = column_value_ + column_begin(start, t);
        const int32_t* example = example_ + column_begin(start, t);
        for (Index k = first, e = k == start ? 0 : column_end_[k - 1]; k < last;
             e = column_end_[k++])
            f(k, List{value + e, example + e, column_end_[k] - e});
    }
};
