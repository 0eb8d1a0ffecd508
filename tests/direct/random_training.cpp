// Trains small random networks through native.cpp, with 1 and with more threads: for sanitizers.
//
// Every array has exactly the elements that Run and Layer promise, so one element too many is seen.
// `random_training SEED COUNT` exits with 1 where two numbers of threads give different bytes.
// The networks are drawn from SEED, SEED + 1, …: the last number printed makes its one again.

#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "state.h"

extern "C" int train_float(const Run* run);
extern "C" int train_double(const Run* run);

static std::mt19937 engine;

static Index one_of(const std::vector<Index>& choices) {
    return choices[engine() % choices.size()];
}
static bool often() { return engine() % 3 != 0; }

template <typename T>
static std::vector<T> numbers(Index n, double share_of_nonzeros = 1) {
    std::vector<T> found(n);
    for (T& x : found)
        if (engine() % 1000 < 1000 * share_of_nonzeros)
            x = std::is_integral_v<T> ? T(1 + engine() % 255) : T(engine() % 2001 / 1000.0 - 1);
    return found;
}

template <typename T>
struct Parameters {
    std::vector<T> weight, bias, weight_momentum, bias_momentum;
};

template <typename T>
struct Problem {
    std::vector<Index> sizes;
    std::vector<Parameters<T>> initial;
    std::vector<uint8_t> bytes;
    std::vector<T> images, targets;
    std::vector<Index> order, labels;
    std::vector<double> lrs;
    bool with_order, with_bytes, with_labels, sigmoids;
    Run run{};

    Problem(std::vector<Index> widths, Index batch, Index n) : sizes(std::move(widths)) {
        const bool momentum = often(), bias = often();
        const Index n_in = sizes.front(), n_out = sizes.back(), n_images = n + engine() % 3;
        with_order = often(), with_bytes = often(), sigmoids = often();
        with_labels = often();
        for (size_t l = 1; l < sizes.size(); l++) {
            const Index size = sizes[l] * sizes[l - 1];
            initial.push_back({numbers<T>(size), numbers<T>(bias ? sizes[l] : 0),
                               numbers<T>(momentum ? size : 0),
                               numbers<T>(momentum && bias ? sizes[l] : 0)});
        }
        const double share = one_of({0, 20, 100}) / 100.0;
        if (with_bytes) bytes = numbers<uint8_t>(n_images * n_in, share);
        else images = numbers<T>(n_images * n_in, share);
        if (!with_labels) targets = numbers<T>(n_images * n_out);
        for (Index i = 0; with_labels && i < n_images; i++) labels.push_back(engine() % n_out);
        for (Index i = 0; i < n; i++) order.push_back(engine() % n_images);
        const Index steps = (n + batch - 1) / batch;
        lrs.assign(steps, 0.01);
        run.n_layers = static_cast<Index>(initial.size());
        run.n = n, run.batch = batch, run.table_columns = 2 + 3 * run.n_layers;
        run.two_s = 1.0 / batch, run.two_s_last = 1.0 / (n - (steps - 1) * batch);
        run.momentum = momentum ? 0.5 : 0, run.weight_decay = often() ? 0 : 0.01;
        run.pixel_scale = with_bytes ? 1 / 255.0 : 1;
        run.images_are_uint8 = with_bytes, run.skip_zeros = often(), run.norms = often();
    }

    // Every number that a run with so many threads leaves.
    std::vector<T> trained(int threads) {
        std::vector<Parameters<T>> parameters = initial;
        std::vector<Layer> layers;
        for (size_t l = 0; l < parameters.size(); l++) {
            auto& [weight, bias, weight_momentum, bias_momentum] = parameters[l];
            auto address = [](std::vector<T>& v) -> void* {
                return v.empty() ? nullptr : v.data();
            };
            layers.push_back({weight.data(), address(bias), address(weight_momentum),
                              address(bias_momentum), sizes[l], sizes[l + 1],
                              sigmoids || l + 1 < parameters.size()});
        }
        std::vector<T> table(lrs.size() * run.table_columns);
        Run mine = run;
        mine.layers = layers.data(), mine.lrs = lrs.data();
        mine.targets = targets.data(), mine.labels = with_labels ? labels.data() : nullptr;
        mine.images = with_bytes ? static_cast<const void*>(bytes.data()) : images.data();
        mine.order = with_order ? order.data() : nullptr, mine.table = table.data();
        mine.threads = threads;
        if (sizeof(T) == 4 ? train_float(&mine) : train_double(&mine)) std::exit(2);
        std::vector<T> found = table;
        for (const auto& p : parameters)
            for (const auto* part : {&p.weight, &p.bias, &p.weight_momentum, &p.bias_momentum})
                found.insert(found.end(), part->begin(), part->end());
        return found;
    }
};

template <typename T>
static bool same(std::vector<Index> sizes, Index batch, Index n) {
    Problem<T> problem(std::move(sizes), batch, n);
    const int threads = static_cast<int>(one_of({2, 3, 5}));
    const std::vector<T> alone = problem.trained(1), shared = problem.trained(threads);
    if (alone.size() == shared.size() &&
        !std::memcmp(alone.data(), shared.data(), alone.size() * sizeof(T)))
        return true;
    std::printf("%d threads give other bytes than 1:", threads);
    for (Index size : problem.sizes) std::printf(" %lld", static_cast<long long>(size));
    std::printf(", batches of %lld\n", static_cast<long long>(batch));
    return false;
}

static bool both(const std::vector<Index>& sizes, Index batch, Index n) {
    return same<float>(sizes, batch, n) && same<double>(sizes, batch, n);
}

int main(int, char** arguments) {
    const int seed = std::atoi(arguments[1]), count = std::atoi(arguments[2]);
    std::setvbuf(stdout, nullptr, _IOLBF, 1 << 12);  // a sanitizer ends the process
    engine.seed(seed);
    // Sums of more than kPiece terms: over pixels, over examples, over hidden units.
    if (!both({1030, 5, 3}, 3, 7) || !both({20, 5, 3}, 1030, 1100) || !both({6, 1030, 3}, 5, 5) ||
        !both({1030, 130, 3}, 16, 20))
        return 1;
    for (int i = 0; i < count; i++) {
        std::printf("%d\n", seed + i);
        engine.seed(seed + i);
        std::vector<Index> sizes;
        for (Index layers = 1 + engine() % 4; layers >= 0; layers--)
            sizes.push_back(one_of({1, 2, 3, 5, 8, 10, 16, 17, 30, 33, 64, 70, 130}));
        const Index batch = one_of({1, 2, 3, 7, 10, 16, 33, 64, 130});
        const Index n = one_of({1, batch, 2 * batch, 3 * batch - 1, 2 * batch + 1});
        if (!both(sizes, std::min(batch, n), n)) return 1;
    }
    std::puts("all the same");
}
