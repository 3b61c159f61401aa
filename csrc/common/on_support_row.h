// One row's self-expression, once the Gram matrix of its atoms is there: the same steps on every backend.
//
// Atoms enter one at a time, as in a Cholesky factorization with pivots. V = L⁻¹ G_A: for the active atoms A, G_AA +
// λ2 I = L Lᵀ being their Gram matrix; V has a column for every atom and one, the last, for the target. Row p of V
// comes from row A_p of G and the rows of V above it, and what it takes away from the diagonal, the correlations with
// the residual and the squared residual is all that the next choice needs. Lᵀ is V at the columns A.
//
//   ridge        every atom enters, in order
//   elastic net  homotopy in λ1 (Osborne et al. 2000; Efron et al. 2004, least angle regression with the lasso's
//                drops; on G + λ2 I it is the elastic net, Zou & Hastie 2005). On the path c = u − λ w, u and w of the
//                active set alone, so that no error is carried along from one event to the next
//   pursuit      the atom of the largest correlation with the residual enters (Pati et al. 1993; You et al., CVPR 2016)
//
// An atom that its predecessors span up to rounding does not enter (`rounding`): with it L would be noise.
//
// A Team is who works on a row: one thread, or the lanes of a warp. It has
//   lane(), lanes()  the columns lane(), lane() + lanes(), … are this thread's
//   sync()           what was written before is seen by all after
//   any(bool)        whether it is true for one of them
//   first(Event)     the greatest of their events, the same for all
//   gram(i, j)       of atoms i and j, m being the target
//   eliminate(row, j, shift, scale)
//                    this thread's columns c of the next row of V: scale · (G[j, c] + shift [c = j] − Σ V[p, j] V[p,
//                    c])
//   root(x)
//
// Everything here has internal linkage: it is compiled for several instruction sets and for the GPU.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace dsc {
namespace {

template <class T>
struct Event {
    T value;
    int which;

    DSC_TEAM bool before(const Event& other) const {
        return value > other.value || (value == other.value && which < other.which);
    }
};

enum AtomState : int32_t { kFree, kActive, kSpanned };

// How many arrays of m + 1 numbers, and how many of m integers, a row of m atoms has besides V.
constexpr int kNumberArrays = 9, kIntegerArrays = 2;

template <class T>
struct SupportRow {
    int m;            // atoms
    int64_t ld;       // row stride of V, at least m + 1
    T shift;          // λ2, added to the diagonal
    T rounding;       // an atom whose share of itself left is below this is spanned by the active ones
    T* V;             // (m, ld)
    T* left;          // (m + 1) of the diagonal of G + λ2 I
    T* residual;      // (m + 1) correlations of the atoms with the residual of A's least squares; its square last
    T* slope;         // (m + 1) what λ1 adds to them: G_jA w
    T* lean;          // (m) by place in A, as all that follow: L⁻¹ sign
    T* scale;         // (m) 1 / the diagonal of L
    T* sign;          // (m)
    T* u;             // (m) (G_AA + λ2 I)⁻¹ g_A
    T* w;             // (m) (G_AA + λ2 I)⁻¹ sign
    T* c;             // (m) the result, by atom
    int32_t* active;  // (m) A
    int32_t* state;   // (m) by atom
    int n = 0;        // atoms in A

