// The arithmetic of native.cpp on vectors: sigmoid, matrix product, weighted sum of rows. And its
// buffers and barrier.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <thread>
#include <type_traits>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <xmmintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int kBytes = 64, kRows = 12;  // 12 × 2 vectors of results fit into 32 registers
#elif defined(__AVX__)
constexpr int kBytes = 32, kRows = 6;  // 6 × 2 vectors fit into 16
#else
constexpr int kBytes = 16, kRows = 6;
#endif
constexpr int kShare = kRows / 3;  // threads divide rows in units of so many
// Vectors of a weighted sum of rows: so many additions do not wait for each other.
constexpr int kBlock = kBytes == 64 ? 4 : 8;
using Index = int64_t;
// Terms of a partial sum. In float, a plain sum of 60,000 terms would lose three digits.
constexpr Index kPiece = 1024;

template <typename T>
struct Simd {
    static constexpr int lanes = kBytes / sizeof(T);
    typedef T V __attribute__((vector_size(kBytes)));
    // The same at any address.
    typedef T U __attribute__((vector_size(kBytes), aligned(sizeof(T)), may_alias));
    static V load(const T* p) { return *reinterpret_cast<const U*>(p); }
    static void store(T* p, V v) { *reinterpret_cast<U*>(p) = v; }
    static double sum(V v) {
        double s = 0;
        for (int i = 0; i < lanes; i++) s += v[i];
        return s;
    }
};

static Simd<double>::V sigmoid(Simd<double>::V z) {
    for (int i = 0; i < Simd<double>::lanes; i++) z[i] = 1 / (1 + std::exp(-z[i]));
    return z;
}

// σ(z) = 1 / (1 + e^(−z)) with Cephes' expf: e^x = 2^n e^r, |r| ≤ ln 2 / 2, a polynomial for e^r.
static Simd<float>::V sigmoid(Simd<float>::V z) {
    using V = Simd<float>::V;
    typedef int32_t I __attribute__((vector_size(kBytes)));
    V x = -z;
    x = x > 87.f ? V{} + 87.f : x;  // a NaN compares false and stays
    x = x < -87.f ? V{} - 87.f : x;
    V n = (x * 1.44269504f + 12582912.f) - 12582912.f;  // x / ln 2, rounded to an integer
    V r = x - n * 0.693359375f + n * 2.12194440e-4f;
    V p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.f;
    I exponent = (__builtin_convertvector(n, I) + 127) << 23;
    return 1.f / (1.f + p * reinterpret_cast<V>(exponent));
}

// Where `count` threads meet. A waiting thread spins, then yields: a step is too short to sleep in.
class Barrier {
    const int count_;
    std::atomic<int> waiting_{0}, generation_{0};

public:
    explicit Barrier(int count) : count_(count) {}
    void wait() {
        if (count_ == 1) return;
        const int generation = generation_.load();
        if (waiting_.fetch_add(1) + 1 == count_) {
            waiting_.store(0);
            generation_.fetch_add(1);
            return;
        }
        for (int spins = 0; generation_.load() == generation; spins++)
            if (spins > 4000) std::this_thread::yield();
    }
};

// Takes numbers below the normal ones for 0, in the thread that holds it and as long as it lives.
// A processor computes with them a hundred times slower, and a network whose units are all
// saturated has hardly any others.
class FlushDenormals {
#if defined(__SSE2__)
    const unsigned before_ = _mm_getcsr();

public:
    FlushDenormals() { _mm_setcsr(before_ | 0x8040); }  // results, and operands
    ~FlushDenormals() { _mm_setcsr(before_); }
#elif defined(__aarch64__)
    uint64_t before_;

public:
    FlushDenormals() {
        asm volatile("mrs %0, fpcr" : "=r"(before_));
        asm volatile("msr fpcr, %0" : : "r"(before_ | uint64_t{1} << 24));
    }
    ~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(before_)); }
#else
public:
    FlushDenormals() {}  // a constructor: the object counts as used
#endif
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;
};

static Index round_up(Index n, Index to) { return (n + to - 1) / to * to; }

// Memory that begins on a cache line, used as the pointer that it holds.
template <typename T>
class Buffer {
    std::unique_ptr<void, decltype(&std::free)> memory_{nullptr, &std::free};

public:
    Buffer() = default;
    explicit Buffer(Index n, bool zero = false) {
        const size_t bytes = round_up(n * sizeof(T) + 64, 64);
        memory_.reset(std::aligned_alloc(64, bytes));  // a page takes memory when it is touched
        if (!memory_) throw std::bad_alloc();
        if (zero) std::memset(memory_.get(), 0, bytes);
    }
    operator T*() const { return static_cast<T*>(memory_.get()); }
};

// One thread's copies of what its products read.
template <typename T>
struct Workspace {
    Buffer<T> panel;    // (depth, kBlock lanes): a few columns of B
    Buffer<T> stripes;  // the rows of A
    Buffer<T> totals;   // (kRows, 2 lanes) of C

