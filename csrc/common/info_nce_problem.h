// What a kernel of InfoNCE is asked, but for the bank, which each backend reads in its own way.
#pragma once

#include <cstdint>

namespace dsc {

template <class T>
struct InfoNceProblem {
    const T* anchor;
    int64_t anchor_stride;
    const T* positive;
    int64_t positive_stride;
    int64_t B, N, d;
    const int64_t* rows;
    const int64_t* mask;
    int64_t q;
    double temperature;
    T* loss;
    T* expected;

    InfoNceProblem(const void* anchor_, int64_t anchor_stride_, const void* positive_, int64_t positive_stride_,
                   int64_t B_, int64_t N_, int64_t d_, const int64_t* rows_, const int64_t* mask_, int64_t q_,
                   double temperature_, void* loss_, void* expected_)
        : anchor(static_cast<const T*>(anchor_)),
          anchor_stride(anchor_stride_),
          positive(static_cast<const T*>(positive_)),
          positive_stride(positive_stride_),
          B(B_),
          N(N_),
          d(d_),
          rows(rows_),
          mask(mask_),
          q(q_),
          temperature(temperature_),
          loss(static_cast<T*>(loss_)),
          expected(static_cast<T*>(expected_)) {}
};

}  // namespace dsc
