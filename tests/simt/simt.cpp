// The engine under simt.h: fibers, the order they run in, and the rules a kernel is held to.
//
// One OS thread runs the whole grid, block after block. A thread of a block is a fiber with its own stack; it runs
// until it blocks (barrier, warp collective) or ends, then hands over to the next fiber that is ready. If none is ready
// and not all have ended, the block is deadlocked, and the launch reports who waits where. Compiled without sanitizers
// (SIMT_ASAN and SIMT_TSAN only switch on their fiber interfaces), so that the engine's own bookkeeping is never
// mistaken for the kernel's accesses.
#include "simt.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#ifndef __x86_64__
#include <ucontext.h>
#endif

// ---- sanitizers' fiber interfaces
// ----------------------------------------------------------------------------------------------
#ifdef SIMT_ASAN
extern "C" {
void __sanitizer_start_switch_fiber(void** fake_stack_save, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* fake_stack_save, const void** bottom_old, size_t* size_old);
void __asan_unpoison_memory_region(const volatile void* address, size_t size);
void __asan_loadN(const void* address, size_t size);
void __asan_storeN(void* address, size_t size);
}
#endif
#ifdef SIMT_TSAN
// __tsan_java_alloc forgets all earlier accesses to a range, __tsan_java_free all synchronization through it: what a
// new block needs of memory that the block before it used, because the two are not ordered with each other.
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void __tsan_read_range(const void* address, size_t size);
void __tsan_write_range(void* address, size_t size);
void __tsan_java_init(uintptr_t heap_begin, uintptr_t heap_size);
void __tsan_java_alloc(uintptr_t address, uintptr_t size);
void __tsan_java_free(uintptr_t address, uintptr_t size);
}
#define ACQUIRE(object) __tsan_acquire(object)
#define RELEASE(object) __tsan_release(object)
#else
#define ACQUIRE(object) static_cast<void>(object)
#define RELEASE(object) static_cast<void>(object)
#endif

// The bytes of every static __shared__ variable, gathered by shared.ld.
extern "C" __attribute__((visibility("hidden"), weak)) unsigned char simt_shared_begin[], simt_shared_end[];

namespace simt {

Coordinates coordinates;

namespace {

constexpr int kMaxThreads = 1024;
constexpr size_t kMaxShared = 227 * 1024;
constexpr size_t kStack = 256 * 1024, kGuard = 4096;
constexpr unsigned char kPoison = 0xCD;

enum class State { ready, barrier, syncwarp, shuffle, ballot, mma_tf32, mma_f64, ldmatrix, done };
const char* const kNames[] = {"ready",    "__syncthreads", "__syncwarp", "a shuffle", "a vote",
                              "mma tf32", "mma f64",       "ldmatrix",   "done"};

struct Copy {
    void* to;
    const void* from;
    int bytes, valid, group;

    void perform() const {
        if (valid) std::memcpy(to, from, valid);
        std::memset(static_cast<char*>(to) + valid, 0, bytes - valid);
    }
};

template <class T>
struct Fragments {  // of one lane
    T* acc;
    const T *a, *b;
};
struct RowAddresses {
    const void* mine;
    const void** read;
};

struct Fiber {
#ifdef __x86_64__
    void* stack_pointer = nullptr;
#else
    ucontext_t context;
#endif
    const void* stack_bottom = nullptr;
    size_t stack_size = 0;
    void* asan_stack = nullptr;
    void* tsan_fiber = nullptr;

    uint3 index{};
    int id = 0;
    State state = State::done;
    Site site{};
    unsigned mask = 0;  // of the warp collective it waits in
    uint64_t word = 0;  // what it brings to the collective, then what it takes away; or where its operands are
    int source_lane = 0;
    std::vector<Copy> copies;  // cp.async not yet waited for
    int copy_group = 0;
};

// Threads of one warp that meet in one collective, filed under the lowest lane of their mask. `sync` alternates by
// generation: with a single object an early fiber's acquire would also see the next generation's releases, a false
// happens-before.
struct Meeting {
    unsigned mask = 0, arrived = 0;
    State kind = State::ready;
    uint64_t generation = 0;
    uint64_t sync[2];
};

enum class Order { forward, reversed, shuffled };

struct Engine {
    std::mutex one_launch;
    Order order = Order::forward;
    std::string taken_out_file;
    int taken_out_line = 0;
    std::mt19937_64 random;

