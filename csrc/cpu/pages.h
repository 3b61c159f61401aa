// Advice to the kernel about large buffers that are about to be written for the first time.
#pragma once

#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "common/threads.h"

namespace dsc::cpu {

// Fresh memory is zeroed a page at a time on first touch; in pages of 2 MB that takes a fraction of what it takes in
// pages of 4 KB. Only the whole large pages inside the buffer are meant, so its neighbors are not concerned.
inline void in_large_pages(void* buffer, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr std::uintptr_t kPage = std::uintptr_t(1) << 21;
    const std::uintptr_t begin = round_up(reinterpret_cast<std::uintptr_t>(buffer), kPage);
    const std::uintptr_t end = (reinterpret_cast<std::uintptr_t>(buffer) + bytes) / kPage * kPage;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
    static_cast<void>(buffer), static_cast<void>(bytes);
#endif
}

}  // namespace dsc::cpu