    Workspace(Index depth, Index elements_of_a)
        : panel(depth * kBlock * Simd<T>::lanes),
          stripes(elements_of_a),
          totals(kRows * 2 * Simd<T>::lanes) {}
};

// C[i … i + rows, j … j + 2 lanes) = A[i …] panel, with gemm's arguments. `a` points to A[i, 0].
// The sum over k runs in pieces: one in registers, the sum of those before it in `totals`.
template <typename T, int rows, typename Emit>
static void gemm_block(const T* a, Index a_row, Index a_k, const T* panel, T* totals, Index depth,
                       Index i, Index last, Index j, Index columns, Emit& emit) {
    using S = Simd<T>;
    for (Index done = 0; done < depth; done += kPiece) {
        typename S::V sums[rows][2] = {};
        for (Index k = std::min(kPiece, depth - done); k > 0;
             k--, a += a_k, panel += 2 * S::lanes) {
            const typename S::V left = S::load(panel), right = S::load(panel + S::lanes);
#pragma GCC unroll 12
            for (int r = 0; r < rows; r++) {
                sums[r][0] += a[r * a_row] * left;
                sums[r][1] += a[r * a_row] * right;
            }
        }
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < 2; v++) {
                T* total = totals + (2 * r + v) * S::lanes;
                if (done) sums[r][v] += S::load(total);
                if (done + kPiece < depth) S::store(total, sums[r][v]);
                else if (i + r < last && j + v * S::lanes < columns)
                    emit(i + r, j + v * S::lanes, sums[r][v]);
            }
    }
}

// stripe[k, r] = A[i + r, k], with `a` as in gemm_block.
template <typename T, int rows>
static void copy_stripe(const T* a, Index a_row, Index a_k, Index depth, T* stripe) {
    if (a_row == 1)
        for (Index k = 0; k < depth; k++)
            for (int r = 0; r < rows; r++) stripe[k * rows + r] = a[k * a_k + r];
    else
        for (int r = 0; r < rows; r++)
            for (Index k = 0; k < depth; k++) stripe[k * rows + r] = a[r * a_row + k * a_k];
}

// panel[k, c] = B[k, j + c], with B as in gemm; 0 from column `used` on.
template <typename T>
static void copy_panel(const T* b, Index b_k, Index b_column, Index depth, Index j, Index used,
                       T* panel) {
    using S = Simd<T>;
    constexpr Index width = 2 * S::lanes;
    if (b_column == 1 && used == width) {
        for (Index k = 0; k < depth; k++)
            for (int v = 0; v < 2; v++)
                S::store(panel + k * width + v * S::lanes, S::load(b + k * b_k + j + v * S::lanes));
        return;
    }
    if (used < width) std::memset(panel, 0, depth * width * sizeof(T));
    Index c = 0;
    for (; c + 4 <= used; c += 4) {  // four columns at a time lie together in the panel
        const T* b_c = b + (j + c) * b_column;
        for (Index k = 0; k < depth; k++)
            for (int v = 0; v < 4; v++) panel[k * width + c + v] = b_c[k * b_k + v * b_column];
    }
    for (; c < used; c++)
        for (Index k = 0; k < depth; k++) panel[k * width + c] = b[k * b_k + (j + c) * b_column];
}

// C = A B for rows [first, last) of C, with B of shape (depth, columns):
//
//   A[i, k] = a[i · a_row + k · a_k],  B[k, j] = b[k · b_k + j · b_column]
//
// `emit` is called with i, j and the vector C[i, j … j + lanes). Rows of A are read in units of
// kShare, so up to kShare − 1 beyond the last one.
//
// A panel of B, two vectors wide, is copied and stays in the cache. Where several panels pass over
// the rows of A, the rows are copied as stripes: elements of a column of A may lie on a page each.
template <typename T, typename Emit>
static void gemm(const T* a, Index a_row, Index a_k, Index first, Index last, const T* b, Index b_k,
                 Index b_column, Index depth, Index columns, Workspace<T>& work, Emit emit) {
    constexpr Index width = 2 * Simd<T>::lanes;
    const bool in_stripes = columns >= 4 * width;
    for (Index j = 0; j < columns; j += width) {
        copy_panel<T>(b, b_k, b_column, depth, j, std::min(width, columns - j), work.panel);
        T* stripe = work.stripes;
        auto block = [&](auto rows, Index i) {
            const T* a_i = a + i * a_row;
            if (in_stripes && j == 0) copy_stripe<T, rows>(a_i, a_row, a_k, depth, stripe);
            gemm_block<T, rows>(in_stripes ? stripe : a_i, in_stripes ? 1 : a_row,
                                in_stripes ? rows : a_k, work.panel, work.totals, depth, i, last, j,
                                columns, emit);
            stripe += rows * depth;
        };
        Index i = first;
        for (; last - i > 2 * kShare; i += kRows) block(std::integral_constant<int, kRows>(), i);
        if (last - i > kShare) block(std::integral_constant<int, 2 * kShare>(), i);
        else if (last > i) block(std::integral_constant<int, kShare>(), i);
    }
}