    Fiber host, fibers[kMaxThreads];
    Fiber *current = &host, *previous = nullptr;
    unsigned char* stacks = nullptr;
    int threads = 0, ended = 0;

    Fiber* queue[kMaxThreads];  // ready fibers, a ring
    int head = 0, queued = 0;

    int arrived = 0, predicates = 0, predicate_count = 0;  // the block barrier
    Site barrier_site{};
    uint64_t generation = 0;
    uint64_t barrier_sync[2], begin_sync, end_sync, fence_sync;
    Meeting meetings[kMaxThreads];
    unsigned live_lanes[kMaxThreads / kWarp];  // per warp: lanes that exist and have not exited

    // Consecutive blocks use different fibers of ThreadSanitizer, which know nothing of each other since the launch
    // began: what one block and the next do without atomics to the same memory is a race. (Fresh fibers for every block
    // would be too slow.)
    void* tsan_fibers[2][kMaxThreads] = {};
    uint64_t blocks_run = 0;

    unsigned char* shared = nullptr;
    size_t shared_bytes = 0;
    void (*body)(const void*) = nullptr;
    const void* closure = nullptr;
    std::string error;
    std::vector<const void*> executed;
} engine;

// ---- switching stacks
// ----------------------------------------------------------------------------------------------------------
#ifdef __x86_64__
extern "C" void simt_swap(void** save, void* load);
asm(R"(
.text
.hidden simt_swap
.globl simt_swap
.type simt_swap, @function
simt_swap:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size simt_swap, .-simt_swap
)");
#endif

void arrive() {  // first thing on the new stack
#ifdef SIMT_ASAN
    Fiber& from = *engine.previous;
    __sanitizer_finish_switch_fiber(engine.current->asan_stack, &from.stack_bottom, &from.stack_size);
#endif
}

void switch_to(Fiber& next) {
    Fiber& self = *engine.current;
    if (&next == &self) return;
    engine.previous = &self;
    engine.current = &next;
    coordinates.thread = next.index;
#ifdef SIMT_ASAN
    __sanitizer_start_switch_fiber(&self.asan_stack, next.stack_bottom, next.stack_size);
#endif
#ifdef SIMT_TSAN
    __tsan_switch_to_fiber(next.tsan_fiber, 1 /* orders nothing */);
#endif
#ifdef __x86_64__
    simt_swap(&self.stack_pointer, next.stack_pointer);
#else
    swapcontext(&self.context, &next.context);
#endif
    arrive();
}

void thread_ended();

void fiber_main() {
    arrive();
    for (;;) {  // once per block
        ACQUIRE(&engine.begin_sync);
        engine.body(engine.closure);
        thread_ended();
    }
}

void prepare_stack(Fiber& fiber) {
    fiber.stack_bottom = engine.stacks + fiber.id * kStack + kGuard;
    fiber.stack_size = kStack - kGuard;
    fiber.asan_stack = nullptr;
    // Staggered, so that the frames of all threads do not fall into the same few cache sets.
    const size_t stagger = static_cast<size_t>(fiber.id) * 448 % 4032 / 64 * 64;
#ifdef __x86_64__
    auto top = reinterpret_cast<void**>(engine.stacks + (fiber.id + 1) * kStack - 64 - stagger);
    *--top = nullptr;  // where a return address would lie: keeps the stack aligned as at a call, and ends backtraces
    *--top = reinterpret_cast<void*>(fiber_main);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    fiber.stack_pointer = top;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = const_cast<void*>(fiber.stack_bottom);
    fiber.context.uc_stack.ss_size = fiber.stack_size - stagger;
    makecontext(&fiber.context, fiber_main, 0);
#endif
}

// ---- who runs next
// ---------------------------------------------------------------------------------------------------------------
std::string describe(const Fiber& fiber) {
    const uint3 b = coordinates.block, t = fiber.index;
    char text[128];
    std::snprintf(text, sizeof(text), "thread (%u,%u,%u) of block (%u,%u,%u)", t.x, t.y, t.z, b.x, b.y, b.z);
    return text;
}
std::string at(Site site) { return " at " + std::string(site.file) + ":" + std::to_string(site.line); }
std::string hex(unsigned mask) {
    char text[16];
    std::snprintf(text, sizeof(text), "0x%08x", mask);
    return text;
}

// The kernel broke a rule: leave every fiber where it is and let the launch throw.
[[noreturn]] void stop(const std::string& what) {
    engine.error = "simt: " + what;
    switch_to(engine.host);
    std::abort();
}

// The chosen order of 0 .. count-1.
void permute(int* items, int count) {
    const bool reversed = engine.order == Order::reversed;
    for (int i = 0; i < count; ++i) items[i] = reversed ? count - 1 - i : i;
    if (engine.order == Order::shuffled)
        for (int i = count - 1; i > 0; --i) std::swap(items[i], items[engine.random() % (i + 1)]);
}

void make_ready(Fiber& fiber) {
    fiber.state = State::ready;
    int tail = engine.head + engine.queued++;
    engine.queue[tail >= kMaxThreads ? tail - kMaxThreads : tail] = &fiber;
}

void report_deadlock() {
    std::string text = "deadlock:";
    State reported[8];
    int reports = 0;
    for (int i = 0; i < engine.threads && reports < 4; ++i) {  // the first thread in each state
        const Fiber& fiber = engine.fibers[i];
        bool seen = false;
        for (int r = 0; r < reports; ++r) seen = seen || reported[r] == fiber.state;
        if (seen) continue;
        reported[reports++] = fiber.state;
        text += (reports > 1 ? "; " : " ") + describe(fiber);
        if (fiber.state == State::done) {
            text += " has exited";
        } else {
            text += std::string(" waits in ") + kNames[static_cast<int>(fiber.state)] + at(fiber.site);
            if (fiber.state != State::barrier) text += " for mask " + hex(fiber.mask);
        }
    }
    stop(text);
}

void run_next() {
    if (engine.queued == 0) {
        if (engine.ended < engine.threads) report_deadlock();
        return switch_to(engine.host);
    }
    Fiber& next = *engine.queue[engine.head];
    engine.head = engine.head + 1 == kMaxThreads ? 0 : engine.head + 1;
    --engine.queued;
    switch_to(next);
}

Meeting& meeting_of(const Fiber& fiber) {
    return engine.meetings[fiber.id / kWarp * kWarp + __builtin_ctz(fiber.mask)];
}

template <class T>
const T& operands(const Fiber& fiber) {
    return *reinterpret_cast<const T*>(fiber.word);
}

// As a tensor core sees it: the low 13 bits do not exist.
double truncated_to_tf32(float x) { return std::isnan(x) ? x : bit_cast<float>(bit_cast<uint32_t>(x) & 0xffffe000u); }

float rounded_towards_zero(double x) {
    const float nearest = static_cast<float>(x);
    const bool beyond = std::isfinite(x) && std::fabs(static_cast<double>(nearest)) > std::fabs(x);
    return beyond ? std::nextafterf(nearest, 0.0f) : nearest;
}

void multiply_tf32(const Fiber* warp) {
    double a[16][8], b[8][8];
    for (int lane = 0; lane < kWarp; ++lane) {
        const auto& own = operands<Fragments<float>>(warp[lane]);
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; ++i) a[g + i % 2 * 8][t + i / 2 * 4] = truncated_to_tf32(own.a[i]);
        for (int i = 0; i < 2; ++i) b[t + i * 4][g] = truncated_to_tf32(own.b[i]);
    }
    for (int lane = 0; lane < kWarp; ++lane) {
        float* const acc = operands<Fragments<float>>(warp[lane]).acc;
        for (int i = 0; i < 4; ++i) {
            double sum = acc[i];
            for (int k = 0; k < 8; ++k) sum += a[lane / 4 + i / 2 * 8][k] * b[k][lane % 4 * 2 + i % 2];
            acc[i] = rounded_towards_zero(sum);
        }
    }
}

void multiply_f64(const Fiber* warp) {
    for (int lane = 0; lane < kWarp; ++lane) {
        double* const acc = operands<Fragments<double>>(warp[lane]).acc;
        for (int i = 0; i < 2; ++i) {
            for (int k = 0; k < 4; ++k) {
                const double a = *operands<Fragments<double>>(warp[lane / 4 * 4 + k]).a;
                const double b = *operands<Fragments<double>>(warp[(lane % 4 * 2 + i) * 4 + k]).b;
                acc[i] = std::fma(a, b, acc[i]);
            }
        }
    }
}

void exchange_rows(const Fiber* warp) {
    for (int lane = 0; lane < kWarp; ++lane) {
        for (int m = 0; m < 4; ++m) {
            const void* const row = operands<RowAddresses>(warp[m * 8 + lane / 4]).mine;
            operands<RowAddresses>(warp[lane]).read[m] = row;
        }
    }
}

void conclude(Meeting& meeting, Fiber* warp) {
    if (meeting.kind >= State::mma_tf32 && meeting.arrived != meeting.mask) {
        const int missing = __builtin_ctz(meeting.mask & ~meeting.arrived);
        const Fiber& first = warp[__builtin_ctz(meeting.arrived)];
        stop(describe(first) + " is in " + kNames[static_cast<int>(meeting.kind)] + at(first.site) +
             ", which takes the whole warp, but lane " + std::to_string(missing) + " has exited");
    }
    if (meeting.kind == State::mma_tf32) multiply_tf32(warp);
    if (meeting.kind == State::mma_f64) multiply_f64(warp);
    if (meeting.kind == State::ldmatrix) exchange_rows(warp);

    unsigned votes = 0;
    uint64_t words[kWarp];
    for (int lane = 0; lane < kWarp; ++lane) {
        if (!(meeting.arrived >> lane & 1)) continue;
        words[lane] = warp[lane].word;
        if (words[lane] != 0) votes |= 1u << lane;
    }
    for (int lane = 0; lane < kWarp; ++lane) {
        Fiber& fiber = warp[lane];
        if (!(meeting.arrived >> lane & 1)) continue;
        if (meeting.kind == State::ballot) fiber.word = votes;
        if (meeting.kind == State::shuffle) {
            if (!(meeting.arrived >> fiber.source_lane & 1))
                stop(describe(fiber) + " reads lane " + std::to_string(fiber.source_lane) +
                     ", which takes no part in the shuffle" + at(fiber.site) + " (mask " + hex(meeting.mask) +
                     ", taking part " + hex(meeting.arrived) + ")");
            fiber.word = words[fiber.source_lane];
        }
    }
    const unsigned arrived = meeting.arrived;
    meeting.arrived = 0;
    ++meeting.generation;
    int lanes[kWarp];
    permute(lanes, kWarp);
    for (int lane : lanes)
        if (arrived >> lane & 1) make_ready(warp[lane]);
}

void conclude_if_complete(Meeting& meeting, int warp) {
    if (meeting.arrived && meeting.arrived == (meeting.mask & engine.live_lanes[warp]))
        conclude(meeting, &engine.fibers[warp * kWarp]);
}

// A warp collective: wait until every live lane of the mask has come, then take what the rule of `kind` gives.
uint64_t meet(State kind, unsigned mask, uint64_t word, int source_lane, Site site) {
    Fiber& self = *engine.current;
    const int lane = self.id % kWarp;
    self.site = site;
    self.mask = mask;
    self.word = word;
    self.source_lane = source_lane;
    if (!(mask >> lane & 1)) stop(describe(self) + " is not named in its own mask " + hex(mask) + at(site));
    Meeting& meeting = meeting_of(self);
    if (meeting.arrived == 0) {
        meeting.mask = mask;
        meeting.kind = kind;
    } else if (meeting.mask != mask || meeting.kind != kind) {
        const Fiber& other = engine.fibers[self.id / kWarp * kWarp + __builtin_ctz(meeting.arrived)];
        stop("divergent warp: " + describe(self) + " is in " + kNames[static_cast<int>(kind)] + at(site) +
             " with mask " + hex(mask) + ", " + describe(other) + " in " + kNames[static_cast<int>(meeting.kind)] +
             at(other.site) + " with mask " + hex(meeting.mask));
    }
    self.state = kind;
    meeting.arrived |= 1u << lane;
    uint64_t* const sync = &meeting.sync[meeting.generation & 1];
    if (kind == State::syncwarp) RELEASE(sync);  // shuffles and votes order no memory
    conclude_if_complete(meeting, self.id / kWarp);
    run_next();
    if (kind == State::syncwarp) ACQUIRE(sync);
    return self.word;
}

void thread_ended() {
    Fiber& self = *engine.current;
    self.state = State::done;
    self.copies.clear();
    ++engine.ended;
    RELEASE(&engine.end_sync);
    const int warp = self.id / kWarp;
    engine.live_lanes[warp] &= ~(1u << self.id % kWarp);
    for (int lane = 0; lane < kWarp; ++lane)  // those who waited for this thread need not any more
        conclude_if_complete(engine.meetings[warp * kWarp + lane], warp);
    run_next();
}

// ---- blocks
// ------------------------------------------------------------------------------------------------------------------------
void fill(unsigned char* begin, size_t bytes) {  // not memset: ASan would object to the redzones between variables
#ifdef __x86_64__
    asm volatile("rep stosb" : "+D"(begin), "+c"(bytes) : "a"(kPoison) : "memory");
#else
    for (volatile unsigned char* p = begin; bytes > 0; --bytes) *p++ = kPoison;
#endif
}

void forget(const void* begin, size_t bytes) {
#ifdef SIMT_TSAN
    const uintptr_t first = reinterpret_cast<uintptr_t>(begin) / 8 * 8,
                    last = (reinterpret_cast<uintptr_t>(begin) + bytes + 7) / 8 * 8;
    if (first == last) return;
    __tsan_java_free(first, last - first);
    __tsan_java_alloc(first, last - first);
#else
    static_cast<void>(begin), static_cast<void>(bytes);
#endif
}

void run_block() {
    if (simt_shared_begin) fill(simt_shared_begin, simt_shared_end - simt_shared_begin);
    fill(engine.shared, engine.shared_bytes);
    if (simt_shared_begin) forget(simt_shared_begin, simt_shared_end - simt_shared_begin);
    forget(engine.shared, engine.shared_bytes);
    forget(engine.stacks, engine.threads * kStack);
    forget(engine.barrier_sync, sizeof(engine.barrier_sync));
    forget(engine.meetings, sizeof(Meeting) * engine.threads);

    engine.ended = engine.head = engine.queued = engine.arrived = engine.predicates = 0;
    for (unsigned& lanes : engine.live_lanes) lanes = 0;
    int order[kMaxThreads];
    permute(order, engine.threads);
    for (int i = 0; i < engine.threads; ++i) {
        Fiber& fiber = engine.fibers[order[i]];
        fiber.copy_group = 0;
        engine.live_lanes[fiber.id / kWarp] |= 1u << fiber.id % kWarp;
#ifdef SIMT_TSAN
        void*& tsan_fiber = engine.tsan_fibers[engine.blocks_run % 2][fiber.id];
        if (!tsan_fiber) tsan_fiber = __tsan_create_fiber(0);
        fiber.tsan_fiber = tsan_fiber;
#endif
        make_ready(fiber);
    }
    ++engine.blocks_run;
    run_next();  // comes back when all have ended, or one has failed
}

void prepare_launch(dim3 grid, dim3 block, size_t shared_bytes) {
    const uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
    if (threads == 0 || threads > kMaxThreads || block.z > 64 || grid.x > 0x7fffffffu || grid.y > 65535 ||
        grid.z > 65535 || shared_bytes > kMaxShared)
        throw std::runtime_error("simt: invalid configuration: grid (" + std::to_string(grid.x) + "," +
                                 std::to_string(grid.y) + "," + std::to_string(grid.z) + "), block (" +
                                 std::to_string(block.x) + "," + std::to_string(block.y) + "," +
                                 std::to_string(block.z) + "), dynamic shared memory " + std::to_string(shared_bytes));
    if (!engine.stacks) {
        void* memory = mmap(nullptr, kMaxThreads * kStack, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        engine.stacks = static_cast<unsigned char*>(memory);
        for (int i = 0; i < kMaxThreads; ++i) mprotect(engine.stacks + i * kStack, kGuard, PROT_NONE);
#ifdef SIMT_TSAN
        // Once per process, and another module like this one may have been first.
        const std::string process = std::to_string(getpid());
        const char* const prepared = std::getenv("SIMT_TSAN_PROCESS");
        if (!prepared || process != prepared) {
            __tsan_java_init(8, (uintptr_t{1} << 47) - 16);
            setenv("SIMT_TSAN_PROCESS", process.c_str(), 1);
        }
#endif
    }
#ifdef SIMT_ASAN
    if (!engine.error.empty())
        __asan_unpoison_memory_region(engine.stacks, kMaxThreads * kStack);  // frames never unwound
#endif
    engine.error.clear();
    engine.threads = static_cast<int>(threads);
    engine.shared_bytes = shared_bytes;
    coordinates.block_dim = block;
    coordinates.grid_dim = grid;
#ifdef SIMT_TSAN
    engine.host.tsan_fiber = __tsan_get_current_fiber();
#endif
    for (int i = 0; i < engine.threads; ++i) {
        Fiber& fiber = engine.fibers[i];
        fiber.id = i;
        fiber.index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
        fiber.copies.clear();
        prepare_stack(fiber);
    }
    for (Meeting& meeting : engine.meetings) meeting.arrived = 0;
}

}  // namespace

void run_grid(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, void (*body)(const void*),
              const void* closure) {
    const std::lock_guard<std::mutex> guard(engine.one_launch);
    prepare_launch(grid, block, shared_bytes);
    bool known = false;
    for (const void* earlier : engine.executed) known = known || earlier == kernel;
    if (!known) engine.executed.push_back(kernel);
    engine.body = body;
    engine.closure = closure;
    RELEASE(&engine.begin_sync);
    // Exactly as long as asked for, so that ASan sees one element past the end.
    void* shared = nullptr;
    if (shared_bytes > 0 && posix_memalign(&shared, 16, shared_bytes) != 0) throw std::bad_alloc();
    engine.shared = static_cast<unsigned char*>(shared);

    const uint64_t blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
    std::vector<int> order(engine.order == Order::shuffled && blocks <= 0x7fffffffu ? blocks : 0);
    if (!order.empty()) permute(order.data(), static_cast<int>(blocks));
    for (uint64_t i = 0; i < blocks && engine.error.empty(); ++i) {
        const uint64_t b = !order.empty() ? order[i] : engine.order == Order::reversed ? blocks - 1 - i : i;
        coordinates.block = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                             static_cast<unsigned>(b / (static_cast<uint64_t>(grid.x) * grid.y))};
        run_block();
    }
    ACQUIRE(&engine.end_sync);
#ifdef SIMT_TSAN
    if (!engine.error.empty()) {  // they are somewhere inside the kernel, and will not be back
        for (auto& set : engine.tsan_fibers) {
            for (void*& fiber : set) {
                if (fiber) __tsan_destroy_fiber(fiber);
                fiber = nullptr;
            }
        }
    }
#endif
    std::free(shared);
    engine.shared = nullptr;
    if (!engine.error.empty()) throw std::runtime_error(engine.error);
}

