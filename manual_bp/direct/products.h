// Products of the loop on vectors: of two matrices, and of a list of numbers with rows.
#pragma once

#include <type_traits>

#include "kernels.h"

constexpr int kBlock = 8;  // vectors of a weighted sum of rows: additions that do not wait
// Terms of a partial sum. In float, a plain sum of 60,000 terms would lose three digits.
constexpr Index kPiece = 1024;

// M[r, c] = p[r · row + c · column], or p[of[r] · row + c · column].
template <typename T>
struct Matrix {
    const T* p;
    Index row, column;
    const int32_t* of = nullptr;
};

// One thread's copies of what its products read.
template <typename T>
struct Workspace {
    Buffer<T> panel;    // (depth, kBlock lanes): a few columns of B
    Buffer<T> stripes;  // the rows of A
    Buffer<T> totals;   // (kRows, 2 lanes) of C
    Buffer<T> square;   // a few columns of the images

    Workspace(Index depth, Index elements_of_a, Index elements_of_square)
        : panel(depth * kBlock * Simd<T>::lanes),
          stripes(elements_of_a),
          totals(kRows * 2 * Simd<T>::lanes),
          square(elements_of_square) {}
};

// Puts v there, or adds v to what is there.
template <typename T>
static void put(T* to, typename Simd<T>::V v, bool add) {
    Simd<T>::store(to, add ? v + Simd<T>::load(to) : v);
}

// C[i … i + rows, j … j + 2 lanes) = A[i …] B, with gemm's arguments. a.p points to A[i, 0], and
// b.p to two vectors of B's row 0. B is a panel, or the rows b.of. The sum over k runs in pieces:
// one in registers, the sum of those before it in `totals`.
template <typename T, int unit, int rows, bool panel, typename Emit>
static void gemm_block(Matrix<T> a, Index i, Index last, Matrix<T> b, Index j, Index depth,
                       Index columns, T* totals, T* squares, Emit& emit) {
    using S = Simd<T>;
    for (Index done = 0; done == 0 || done < depth; done += kPiece) {  // once where depth is 0
        typename S::V sums[rows][2] = {};
        for (Index k = done, end = std::min(depth, done + kPiece); k < end; k++, a.p += a.column) {
            const T* row = b.p + (panel ? k * 2 * S::lanes : b.of[k] * b.row);
            const typename S::V left = S::load(row), right = S::load(row + S::lanes);
#pragma GCC unroll 12
            for (int r = 0; r < rows; r++) {
                sums[r][0] += a.p[r * a.row] * left;
                sums[r][1] += a.p[r * a.row] * right;
            }
        }
        const bool whole = done + kPiece >= depth;
        typename S::V square = {};
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            for (int v = 0; v < 2; v++) {
                T* total = totals + (2 * r + v) * S::lanes;
                if (done) sums[r][v] += S::load(total);
                if (!whole) S::store(total, sums[r][v]);
                else if (i + r < last && j + v * S::lanes < columns) {
                    const typename S::V result = emit(i + r, j + v * S::lanes, sums[r][v]);
                    square += result * result;
                }
            }
            if ((r + 1) % unit) continue;
            const Index first = i + r + 1 - unit;
            if (squares && whole && first < last)
                put(squares + first / unit * S::lanes, square, j != 0);
            square = typename S::V{};
        }
    }
}

// stripe[k, r] = A[i + r, k], with A as in gemm_block.
template <typename T, int rows>
static void copy_stripe(Matrix<T> a, Index depth, T* stripe) {
    if (a.row == 1)
        for (Index k = 0; k < depth; k++)
            for (int r = 0; r < rows; r++) stripe[k * rows + r] = a.p[k * a.column + r];
    else
        for (int r = 0; r < rows; r++)
            for (Index k = 0; k < depth; k++)
                stripe[k * rows + r] = a.p[r * a.row + k * a.column];
}

// panel[k, c] = B[k, j + c]; 0 from column `used` on.
template <typename T>
static void copy_panel(Matrix<T> b, Index depth, Index j, Index used, T* panel) {
    using S = Simd<T>;
    constexpr Index width = 2 * S::lanes;
    auto row = [&](Index k) { return b.p + (b.of ? b.of[k] : k) * b.row + j * b.column; };
    if (b.column == 1 && used % S::lanes == 0) {
        const bool both = used == width;
        for (Index k = 0; k < depth; k++) {
            const typename S::V right = both ? S::load(row(k) + S::lanes) : typename S::V{};
            S::store(panel + k * width, S::load(row(k)));
            S::store(panel + k * width + S::lanes, right);
        }
        return;
    }
    if (used < width) std::memset(panel, 0, depth * width * sizeof(T));
    Index c = 0;
    for (; c + 4 <= used; c += 4)  // four columns at a time lie together in the panel
        for (Index k = 0; k < depth; k++)
            for (int v = 0; v < 4; v++) panel[k * width + c + v] = row(k)[(c + v) * b.column];
    for (; c < used; c++)
        for (Index k = 0; k < depth; k++) panel[k * width + c] = row(k)[c * b.column];
}

// C = A B for rows [first, last) of C, with B of shape (depth, columns).
//
// `emit` is called with i, j and the vector C[i, j … j + lanes). The squares of what it returns are
// summed: squares[u], a vector, for rows u · unit … (u + 1) · unit. `first` is a multiple of
// `unit`. Rows of A are read in units of kShare, so up to kShare − 1 beyond the last one.
//
// A panel of B, two vectors wide, is copied and stays in the cache. Where several panels pass over
// the rows of A, the rows are copied as stripes: elements of a column of A may lie on a page each.
// A few rows of A take the listed rows of B from where they are, up to a vector beyond the last.
template <typename T, int unit, typename Emit>
static void gemm(Matrix<T> a, Index first, Index last, Matrix<T> b, Index depth, Index columns,
                 Workspace<T>& work, T* squares, Emit emit) {
    constexpr Index width = 2 * Simd<T>::lanes;
    const bool in_place = b.of && last - first <= 2 * kRows;
    const bool in_stripes = !in_place && columns >= 4 * width;
    const Matrix<T> panel{work.panel, width, 1};
    for (Index j = 0; j < columns; j += width) {
        if (!in_place) copy_panel<T>(b, depth, j, std::min(width, columns - j), work.panel);
        T* stripe = work.stripes;
        auto block = [&](auto rows, Index i) {
            Matrix<T> a_i{a.p + i * a.row, a.row, a.column};
            if (in_stripes && j == 0) copy_stripe<T, rows>(a_i, depth, stripe);
            if (in_stripes) a_i = {stripe, 1, rows};
            auto run = [&](auto is_panel, Matrix<T> b_j) {
                gemm_block<T, unit, rows, is_panel>(a_i, i, last, b_j, j, depth, columns,
                                                    work.totals, squares, emit);
            };
            if (in_place) run(std::false_type(), {b.p + j, b.row, 1, b.of});
            else run(std::true_type(), panel);
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
