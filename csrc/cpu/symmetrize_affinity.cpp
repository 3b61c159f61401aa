// W from rows of entries by two counting transposes and one merge; each unordered pair {i, j} is merged once.
//
//     entries ──split──> upper (j >= i), where they lie                  ┐ merged  ┌──copied───────> right part of row
//     i
//             └────────> lower (j < i), transposed: (j, i) joins row j   ┘ per row ┴──transposed──> left part of row j
//
// W is symmetric, so its part left of the diagonal is the transpose of the part right of it, and a row of W is the two
// parts one after the other: nothing is sorted but rows that came unsorted. Transposing goes by blocks of rows. A block
// sends each record to the block its column lies in, at a place of its own (a prefix sum over (receiver, sender) of
// counts); a block then counts and files what it got among its own rows, within the L2 cache. Both steps keep the order
// of the senders' rows, so the result is sorted, and the same for any number of threads.
//
// Floor: 8 + sizeof(T) bytes an entry read, and as many a place of W written. Touching fresh memory costs more than
// all else, so records lie where the rows they become will lie: in `upper`, then in W itself.
#include "symmetrize_affinity.h"

#include <algorithm>
#include <cmath>

#include "common/dtype.h"
#include "common/symmetrize_combine.h"
#include "common/threads.h"
#include "cpu/pages.h"

namespace dsc::cpu {

namespace {

constexpr int64_t kEntriesPerBlock = 2048;  // at least, on average
constexpr int64_t kManyBlocks = 128;        // enough to share out; more only to keep blocks below kWideBlock rows
constexpr int64_t kMostBlocks = 512;        // the streams that are written at a time
constexpr int64_t kWideBlock = 4096;        // rows whose open cache lines fit the L2 cache
constexpr int64_t kEntriesToShare = 16384;  // below, a second thread costs more than it does

// Entries (column, value), or on the way to another block records: the sender's row and the column's place in the
// receiving block as row << shift | place, and the value.
template <class T>
struct Records {
    int64_t* key;
    T* value;

    Records operator+(int64_t offset) const { return {key + offset, value + offset}; }
};

// The scratch, carved up. Of each row of entries `split` and `end` bound the parts left and right of the diagonal, in
// the input itself or, where the row was not strictly increasing, in a sorted and summed copy.
template <class T>
struct Scratch {
    int shift = 0;  // a block has 1 << shift rows
    int threads;
    int64_t n, entries, blocks, room, words = 0;
    int64_t *place, *received, *kept, *begin, *upper_begin, *split, *end, *cursor, *upper_end;
    bool* copied;
    Records<T> upper, copy, desk, overflow;

    Scratch(int64_t* base, Queue queue, int64_t n_, int64_t entries_) : n(n_), entries(entries_) {
        const int64_t wanted = std::clamp<int64_t>(entries / kEntriesPerBlock, 1, kManyBlocks);
        while ((n >> shift) >= wanted && !((int64_t(1) << shift) >= kWideBlock && (n >> shift) < kMostBlocks)) ++shift;
        blocks = (n >> shift) + 1;
        room = 4 * (entries / blocks) + 64;
        threads = entries < kEntriesToShare ? 1 : static_cast<int>(std::min<int64_t>(queue, blocks));
        take(base, place, blocks * blocks);
        take(base, received, blocks + 1);
        take(base, kept, blocks);
        take(base, begin, blocks);
        take(base, upper_begin, blocks);
        take(base, split, n);
        take(base, end, n);
        take(base, copied, n);
        take(base, cursor, n);
        take(base, upper_end, n);
        take(base, desk, room * threads);
        take(base, upper, entries);
        take(base, copy, entries);      // touched only as far as rows are copied,
        take(base, overflow, entries);  // and where a block gets several times its share
    }

    template <class P>
    void take(int64_t* base, P*& pointer, int64_t length) {
        pointer = reinterpret_cast<P*>(base + words);
        words += divide_up(length * int64_t(sizeof(P)), 8);
    }
    void take(int64_t* base, Records<T>& records, int64_t length) {
        take(base, records.key, length);
        take(base, records.value, length);
    }

    int64_t first(int64_t block) const { return std::min(block << shift, n); }
    int64_t local(int64_t key) const { return key & ((int64_t(1) << shift) - 1); }