void fail(const char* message, const char* file, int line) {
    stop(describe(*engine.current) + ": " + message + at({file, line}));
}

unsigned char* dynamic_shared() { return engine.shared; }
int lane() { return engine.current->id % kWarp; }
int block_threads() { return engine.threads; }
void fence() {
    RELEASE(&engine.fence_sync);
    ACQUIRE(&engine.fence_sync);
}

// Whether simt_take_out named this line.
static bool taken_out(Site site) {
    if (site.line != engine.taken_out_line) return false;
    const std::string file(site.file), &suffix = engine.taken_out_file;
    return file.size() >= suffix.size() && file.compare(file.size() - suffix.size(), suffix.size(), suffix) == 0;
}

int barrier(int predicate, Site site) {
    if (taken_out(site)) return predicate != 0;
    Fiber& self = *engine.current;
    self.site = site;
    if (engine.arrived == 0) {
        engine.barrier_site = site;
    } else if (site.line != engine.barrier_site.line || std::strcmp(site.file, engine.barrier_site.file) != 0) {
        for (int i = 0; i < engine.threads; ++i)
            if (engine.fibers[i].state == State::barrier)
                stop("divergent barrier: " + describe(self) + " is in __syncthreads" + at(site) + ", " +
                     describe(engine.fibers[i]) + at(engine.barrier_site));
    }
    self.state = State::barrier;
    uint64_t* const sync = &engine.barrier_sync[engine.generation & 1];
    RELEASE(sync);
    engine.predicates += predicate != 0;
    if (++engine.arrived == engine.threads) {
        engine.arrived = 0;
        engine.predicate_count = engine.predicates;
        engine.predicates = 0;
        ++engine.generation;
        int order[kMaxThreads];
        permute(order, engine.threads);
        for (int i = 0; i < engine.threads; ++i) make_ready(engine.fibers[order[i]]);
    }
    run_next();
    ACQUIRE(sync);
    return engine.predicate_count;
}