template <typename T, int N, int ways, typename Emit>
static void weighted_piece(const T* value, const int32_t* index, Index count, const T* rows,
                           Index stride, Emit emit) {
    using S = Simd<T>;
    typename S::V sums[ways][N] = {};
    Index e = 0;
    for (; e + ways <= count; e += ways)
        for (int w = 0; w < ways; w++) {
            const T* row = rows + index[e + w] * stride;
            for (int v = 0; v < N; v++) sums[w][v] += value[e + w] * S::load(row + v * S::lanes);
        }
    for (; e < count; e++)
        for (int v = 0; v < N; v++)
            sums[0][v] += value[e] * S::load(rows + index[e] * stride + v * S::lanes);
    for (int v = 0; v < N; v++) {
        for (int w = 1; w < ways; w++) sums[0][v] += sums[w][v];
        emit(v, sums[0][v]);
    }
}

// Σ_e value[e] · rows[index[e] · stride … + N vectors), and `emit(v, sum)` for each vector. `ways`
// sums run side by side: where vectors are few, each addition to one sum would wait for the last.
// More than kPiece terms are summed `in_pieces`.
template <typename T, int N, int ways, bool in_pieces, typename Emit>
static void weighted_rows(const T* value, const int32_t* index, Index count, const T* rows,
                          Index stride, Emit emit) {
    if constexpr (!in_pieces)
        return weighted_piece<T, N, ways>(value, index, count, rows, stride, emit);
    typename Simd<T>::V totals[N] = {};
    for (Index e = 0; e < count; e += kPiece)
        weighted_piece<T, N, ways>(value + e, index + e, std::min(kPiece, count - e), rows, stride,
                                   [&totals](int v, typename Simd<T>::V sum) { totals[v] += sum; });
    for (int v = 0; v < N; v++) emit(v, totals[v]);
}

// Calls f(std::integral_constant<int, N>, std::bool_constant<in_pieces>, first vector) for blocks
// that make up `vectors`: of N = kBlock, and a rest of 4, 2, 1. No sum has more than `longest`
// terms. Both are decided here, once: within the loops they would cost a fifth.
template <typename F>
static void in_blocks(Index vectors, Index longest, F f) {
    auto all = [=](auto in_pieces) {
        Index first = 0;
        for (; vectors - first >= kBlock; first += kBlock)
            f(std::integral_constant<int, kBlock>(), in_pieces, first);
        if (vectors - first >= 4) f(std::integral_constant<int, 4>(), in_pieces, first), first += 4;
        if (vectors - first >= 2) f(std::integral_constant<int, 2>(), in_pieces, first), first += 2;
        if (vectors - first >= 1) f(std::integral_constant<int, 1>(), in_pieces, first);
    };
    if (longest > kPiece) all(std::true_type());
    else all(std::false_type());
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

// Appends scale · p[k] and k for every p[k] that is not 0, k in [first, last). Returns how many
// there are now. Writes whole vectors, so up to a vector beyond the last.
template <typename Pixel, typename T>
static Index keep_nonzeros(const Pixel* p, Index first, Index last, T scale, T* value,
                           int32_t* index, Index count) {
    Index k = first;
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<Pixel, uint8_t> && std::is_same_v<T, float>) {
        const __m512i sixteen = _mm512_set1_epi32(16);
        __m512i position = _mm512_add_epi32(
            _mm512_set1_epi32(static_cast<int>(first)),
            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
        for (; k + 16 <= last; k += 16, position = _mm512_add_epi32(position, sixteen)) {
            const __m512i pixels =
                _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + k)));
            const __mmask16 some = _mm512_test_epi32_mask(pixels, pixels);
            const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(pixels), _mm512_set1_ps(scale));
            _mm512_storeu_ps(value + count, _mm512_maskz_compress_ps(some, scaled));
            _mm512_storeu_si512(index + count, _mm512_maskz_compress_epi32(some, position));
            count += __builtin_popcount(some);
        }
    }
#elif defined(__AVX2__)
    if constexpr (std::is_same_v<Pixel, uint8_t> && std::is_same_v<T, float>) {
        for (; k + 8 <= last; k += 8) {
            const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + k));
            const int some = 0xff & ~_mm_movemask_epi8(_mm_cmpeq_epi8(eight, _mm_setzero_si128()));
            const __m256i members =
                _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(kMembers.of[some])));
            const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight)),
                                                _mm256_set1_ps(scale));
            _mm256_storeu_ps(value + count, _mm256_permutevar8x32_ps(scaled, members));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(index + count),
                                _mm256_add_epi32(members, _mm256_set1_epi32(static_cast<int>(k))));
            count += __builtin_popcount(some);
        }
    }
#endif
    for (; k < last; k++) {
        value[count] = scale * T(p[k]);
        index[count] = static_cast<int32_t>(k);
        count += p[k] != 0;  // without a branch: the next number overwrites a zero
    }
    return count;
}
