// Ẑ and its gradients from k coefficients a row, on the CPU.
//
// Each row of the batch gathers the rows of the bank that its k entries name: k · d numbers read for d written, at the
// rate the caches give them. The transposed product files the entries by target first (a stable counting sort), so that
// it gathers too and no sum is shared between threads.
#include "sparse_self_expression.h"

#include <algorithm>

#include "common/dtype.h"
#include "common/threads.h"
#include "cpu/simd.h"
#include "cpu/sparse_support.h"

namespace dsc::cpu {

Status sparse_self_expression(DType dtype, DType bank, Queue queue, const void* values, int64_t values_stride,
                              const int64_t* indices, int64_t indices_stride, int64_t n, int64_t row_offset, int64_t k,
                              const void* M, int64_t M_stride, int64_t N, int64_t d, const int64_t* rows, int64_t B,
                              const void* Z, int64_t Z_stride, int32_t* slot, bool zero_diagonal, void* out) {
    const Support support = {indices, indices_stride, n, row_offset, k, rows, B, zero_diagonal};
    if (!rows_within(support)) return {kIndexOutOfRange, kRowsBeyond};
    if (!known_bank(dtype, bank)) return unsupported_dtype();
    const Splice splice = splice_rows(rows, B, slot);
    return with_real_type(dtype, [&](auto zero) -> Status {
        using T = decltype(zero);
        const SplicedBank<T> from = {M, M_stride, N, d, static_cast<const T*>(Z), Z_stride, splice};
        const auto combine = combine_for<T>(bank);
        const bool within = for_each_batch_row(B, B * k * d, queue, [&](int64_t b) {
            return combine(from, static_cast<const T*>(values) + local_row(support, b) * values_stride,
                           entries_of(support, b), static_cast<T*>(out) + b * d);
        });
        return within ? Status{} : Status{kIndexOutOfRange, kIndicesBeyond};
    });
}

Status sparse_self_expression_grad(DType dtype, DType bank, Queue queue, const int64_t* indices, int64_t indices_stride,
                                   int64_t n, int64_t row_offset, int64_t k, const void* M, int64_t M_stride, int64_t N,
                                   int64_t d, const int64_t* rows, int64_t B, const void* Z, int64_t Z_stride,
                                   int32_t* slot, bool zero_diagonal, const void* G, int64_t G_stride, void* grad) {
    const Support support = {indices, indices_stride, n, row_offset, k, rows, B, zero_diagonal};
    if (!rows_within(support)) return {kIndexOutOfRange, kRowsBeyond};
    if (!known_bank(dtype, bank)) return unsupported_dtype();
    const Splice splice = splice_rows(rows, B, slot);
    return with_real_type(dtype, [&](auto zero) -> Status {
        using T = decltype(zero);
        const SplicedBank<T> from = {M, M_stride, N, d, static_cast<const T*>(Z), Z_stride, splice};
        const auto dots = dots_for<T>(bank);
        const bool within = for_each_batch_row(B, B * k * d, queue, [&](int64_t b) {
            return dots(from, static_cast<const T*>(G) + b * G_stride, entries_of(support, b),
                        static_cast<T*>(grad) + b * k);
        });
        return within ? Status{} : Status{kIndexOutOfRange, kIndicesBeyond};
    });
}

Status sparse_self_expression_keys(Queue queue, const int64_t* indices, int64_t indices_stride, int64_t n,
                                   int64_t row_offset, int64_t k, int64_t N, const int64_t* rows, int64_t B,
                                   int32_t* slot, bool zero_diagonal, bool bank_targets, bool live_targets,
                                   int64_t targets, int32_t* keys) {
    const Support support = {indices, indices_stride, n, row_offset, k, rows, B, zero_diagonal};
    if (!rows_within(support)) return {kIndexOutOfRange, kRowsBeyond};
    const Splice splice = splice_rows(rows, B, slot);
    const int64_t first_live = bank_targets ? N : 0;
    const bool within = for_each_batch_row(B, B * k, queue, [&](int64_t b) {
        const SparseRow row = entries_of(support, b);
        bool row_within = true;
        for (int64_t s = 0; s < k; ++s) {
            const int64_t j = row.indices[s];
            int64_t key = targets;
            if (j >= 0 && j < N && j != row.own) {
                const int64_t live = live_row(splice, j);
                if (live < 0 ? bank_targets : live_targets) key = live < 0 ? j : first_live + live;
            }
            row_within &= j < N;
            keys[b * k + s] = static_cast<int32_t>(key);
        }
        return row_within;
    });
    return within ? Status{} : Status{kIndexOutOfRange, kIndicesBeyond};
}

bool sparse_self_expression_wants_order() { return false; }

namespace {

constexpr int64_t kPiece = 512;  // entries of a target that are summed at a time

// An entry as it is filed under its target.
template <class T>
struct Filed {
    T value;
    int32_t b;
};

// How many parts the entries are cut into for counting: enough for the threads, unless counts would outnumber entries.
int64_t counting_parts(Queue queue, int64_t entries, int64_t targets) {
    return std::clamp<int64_t>(entries / (targets + 1), 1, queue);
}

// The scratch of the transposed product, one piece after the other.
template <class T>
struct Workspace {
    Filed<T>* filed;  // (entries)
    int64_t* offset;  // (targets + 1) where each target's entries begin
    int64_t* cursor;  // (parts, targets)
    T* partial;       // (pieces of one target, d)
    int64_t parts, bytes;