void sync_warp(unsigned mask, Site site) {
    if (!taken_out(site)) meet(State::syncwarp, mask, 0, 0, site);
}
uint64_t shuffle(unsigned mask, uint64_t word, int source_lane, Site site) {
    return meet(State::shuffle, mask, word, source_lane, site);
}
unsigned ballot(unsigned mask, bool predicate, Site site) {
    return static_cast<unsigned>(meet(State::ballot, mask, predicate, 0, site));
}

// A warp collective of all 32 lanes, whose operands lie on the callers' stacks until the last has come.
template <class T>
static void meet_whole_warp(State kind, const T& own, Site site) {
    meet(kind, 0xffffffffu, reinterpret_cast<uint64_t>(&own), 0, site);
}

void mma_tf32(float* acc, const float* a, const float* b, Site site) {
    meet_whole_warp(State::mma_tf32, Fragments<float>{acc, a, b}, site);
}
void mma_f64(double* acc, const double* a, const double* b, Site site) {
    meet_whole_warp(State::mma_f64, Fragments<double>{acc, a, b}, site);
}
void gather_rows(const void* (&rows)[4], const void* row, Site site) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
        stop(describe(*engine.current) + ": ldmatrix of a row that is not 16-byte aligned" + at(site));
    meet_whole_warp(State::ldmatrix, RowAddresses{row, rows}, site);
}

