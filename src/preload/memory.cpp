// SPDX-License-Identifier: Apache-2.0
// The program changes its address space. Guest memory is the program's own mapping, so data needs no notice: the guest's next access meets
// what is mapped then. Translated code does: it was made from what was there.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "preload/lending.h"
#include "preload/next.h"
#include "preload/state.h"
#include "softkvm/softkvm.h"

using vireo::preload::changed;
using vireo::preload::unlend;
using vireo::preload::used;

namespace vireo::preload {
namespace {
// softkvm's locks are held in there while it allocates, and an allocator's calls may not wait for them.
template <class Call>
void tell(Call call) {
  if (!used() || within != 0) return;
  int saved = errno;
  within++;
  call();
  within--;
  errno = saved;
}
}  // namespace

void changed(const void* host, size_t size) {
  tell([=] { softkvm::notice_change(host, size); });
}
}  // namespace vireo::preload

namespace {

using Map = void*(void*, size_t, int, int, int, off_t);

// The kernel's module maps a vCPU's dirty ring shared and not executable only.
bool refused(int protection, int flags, int fd, off_t offset) {
  constexpr off_t kFirst = 64 * 4096;  // KVM_DIRTY_LOG_PAGE_OFFSET
  if (fd < 0 || offset < kFirst || !used()) return false;
  if ((flags & MAP_TYPE) == MAP_SHARED && !(protection & PROT_EXEC)) return false;
  return vireo::softkvm::is_handle(fd);
}

// Another mapping, or none.
void replaced(const void* host, size_t size) {
  changed(host, size);
  if (used()) unlend(host, size);
}

void has_rights(const void* at, size_t size, int protection, int key) {
  // Code of a page that can no longer be read must not go on.
  if (!(protection & PROT_READ)) changed(at, size);
  // softkvm's processes have mappings of their own, which could still be read and written.
  if (used() && (key > 0 || (protection & (PROT_READ | PROT_WRITE)) != (PROT_READ | PROT_WRITE))) vireo::preload::stop_lending(at, size);
}

void* map(Map* next, void* at, size_t size, int protection, int flags, int fd, off_t offset) {
  if (refused(protection, flags, fd, offset)) {
    errno = EINVAL;
    return MAP_FAILED;
  }
  void* made = next(at, size, protection, flags, fd, offset);
  if (made != MAP_FAILED) {
    if (flags & MAP_FIXED) replaced(made, size);
    else if (used()) vireo::preload::look_again(made, size);  // what was there has gone unseen
  }
  return made;
}

}  // namespace

VIREO_EXPORT void* mmap(void* at, size_t size, int protection, int flags, int fd, off_t offset) noexcept {
  return map(VIREO_NEXT_AS("mmap", Map), at, size, protection, flags, fd, offset);
}
VIREO_EXPORT void* mmap64(void* at, size_t size, int protection, int flags, int fd, off64_t offset) noexcept {
  return map(VIREO_NEXT_AS("mmap64", Map), at, size, protection, flags, fd, offset);
}
VIREO_EXPORT int munmap(void* at, size_t size) noexcept {
  int result = VIREO_NEXT_AS("munmap", int(void*, size_t))(at, size);
  if (result == 0) replaced(at, size);
  return result;
}
VIREO_EXPORT int mprotect(void* at, size_t size, int protection) noexcept {
  int result = VIREO_NEXT_AS("mprotect", int(void*, size_t, int))(at, size, protection);
  if (result == 0) has_rights(at, size, protection, 0);
  return result;
}
VIREO_EXPORT int pkey_mprotect(void* at, size_t size, int protection, int key) noexcept {
  int result = VIREO_NEXT_AS("pkey_mprotect", int(void*, size_t, int, int))(at, size, protection, key);
  if (result == 0) has_rights(at, size, protection, key);
  return result;
}
VIREO_EXPORT int madvise(void* at, size_t size, int advice) noexcept {
  int result;
  if (!used() || !vireo::preload::drops_moved(at, size, advice, &result)) result = VIREO_NEXT_AS("madvise", int(void*, size_t, int))(at, size, advice);
  if (result == 0 && (vireo::preload::drops_private_pages(advice) || advice == MADV_REMOVE)) changed(at, size);
  if (result == 0 && advice == MADV_HUGEPAGE) vireo::preload::tell([=] { vireo::softkvm::note_large_page_wish(at, size); });
  return result;
}
// What drops pages the kernel does for the caller itself only (Linux 6.13), so whom the pidfd names need not be known.
VIREO_EXPORT ssize_t process_madvise(int pidfd, const iovec* parts, size_t count, int advice, unsigned flags) noexcept {
  auto* next = VIREO_NEXT_AS("process_madvise", ssize_t(int, const iovec*, size_t, int, unsigned));  // glibc 2.36
  const ssize_t done = next != nullptr ? next(pidfd, parts, count, advice, flags) : ::syscall(SYS_process_madvise, pidfd, parts, count, advice, flags);
  if (!used() || !(vireo::preload::drops_private_pages(advice) || advice == MADV_REMOVE)) return done;
  const int saved = errno;
  auto left = static_cast<size_t>(done > 0 ? done : 0);
  for (size_t i = 0, size; left != 0 && i < count; i++, left -= size) {
    size = std::min(left, parts[i].iov_len);
    int ignored;
    vireo::preload::drops_moved(parts[i].iov_base, size, advice, &ignored);
    changed(parts[i].iov_base, size);
  }
  errno = saved;
  return done;
}
VIREO_EXPORT void* mremap(void* at, size_t old_size, size_t size, int flags, ...) noexcept {
  va_list arguments;
  va_start(arguments, flags);
  void* wanted = flags & MREMAP_FIXED ? va_arg(arguments, void*) : nullptr;
  va_end(arguments);
  // A file's memory would grow beyond the file's end.
  if (used() && (size > old_size || flags & ~MREMAP_MAYMOVE)) vireo::preload::take_home(at, old_size);
  void* made = VIREO_NEXT_AS("mremap", void*(void*, size_t, size_t, int, ...))(at, old_size, size, flags, wanted);
  if (made != MAP_FAILED) {
    replaced(at, old_size);
    if (made != at) replaced(made, size);
  }
  return made;
}