    Workspace(void* scratch, Queue queue, int64_t entries, int64_t targets, int64_t d)
        : parts(counting_parts(queue, entries, targets)), bytes(0) {
        auto* base = static_cast<unsigned char*>(scratch);
        const auto take = [&](int64_t size) {
            unsigned char* begin = base + bytes;
            bytes += round_up(size, 64);
            return begin;
        };
        filed = reinterpret_cast<Filed<T>*>(take(entries * static_cast<int64_t>(sizeof(Filed<T>))));
        offset = reinterpret_cast<int64_t*>(take((targets + 1) * 8));
        cursor = reinterpret_cast<int64_t*>(take(parts * targets * 8));
        partial = reinterpret_cast<T*>(take((entries / kPiece + 1) * d * static_cast<int64_t>(sizeof(T))));
    }
};

template <class T>
void file_entries(const Workspace<T>& w, const int32_t* keys, int64_t targets, const T* values, int64_t values_stride,
                  int64_t row_offset, int64_t k, const int64_t* rows, int64_t B, int threads) {
    const auto first_row = [&](int64_t part) { return B * part / w.parts; };
    std::fill_n(w.cursor, w.parts * targets, 0);
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (w.parts > 1)
    for (int64_t part = 0; part < w.parts; ++part) {
        int64_t* count = w.cursor + part * targets;
        for (int64_t e = first_row(part) * k; e < first_row(part + 1) * k; ++e) {
            if (keys[e] < targets) ++count[keys[e]];
        }
    }
    int64_t filed = 0;
    for (int64_t t = 0; t < targets; ++t) {
        w.offset[t] = filed;
        for (int64_t part = 0; part < w.parts; ++part) {
            const int64_t count = w.cursor[part * targets + t];
            w.cursor[part * targets + t] = filed;
            filed += count;
        }
    }
    w.offset[targets] = filed;
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (w.parts > 1)
    for (int64_t part = 0; part < w.parts; ++part) {
        int64_t* cursor = w.cursor + part * targets;
        for (int64_t b = first_row(part); b < first_row(part + 1); ++b) {
            const T* row = values + (rows ? rows[b] - row_offset : b) * values_stride;
            for (int64_t s = 0; s < k; ++s) {
                const int64_t later = std::min(b * k + s + kAhead, B * k - 1);
                if (keys[later] < targets) __builtin_prefetch(w.filed + cursor[keys[later]], 1, 2);
                const int32_t key = keys[b * k + s];
                if (key < targets) w.filed[cursor[key]++] = {row[s], static_cast<int32_t>(b)};
            }
        }
    }
}

// Filed entries as the gather wants them, a piece at a time.
template <class T>
struct Unpacked {
    T values[kPiece];
    int64_t indices[kPiece + kAhead];