float round_to_tf32(float x) {
    if (!std::isfinite(x)) return x;
    return bit_cast<float>((bit_cast<uint32_t>(x) + 0x1000u) & 0xffffe000u);  // the carry may reach the exponent
}

// Tells the sanitizer of a copy that the kernel asked for and this file performs.
static void announce([[maybe_unused]] const Copy& copy) {
#ifdef SIMT_ASAN
    __asan_loadN(copy.from, copy.valid);
    __asan_storeN(copy.to, copy.bytes);
#endif
#ifdef SIMT_TSAN
    __tsan_read_range(copy.from, copy.valid);
    __tsan_write_range(copy.to, copy.bytes);
#endif
}

void cp_async(void* shared, const void* global, int bytes, int valid_bytes, const char* file, int line) {
    Fiber& self = *engine.current;
    if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % bytes != 0)
        stop(describe(self) + ": cp.async of " + std::to_string(bytes) + " bytes is misaligned" + at({file, line}));
    // Hardware may copy at any time until the wait. Copying late shows a missing wait, copying at once a buffer that is
    // still being read: late in the fixed orders, either in the shuffled one; ThreadSanitizer hears of an access at
    // both ends.
    const Copy copy{shared, global, bytes, valid_bytes, self.copy_group};
    announce(copy);
    if (engine.order == Order::shuffled && engine.random() % 2) copy.perform();
    self.copies.push_back(copy);
}

