// SPDX-License-Identifier: Apache-2.0
// Guest memory of the program as files, so that guest user code can run on the bare CPU. Any thread; errno may change where nothing else is said.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace vireo::preload {

// Before KVM_SET_USER_MEMORY_REGION or its successor, whose argument begins alike.
void lend_slot(int vm, uintptr_t argument);

// [at, at+size) has been mapped anew or is gone. Keeps errno.
void unlend(const void* at, size_t size);

// Something has been mapped at [at, at+size) where nothing was, or so it is thought. Keeps errno.
void look_again(const void* at, size_t size);

// Before [at, at+size) is moved or grows, which only the program's private memory can as it did: what of it became a file's is private again. Keeps errno.
void take_home(const void* at, size_t size);

// It is mapped as it was, but may no longer be used by others than the program's own code. Keeps errno.
void stop_lending(const void* at, size_t size);

// Before an ioctl of a userfaultfd. Faults that the program wants to see happen in softkvm's processes unseen: such memory is lent no more.
void look_at_userfault(unsigned long request, uintptr_t argument);

// Advices behind which private pages are gone: they read as zeroes, or as the file's.
constexpr bool drops_private_pages(int advice) {
  constexpr int kDontNeedLocked = 24;  // MADV_DONTNEED_LOCKED, Linux 5.18
  return advice == MADV_DONTNEED || advice == MADV_FREE || advice == kDontNeedLocked;
}

// madvise() of memory, some of which was private and is a file's now: what drops private pages leaves a file's alone. True: done, with *result.
bool drops_moved(const void* at, size_t size, int advice, int* result);

}  // namespace vireo::preload