    // What follows the piece is known too, so that it can be fetched ahead.
    void take(const Filed<T>* filed, int64_t count, int64_t available) {
        for (int64_t i = 0; i < count; ++i) {
            values[i] = filed[i].value;
            indices[i] = filed[i].b;
        }
        for (int64_t i = count; i < count + kAhead; ++i) indices[i] = i < available ? filed[i].b : 0;
    }
    SparseRow run(int64_t begin, int64_t count) const {
        return {indices + begin, indices + begin + std::max(count, kAhead), count, -1};
    }
};

template <class T>
void sum_targets(const Workspace<T>& w, int64_t targets, const SplicedBank<T>& G, T* out, int threads) {
    const auto combine = simd_of<T>().gather.combine;
    constexpr int64_t kTargets = 64;
#pragma omp parallel num_threads(threads) if (threads > 1 && w.offset[targets] * G.d > kWorthThreads)
    {
        Unpacked<T> unpacked;
#pragma omp for schedule(dynamic, 1)
        for (int64_t turn = 0; turn < divide_up(targets, kTargets); ++turn) {
            const int64_t end = std::min((turn + 1) * kTargets, targets);
            for (int64_t t = turn * kTargets; t < end;) {
                // As many whole targets as fit; one that does not fit by itself is summed in pieces below.
                int64_t last = t;
                while (last < end && w.offset[last + 1] - w.offset[t] <= kPiece) ++last;
                unpacked.take(w.filed + w.offset[t], w.offset[last] - w.offset[t], w.offset[targets] - w.offset[t]);
                for (int64_t i = t; i < last; ++i) {
                    const int64_t begin = w.offset[i], count = w.offset[i + 1] - begin;
                    combine(G, unpacked.values + (begin - w.offset[t]), unpacked.run(begin - w.offset[t], count),
                            out + i * G.d);
                }
                t = last < end && w.offset[last + 1] - w.offset[last] > kPiece ? last + 1 : last;
            }
        }
        for (int64_t t = 0; t < targets; ++t) {  // hubs, each by all threads
            const int64_t begin = w.offset[t], count = w.offset[t + 1] - begin;
            if (count <= kPiece) continue;
            const int64_t pieces = divide_up(count, kPiece);
#pragma omp for schedule(dynamic, 1)
            for (int64_t p = 0; p < pieces; ++p) {
                const int64_t length = std::min(kPiece, count - p * kPiece);
                unpacked.take(w.filed + begin + p * kPiece, length, length);
                combine(G, unpacked.values, unpacked.run(0, length), w.partial + p * G.d);
            }
#pragma omp single
            for (int64_t c = 0; c < G.d; ++c) {
                T sum = w.partial[c];
                for (int64_t p = 1; p < pieces; ++p) sum += w.partial[p * G.d + c];
                out[t * G.d + c] = sum;
            }
        }
    }
}

}  // namespace

int64_t sparse_self_expression_transposed_scratch(DType dtype, Queue queue, int64_t entries, int64_t targets,
                                                  int64_t d) {
    return with_computed_type(
        dtype, [&](auto zero) { return Workspace<decltype(zero)>(nullptr, queue, entries, targets, d).bytes; });
}

Status sparse_self_expression_transposed(DType dtype, Queue queue, const int32_t* keys, const int64_t*, int64_t targets,
                                         const void* values, int64_t values_stride, int64_t row_offset, int64_t k,
                                         const int64_t* rows, int64_t B, const void* G, int64_t G_stride, int64_t d,
                                         void* scratch, void* out) {
    return with_real_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        const Workspace<T> workspace(scratch, queue, B * k, targets, d);
        const int threads = static_cast<int>(queue);
        file_entries(workspace, keys, targets, static_cast<const T*>(values), values_stride, row_offset, k, rows, B,
                     threads);
        sum_targets(workspace, targets, SplicedBank<T>{G, G_stride, B, d}, static_cast<T*>(out), threads);
        return Status{};
    });
}

}  // namespace dsc::cpu
