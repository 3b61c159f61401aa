// thrC by selection: only as much of a row is sorted as the threshold needs.
#include "threshold_coefficients.h"

#include <algorithm>
#include <cmath>

#include "common/dtype.h"
#include "common/threads.h"

namespace dsc::cpu {

namespace {

struct Candidate {
    double magnitude;
    int64_t column;

    // Largest first, ties to the lowest column: a total order, so the selection is unique.
    bool operator<(const Candidate& other) const {
        return magnitude != other.magnitude ? magnitude > other.magnitude : column < other.column;
    }
};

template <class T>
void threshold_row(const T* row, int64_t m, double rho, Candidate* candidates, T* out) {
    double total = 0.0;
    for (int64_t j = 0; j < m; ++j) {
        candidates[j] = {std::abs(static_cast<double>(row[j])), j};
        total += candidates[j].magnitude;
    }
    if (!std::isfinite(total)) {
        std::copy_n(row, m, out);
        return;
    }
    std::fill_n(out, m, T(0));
    const double target = rho * total;
    double before = 0.0;
    // The kept set is usually a few dozen entries: select a chunk, order it, and go on only while the target is not
    // passed.
    for (int64_t begin = 0, chunk = 64; begin < m; begin += chunk, chunk *= 4) {
        const int64_t end = std::min(begin + chunk, m);
        if (end < m) std::nth_element(candidates + begin, candidates + end, candidates + m);
        std::sort(candidates + begin, candidates + end);
        for (int64_t i = begin; i < end; ++i) {
            if (before > target || candidates[i].magnitude == 0.0) return;
            out[candidates[i].column] = row[candidates[i].column];
            before += candidates[i].magnitude;
        }
    }
}

template <class T>
void run(const T* C, int64_t C_stride, int64_t n, int64_t m, double rho, Candidate* scratch, T* out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 8) if (threads > 1)
    for (int64_t i = 0; i < n; ++i) {
        threshold_row(C + i * C_stride, m, rho, scratch + thread_number() * m, out + i * m);
    }
}

}  // namespace

int64_t threshold_coefficients_scratch(int64_t m, Queue queue) {
    return static_cast<int64_t>(sizeof(Candidate)) * m * queue;
}

Status threshold_coefficients(DType dtype, Queue queue, const void* C, int64_t C_stride, int64_t n, int64_t m,
                              double rho, void* scratch, void* out) {
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        run(static_cast<const T*>(C), C_stride, n, m, rho, static_cast<Candidate*>(scratch), static_cast<T*>(out),
            static_cast<int>(queue));
        return Status{};
    });
}

}  // namespace dsc::cpu
