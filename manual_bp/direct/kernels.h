// What the loop is made of: vectors and their sigmoid, the barrier of its threads, its buffers.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
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
using Index = int64_t;

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

// Where `count` threads meet. A waiting thread spins for some microseconds, which is longer than
// most waits. Then it sleeps: on a busy machine the thread that it waits for may need its core.
class Barrier {
    static constexpr int kSpins = 4000;
    const int count_;
    std::atomic<int> waiting_{0}, generation_{0};
    std::mutex mutex_;
    std::condition_variable moved_on_;

public:
    explicit Barrier(int count) : count_(count) {}
    void wait() {
        if (count_ == 1) return;
        const int generation = generation_.load();
        if (waiting_.fetch_add(1) + 1 == count_) {
            waiting_.store(0);
            {
                const std::lock_guard<std::mutex> lock(mutex_);
                generation_.fetch_add(1);
            }
            moved_on_.notify_all();
            return;
        }
        for (int spins = 0; spins < kSpins; spins++)
            if (generation_.load() != generation) return;
        std::unique_lock<std::mutex> lock(mutex_);
        moved_on_.wait(lock, [&] { return generation_.load() != generation; });
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