    // Where a block files what it received: on its thread's desk, which stays in the cache, if there is room.
    Records<T> filed(int64_t block) const {
        return received[block + 1] - received[block] <= room ? desk + thread_number() * room
                                                             : overflow + received[block];
    }

    // Calls work(block, its first row, the row after its last, its row of `place`).
    template <class Work>
    void for_blocks(Work work) const {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (threads > 1)
        for (int64_t b = 0; b < blocks; ++b) work(b, first(b), first(b + 1), place + b * blocks);
    }

    // From counts in `place` (sender, receiver) and `kept`, how many entries a block keeps: `begin` becomes where the
    // receiver's entries begin, those it received before those it kept, `place` where each sender's first record goes,
    // `received` (blocks + 1) how many all before the receiver got. Returns the number of all entries.
    int64_t give_places() const {
        int64_t total = 0, sent = 0;
        for (int64_t to = 0; to < blocks; ++to) {
            received[to] = sent;
            begin[to] = total;
            for (int64_t from = 0; from < blocks; ++from) {
                const int64_t count = place[from * blocks + to];
                place[from * blocks + to] = total;
                total += count;
                sent += count;
            }
            total += kept[to];
        }
        received[blocks] = sent;
        return total;
    }
};

template <class T>
bool dropped(T value, T threshold) {
    return std::abs(value) <= threshold;  // false for NaN
}

// Sorts the row's kept entries by (column, entry), adds up those of one column, and returns the end of the copy.
template <class T>
int64_t copy_sorted(const T* values, const int64_t* column, int64_t begin, int64_t end, T threshold, int64_t* order,
                    int64_t* copied_column, T* copied_value) {
    int64_t kept = 0;
    for (int64_t e = begin; e < end; ++e) {
        if (column[e] >= 0 && !dropped(values[e], threshold)) order[begin + kept++] = e;
    }
    std::sort(order + begin, order + begin + kept,
              [&](int64_t a, int64_t b) { return column[a] != column[b] ? column[a] < column[b] : a < b; });
    int64_t to = begin - 1;
    for (int64_t at = 0; at < kept; ++at) {
        const int64_t e = order[begin + at];
        if (at == 0 || column[e] != copied_column[to]) {
            copied_column[++to] = column[e];
            copied_value[to] = 0;
        }
        copied_value[to] += std::abs(values[e]);
    }
    return to + 1;
}

// Rows first .. last of the input: checked, split, copied where they must be, their lower parts counted by block.
// False if a column lies outside.
template <class T>
bool split_rows(const Scratch<T>& s, int64_t first, int64_t last, const T* values, const int64_t* crow,
                const int64_t* column, T threshold, int64_t* count) {
    for (int64_t i = first; i < last; ++i) {
        const int64_t begin = crow[i], end = crow[i + 1];
        bool clean = true, inside = true;
        int64_t before = -1, split = begin;
        for (int64_t e = begin; e < end; ++e) {
            const int64_t j = column[e];
            clean &= j > before && !dropped(values[e], threshold);
            inside &= j < s.n;
            split += j < i;
            before = j;
        }
        if (!inside) return false;
        s.copied[i] = !clean;
        s.split[i] = split;
        s.end[i] = end;
        const int64_t* from = column;
        if (!clean) {
            from = s.copy.key;
            s.end[i] = copy_sorted(values, column, begin, end, threshold, s.upper.key, s.copy.key, s.copy.value);
            s.split[i] = std::lower_bound(from + begin, from + s.end[i], i) - from;
        }
        for (int64_t e = begin; e < s.split[i]; ++e) ++count[from[e] >> s.shift];
    }
    return true;
}

template <class T>
void send_lower(const Scratch<T>& s, int64_t first, int64_t last, const T* values, const int64_t* crow,
                const int64_t* column, int64_t* place) {
    for (int64_t i = first; i < last; ++i) {
        const int64_t* from = s.copied[i] ? s.copy.key : column;
        const T* value = s.copied[i] ? s.copy.value : values;
        for (int64_t e = crow[i]; e < s.split[i]; ++e) {
            const int64_t to = place[from[e] >> s.shift]++;
            s.upper.key[to] = i << s.shift | s.local(from[e]);
            s.upper.value[to] = std::abs(value[e]);
        }
    }
}

// Files the records a block received by row, each as (sender's row, value), in the order they came. cursor[i] becomes
// where row i's end.
template <class T>
void file(const Scratch<T>& s, int64_t first, int64_t last, Records<T> from, int64_t count, Records<T> to) {
    int64_t* cursor = s.cursor + first;
    std::fill(cursor, s.cursor + last, 0);
    for (int64_t r = 0; r < count; ++r) ++cursor[s.local(from.key[r])];
    int64_t begin = 0;
    for (int64_t i = 0; i < last - first; ++i) {
        const int64_t mine = cursor[i];
        cursor[i] = begin;
        begin += mine;
    }
    for (int64_t r = 0; r < count; ++r) {
        const int64_t at = cursor[s.local(from.key[r])]++;
        to.key[at] = from.key[r] >> s.shift;
        to.value[at] = from.value[r];
    }
}

// Rows first .. last of W from the diagonal on; what will be mirrored is counted by block.
template <Reduce reduce, class T>
void merge_rows(const Scratch<T>& s, int64_t first, int64_t last, Records<T> received, int64_t to, const T* values,
                const int64_t* column, int64_t* count) {
    int64_t q = 0;
    for (int64_t i = first; i < last; ++i) {
        const int64_t* from = s.copied[i] ? s.copy.key : column;
        const T* value = s.copied[i] ? s.copy.value : values;
        int64_t p = s.split[i];
        const int64_t p_end = s.end[i], q_end = s.cursor[i];
        if (p < p_end && from[p] == i) {
            const T own = std::abs(value[p++]);
            s.upper.key[to] = i;
            s.upper.value[to++] = combine<reduce>(own, own);
        }
        while (p < p_end || q < q_end) {
            // No branch on which side is next or done: it would be guessed wrong every second time. What lies at 0 is
            // read, and not used, where a side is done.
            const int64_t at = p < p_end ? p : 0, there = q < q_end ? q : 0;
            const int64_t own_column = p < p_end ? from[at] : s.n, other_column = q < q_end ? received.key[there] : s.n;
            const bool own = own_column <= other_column, other = other_column <= own_column;
            const int64_t j = own ? own_column : other_column;
            s.upper.key[to] = j;
            s.upper.value[to++] =
                combine<reduce>(if_taken(own, std::abs(value[at])), if_taken(other, received.value[there]));
            ++count[j >> s.shift];
            p += own;
            q += other;
        }
        s.upper_end[i] = to;
    }
}

}  // namespace

int64_t symmetrize_scratch(DType dtype, Queue queue, int64_t n, int64_t entries) {
    return with_computed_type(dtype,
                              [&](auto zero) { return Scratch<decltype(zero)>(nullptr, queue, n, entries).words; });
}

Status symmetrize_count(DType dtype, Queue queue, int64_t n, int64_t entries, const void* values_, const int64_t* crow,
                        const int64_t* column, double threshold, Reduce reduce, int64_t* scratch, int64_t* out_crow) {
    return with_real_type(dtype, [&](auto zero) -> Status {
        using T = decltype(zero);
        const T* values = static_cast<const T*>(values_);
        const Scratch<T> s(scratch, queue, n, entries);
        in_large_pages(scratch, s.words * 8);

        bool inside = true;
        s.for_blocks([&](int64_t b, int64_t first, int64_t last, int64_t* count) {
            std::fill_n(count, s.blocks, 0);
            if (!split_rows(s, first, last, values, crow, column, static_cast<T>(threshold), count)) {
#pragma omp atomic write
                inside = false;
                return;
            }
            s.kept[b] = 0;
            for (int64_t i = first; i < last; ++i) s.kept[b] += s.end[i] - s.split[i];
        });
        if (!inside) return {kIndexOutOfRange, "indices must be below N, the number of rows"};

        s.give_places();
        s.for_blocks([&](int64_t, int64_t first, int64_t last, int64_t* place) {
            send_lower(s, first, last, values, crow, column, place);
        });
        with_reduce(reduce, [&](auto how) {
            s.for_blocks([&](int64_t b, int64_t first, int64_t last, int64_t* count) {
                const Records<T> filed = s.filed(b);
                file(s, first, last, s.upper + s.begin[b], s.received[b + 1] - s.received[b], filed);
                std::fill_n(count, s.blocks, 0);
                merge_rows<how.value>(s, first, last, filed, s.begin[b], values, column, count);
            });
            return Status{};
        });
        for (int64_t b = 0; b < s.blocks; ++b) {
            s.upper_begin[b] = s.begin[b];
            s.kept[b] = s.first(b) < n ? s.upper_end[s.first(b + 1) - 1] - s.begin[b] : 0;
        }
        out_crow[n] = s.give_places();
        return {};
    });
}

Status symmetrize_fill(DType dtype, Queue queue, int64_t n, int64_t entries, const void*, Reduce, int64_t* scratch,
                       int64_t* out_crow, int64_t* out_column, void* out_values) {
    return with_real_type(dtype, [&](auto zero) -> Status {
        using T = decltype(zero);
        const Scratch<T> s(scratch, queue, n, entries);
        const Records<T> W = {out_column, static_cast<T*>(out_values)};
        in_large_pages(W.key, out_crow[n] * int64_t(sizeof(int64_t)));
        in_large_pages(W.value, out_crow[n] * int64_t(sizeof(T)));
        s.for_blocks([&](int64_t b, int64_t first, int64_t last, int64_t* place) {
            int64_t u = s.upper_begin[b];
            for (int64_t i = first; i < last; ++i) {
                if (u < s.upper_end[i] && s.upper.key[u] == i) ++u;  // the diagonal is its own mirror image
                for (; u < s.upper_end[i]; ++u) {
                    const int64_t j = s.upper.key[u], to = place[j >> s.shift]++;
                    W.key[to] = i << s.shift | s.local(j);
                    W.value[to] = s.upper.value[u];
                }
            }
        });
        s.for_blocks([&](int64_t b, int64_t first, int64_t last, int64_t*) {
            const Records<T> filed = s.filed(b);
            file(s, first, last, W + s.begin[b], s.received[b + 1] - s.received[b], filed);
            int64_t to = s.begin[b], left = 0, u = s.upper_begin[b];
            for (int64_t i = first; i < last; ++i) {
                out_crow[i] = to;
                for (; left < s.cursor[i]; ++left, ++to) {
                    W.key[to] = filed.key[left];
                    W.value[to] = filed.value[left];
                }
                for (; u < s.upper_end[i]; ++u, ++to) {
                    W.key[to] = s.upper.key[u];
                    W.value[to] = s.upper.value[u];
                }
            }
        });
        return {};
    });
}

Status symmetrize_places(DType dtype, Queue queue, int64_t n, const void* values_, const int64_t* crow,
                         const int64_t* column, double threshold, const int64_t* out_crow, const int64_t* out_column,
                         int64_t* position, int64_t* mirror, void* A_) {
    return with_real_type(dtype, [&](auto zero) -> Status {
        using T = decltype(zero);
        const T* values = static_cast<const T*>(values_);
        T* A = static_cast<T*>(A_);
        const int threads = crow[n] < kEntriesToShare ? 1 : static_cast<int>(queue);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64) if (threads > 1)
        for (int64_t i = 0; i < n; ++i) {
            const int64_t *begin = out_column + out_crow[i], *end = out_column + out_crow[i + 1], *at = begin;
            std::fill(A + out_crow[i], A + out_crow[i + 1], T(0));
            for (int64_t e = crow[i]; e < crow[i + 1]; ++e) {
                position[e] = out_crow[n];
                if (column[e] < 0 || dropped(values[e], static_cast<T>(threshold))) continue;
                // In a sorted row the next one is further on.
                at = std::lower_bound(at < end && *at <= column[e] ? at : begin, end, column[e]);
                position[e] = at - out_column;
                A[position[e]] += std::abs(values[e]);
            }
            for (at = std::lower_bound(begin, end, i); at < end; ++at) {  // the row of the smaller index does both
                const int64_t image =
                    std::lower_bound(out_column + out_crow[*at], out_column + out_crow[*at + 1], i) - out_column;
                mirror[at - out_column] = image;
                mirror[image] = at - out_column;
            }
        }
        return {};
    });
}

}  // namespace dsc::cpu