    DSC_TEAM SupportRow(int m_, int64_t ld_, T rounding_, T* V_, T* vectors, int32_t* lists)
        : m(m_), ld(ld_), shift(0), rounding(rounding_), V(V_) {
        const int64_t step = m + 1;
        left = vectors;
        residual = left + step;
        slope = residual + step;
        lean = slope + step;
        scale = lean + step;
        sign = scale + step;
        u = sign + step;
        w = u + step;
        c = w + step;
        active = lists;
        state = lists + m;
    }
};

// Keeps the first `count` of A and brings what depends on A up to date.
template <class T, class Team>
DSC_TEAM void restart(SupportRow<T>& row, const Team& team, int count) {
    team.sync();  // nobody reads any more what changes now
    for (int c = team.lane(); c <= row.m; c += team.lanes()) {
        T left = team.gram(c, c) + (c < row.m ? row.shift : T(0)), residual = team.gram(c, row.m), slope = 0;
        for (int p = 0; p < count; ++p) {
            const T* v = row.V + p * row.ld;
            left -= v[c] * v[c];
            residual -= v[row.m] * v[c];
            slope += row.lean[p] * v[c];
        }
        row.left[c] = left;
        row.residual[c] = residual;
        row.slope[c] = slope;
    }
    row.n = count;
    team.sync();
}

// False, and no coefficient, if a squared norm is not finite: then all of them are NaN.
template <class T, class Team>
DSC_TEAM bool begin(SupportRow<T>& row, const Team& team, T shift) {
    bool infinite = false;
    for (int c = team.lane(); c <= row.m; c += team.lanes()) {
        const T square = team.gram(c, c), rest = square - square;
        infinite |= !(rest == T(0));
        if (c < row.m) {
            row.state[c] = kFree;
            row.c[c] = T(0);
        }
    }
    row.shift = shift;
    if (team.any(infinite)) {
        for (int c = team.lane(); c < row.m; c += team.lanes()) row.c[c] = T(0) / T(row.n);  // 0 / 0
        team.sync();
        return false;
    }
    restart(row, team, 0);
    return true;
}

template <class T, class Team>
DSC_TEAM bool append(SupportRow<T>& row, const Team& team, int j, T sign) {
    const T left = row.left[j];
    if (!(left > row.rounding * (team.gram(j, j) + row.shift))) {
        if (j % team.lanes() == team.lane()) row.state[j] = kSpanned;
        return false;
    }
    const T scale = T(1) / team.root(left), y = row.residual[j] * scale, lean = (sign - row.slope[j]) * scale;
    team.sync();  // everyone has read what changes now
    team.eliminate(row, j, row.shift, scale);
    const T* v = row.V + row.n * row.ld;
    for (int c = team.lane(); c <= row.m; c += team.lanes()) {
        row.left[c] -= v[c] * v[c];
        row.residual[c] -= y * v[c];
        row.slope[c] += lean * v[c];
    }
    if (j % team.lanes() == team.lane()) row.state[j] = kActive;
    if (team.lane() == 0) {
        row.active[row.n] = j;
        row.sign[row.n] = sign;
        row.lean[row.n] = lean;
        row.scale[row.n] = scale;
    }
    ++row.n;
    team.sync();
    return true;
}

// u and w from L⁻¹ g_A, the last column of V, and lean.
template <class T, class Team>
DSC_TEAM void solve(SupportRow<T>& row, const Team& team) {
    for (int p = team.lane(); p < row.n; p += team.lanes()) {
        row.u[p] = row.V[p * row.ld + row.m];
        row.w[p] = row.lean[p];
    }
    for (int q = row.n - 1; q > 0; --q) {
        team.sync();  // u and w at q are complete
        const T u = row.u[q] * row.scale[q], w = row.w[q] * row.scale[q];
        const T* column = row.V + row.active[q];
        for (int p = team.lane(); p < q; p += team.lanes()) {
            const T factor = column[p * row.ld];
            row.u[p] -= factor * u;
            row.w[p] -= factor * w;
        }
    }
    team.sync();
    for (int p = team.lane(); p < row.n; p += team.lanes()) {
        row.u[p] *= row.scale[p];
        row.w[p] *= row.scale[p];
    }
}

// c = u − level · w
template <class T, class Team>
DSC_TEAM void finish(SupportRow<T>& row, const Team& team, T level) {
    for (int p = team.lane(); p < row.n; p += team.lanes()) row.c[row.active[p]] = row.u[p] - level * row.w[p];
    team.sync();
}

// λ, or what rounding leaves of a smaller one.
template <class T, class Team>
DSC_TEAM T ridge_shift(const SupportRow<T>& row, const Team& team, T lam) {
    Event<T> greatest = {T(0), 0};
    for (int c = team.lane(); c < row.m; c += team.lanes()) {
        const Event<T> square = {team.gram(c, c), 0};
        if (square.before(greatest)) greatest = square;
    }
    const T least = row.rounding * team.first(greatest).value;
    return lam > least ? lam : least;
}

template <class T, class Team>
DSC_TEAM void ridge(SupportRow<T>& row, const Team& team, T lam) {
    if (!begin(row, team, ridge_shift(row, team, lam))) return;
    for (int j = 0; j < row.m; ++j) append(row, team, j, T(0));
    solve(row, team);
    finish(row, team, T(0));
}

// Where the correlation of inactive atom j meets ±λ, as λ falls; negative if never. An atom that has just left with
// one sign is at that end already, on its way inside.
template <class T>
DSC_TEAM T meeting(const SupportRow<T>& row, int j, T gone_sign, T& sign) {
    const T residual = row.residual[j], slope = row.slope[j];
    const T above = T(1) - slope > T(0) && !(gone_sign > T(0)) ? residual / (T(1) - slope) : T(-1);
    const T below = T(1) + slope > T(0) && !(gone_sign < T(0)) ? -residual / (T(1) + slope) : T(-1);
    sign = above >= below ? T(1) : T(-1);
    return above >= below ? above : below;
}

constexpr int kEventsPerAtom = 50;  // a bound, should rounding make atoms join and leave in a circle

template <class T, class Team>
DSC_TEAM void elastic_net(SupportRow<T>& row, const Team& team, T l1, T l2) {
    if (!begin(row, team, l2)) return;
    T level = T(-1), gone_sign = T(0);  // no level yet: all of the path lies below
    int gone = -1;
    for (int64_t event = int64_t(kEventsPerAtom) * (row.m + 1); event >= 0; --event) {
        solve(row, team);
        Event<T> next = {T(-1), 2 * row.m};
        const auto offer = [&](T value, int which) {
            const Event<T> offered = {level >= T(0) && value > level ? level : value, which};
            if (offered.before(next)) next = offered;
        };
        T sign = 0;
        for (int q = team.lane(); q < row.n; q += team.lanes()) {
            if (row.sign[q] * row.w[q] < T(0)) offer(row.u[q] / row.w[q], q);
        }
        for (int j = team.lane(); j < row.m; j += team.lanes()) {
            if (row.state[j] == kFree) offer(meeting(row, j, j == gone ? gone_sign : T(0), sign), row.m + j);
        }
        next = team.first(next);
        if (!(next.value > l1) || event == 0) {
            finish(row, team, next.value > l1 ? level : l1);
            return;
        }
        level = next.value;
        if (next.which < row.m) {
            const int q = next.which, before = row.n;
            gone = row.active[q];
            gone_sign = row.sign[q];
            for (int j = team.lane(); j < row.m; j += team.lanes()) {
                if (row.state[j] == kSpanned || j == gone) row.state[j] = kFree;
            }
            restart(row, team, q);
            for (int p = q + 1; p < before; ++p) append(row, team, int(row.active[p]), row.sign[p]);
        } else {
            const int j = next.which - row.m;
            meeting(row, j, j == gone ? gone_sign : T(0), sign);
            if (append(row, team, j, sign)) gone = -1;
        }
    }
}

template <class T, class Team>
DSC_TEAM void pursuit(SupportRow<T>& row, const Team& team, int64_t most, T tolerance) {
    if (!begin(row, team, T(0))) return;
    const T enough = (tolerance > row.rounding ? tolerance : row.rounding) * team.gram(row.m, row.m);
    while (row.n < most && row.residual[row.m] > enough) {
        Event<T> next = {T(0), row.m};
        for (int j = team.lane(); j < row.m; j += team.lanes()) {
            const Event<T> offered = {row.residual[j] < T(0) ? -row.residual[j] : row.residual[j], j};
            if (row.state[j] == kFree && offered.before(next)) next = offered;
        }
        next = team.first(next);
        if (next.which == row.m) break;
        append(row, team, next.which, T(0));
    }
    solve(row, team);
    finish(row, team, T(0));
}

}  // namespace
}  // namespace dsc
