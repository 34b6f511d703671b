// What a process has to ask for before it uses these instructions.
#include <sys/mman.h>

#include <cstdint>

#include "api.h"

#if defined(__AMX_TILE__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

// False if the operating system refuses. AMX's tile registers are granted to a process on request
// (Linux: Documentation/arch/x86/xstate.rst).
QUIRE_API bool quire_prepare() {
#if defined(__AMX_TILE__)
    constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return true;
#endif
}

// Ask for huge pages in memory that was not written to yet. Without them it is slower and nothing else, so a
// refusal is no error.
QUIRE_API void quire_huge_pages(void* memory, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
    madvise(memory, size_t(bytes), MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}