void cp_async_commit() { ++engine.current->copy_group; }

void cp_async_wait(int pending, Site site) {
    if (taken_out(site)) return;
    Fiber& self = *engine.current;
    const int complete = self.copy_group - pending;  // groups [0, complete) must have landed
    size_t kept = 0;
    for (const Copy& copy : self.copies) {
        if (copy.group >= complete) {
            self.copies[kept++] = copy;
            continue;
        }
        announce(copy);
        copy.perform();
    }
    self.copies.resize(kept);
}

}  // namespace simt

// ---- for the test process (tests/simt/build.py, by ctypes)
// ---------------------------------------------------------------------------
#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int simt_set_order(const char* name, uint64_t seed) {
    const std::lock_guard<std::mutex> guard(simt::engine.one_launch);
    const char* const names[] = {"forward", "reversed", "shuffled"};
    for (int i = 0; i < 3; ++i) {
        if (std::strcmp(name, names[i]) != 0) continue;
        simt::engine.order = static_cast<simt::Order>(i);
        simt::engine.random.seed(seed);
        return 0;
    }
    return -1;
}

// From now on the __syncthreads, __syncwarp or wait in that line does nothing; file is the end of its path. Line 0:
// none.
EXPORT void simt_take_out(const char* file, int line) {
    const std::lock_guard<std::mutex> guard(simt::engine.one_launch);
    simt::engine.taken_out_file = file;
    simt::engine.taken_out_line = line;
}

// Offsets in this shared object of the kernels run so far; returns how many there are.
EXPORT int simt_executed(uint64_t* offsets, int capacity) {
    Dl_info here{};
    dladdr(reinterpret_cast<void*>(&simt_set_order), &here);
    const auto& executed = simt::engine.executed;
    for (int i = 0; i < capacity && i < static_cast<int>(executed.size()); ++i)
        offsets[i] = static_cast<const char*>(executed[i]) - static_cast<const char*>(here.dli_fbase);
    return static_cast<int>(executed.size());
}
