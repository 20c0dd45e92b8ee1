// SPDX-License-Identifier: Apache-2.0
// The program's guest memory is lent to softkvm, which runs guest user code on the bare CPU in processes of its own (docs/native.md) and has to map the
// guest's pages there. So memory that becomes a slot has to be of a file: a memory file of the program's is found, and private anonymous memory
// is put into one, at the same address and with what it holds. For the program it is as it was but for what docs/preload.md says.
// Spec: <linux/kvm.h>; <linux/userfaultfd.h>.
#include "preload/lending.h"

#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <utility>
#include <vector>

#include "base/held_signals.h"
#include "preload/bounds.h"
#include "preload/mapped_file.h"
#include "preload/mappings.h"
#include "preload/moving.h"
#include "preload/native_wanted.h"
#include "preload/next.h"
#include "preload/range.h"
#include "preload/slots.h"
#include "preload/state.h"
#include "preload/within.h"
#include "softkvm/softkvm.h"

namespace vireo::preload {
namespace {

constexpr size_t kMostLent = 256;  // more are not lent: each takes a descriptor for every VM

std::mutex mutex;
HeldOverFork over_fork;
auto& ranges = *new std::vector<Range>;  // they do not overlap; threads may outlive the program's end
auto& slots = *new Slots;
Bounds bounds;  // around all of both

void forget_all() {
  ranges.clear();
  slots.forget_all();
  bounds.set(0, 0);
}

// What allocators do in the midst of ours is not about guest memory, and the mutex may be this thread's.
bool may_be_lent(uintptr_t begin, uintptr_t end) {
  return within == 0 && bounds.touch(begin, end);
}

void note_bounds() {
  uintptr_t low = ~uintptr_t{0}, high = 0;
  for (const Range& r : ranges) low = std::min(low, r.begin), high = std::max(high, r.end);
  slots.widen(low, high);
  bounds.set(low, high);
}

// [begin, end) is something else now. What is left of ranges beside it stays lent.
void cut(uintptr_t begin, uintptr_t end) {
  for (size_t i = 0; i < ranges.size();) {
    if (!ranges[i].overlaps(begin, end)) {
      i++;
      continue;
    }
    take_back(ranges[i]);
    const Range old = std::move(ranges[i]);
    ranges.erase(ranges.begin() + static_cast<ptrdiff_t>(i));
    for (auto [from, until] : {std::pair{old.begin, begin}, std::pair{end, old.end}}) {
      if (from >= until) continue;
      Range left{.begin = from, .end = until, .file = old.file, .offset = old.offset + (from - old.begin), .ours = old.ours,
                 .lendable = old.lendable && ranges.size() < kMostLent, .forked = old.forked};
      if (left.lendable) lend_as(old, left);
      ranges.insert(ranges.begin() + static_cast<ptrdiff_t>(i++), std::move(left));
    }
  }
  note_bounds();
}

// The parts of [begin, end) that are no range.
std::vector<std::pair<uintptr_t, uintptr_t>> unknown(uintptr_t begin, uintptr_t end) {
  std::vector<std::pair<uintptr_t, uintptr_t>> parts;
  for (const Range& r : ranges) {
    if (!r.overlaps(begin, end)) continue;
    if (begin < r.begin) parts.emplace_back(begin, r.begin);
    begin = r.end;
  }
  if (begin < end) parts.emplace_back(begin, end);
  return parts;
}

// What lies in a slot becomes ranges of files, as far as it can: with what lies below it down to where guest address 0 would be, for a machine's
// memory is in several slots, and the first of them small.
void find_files(uintptr_t begin, uintptr_t end, uint64_t guest_address) {
  for (const Mapping& m : mappings(begin, end, true).value_or(std::vector<Mapping>{})) {
    uintptr_t from = std::max(begin, m.begin);
    if (m.begin <= begin && guest_address <= begin - m.begin) from = begin - guest_address;
    for (auto [first, last] : unknown(from, std::min(end, m.end))) {
      if (ranges.size() >= kMostLent) break;
      Range range{.begin = first, .end = last, .file = {}, .offset = m.offset + (first - m.begin), .ours = !m.shared};
      if (m.shared && m.inode != 0 && m.readable && m.writable) range.file = file_of(m);
      else if (!slots.has_run(first, last) && may_move(m, first, last) && !move_into_file(m, range)) continue;
      if (!range.file) continue;
      const auto behind = std::find_if(ranges.begin(), ranges.end(), [&](const Range& r) { return r.begin > first; });
      ranges.insert(behind, std::move(range));
    }
  }
  note_bounds();
}

// What of [begin, end) is not mapped any more as it is known goes: system calls without libc are not seen, nor are libc's own (free). And of calls that are seen it
// is not known what other threads have made of it since. `with_pages`: nobody has its memory mapped elsewhere.
void forget_what_is_gone(uintptr_t begin, uintptr_t end, bool with_pages = false) {
  uintptr_t low = end, high = begin;
  for (const Range& r : ranges)
    if (r.overlaps(begin, end)) low = std::min(low, std::max(begin, r.begin)), high = std::max(high, std::min(end, r.end));
  if (low >= high) return;
  const auto read = mappings(low, high);
  if (!read && !with_pages) return;
  const auto now = read.value_or(std::vector<Mapping>{});  // unread: as the program's call has left it
  std::vector<std::pair<uintptr_t, uintptr_t>> gone;
  for (const Range& r : ranges) {
    struct stat info;
    uintptr_t at = std::max(begin, r.begin);
    const uintptr_t until = std::min(end, r.end);
    if (at >= until || ::fstat(r.file->get(), &info) != 0) continue;
    for (const Mapping& m : now)
      if (m.begin <= at && m.end > at && m.shared && m.inode == info.st_ino && m.device == info.st_dev && m.offset + (at - m.begin) == r.offset + (at - r.begin)) at = m.end;
    if (at < until) gone.emplace_back(at, until);
  }
  for (auto [from, until] : gone) {
    for (const Range& r : ranges)
      if (read && with_pages && r.ours && !r.forked && r.overlaps(from, until)) drop_pages(r, std::max(from, r.begin), std::min(until, r.end));
    slots.forget(from, until);
    cut(from, until);
  }
}

// The program's pointer may be none.
template <class T>
bool read_argument(uintptr_t argument, T& into) {
  const iovec here{&into, sizeof into}, there{reinterpret_cast<void*>(argument), sizeof into};
  return ::process_vm_readv(::getpid(), &here, 1, &there, 1, 0) == static_cast<ssize_t>(sizeof into);
}

}  // namespace

void lend_slot(int vm, uintptr_t argument) {
  kvm_userspace_memory_region region;
  if (!read_argument(argument, region)) return;
  const uintptr_t begin = region.userspace_addr, end = begin + region.memory_size;
  if (region.memory_size == 0 || end < begin || begin % kPage != 0 || end % kPage != 0 || region.flags & KVM_MEM_READONLY) return;
  struct stat info;
  if (!softkvm::is_handle(vm) || ::fstat(vm, &info) != 0) return;
  // Behind softkvm's own, whose locks are taken under this one: handlers before a fork run in the other order.
  static std::once_flag once;
  std::call_once(once, [] {
    ::pthread_atfork([] {
      over_fork.lock(mutex);
      within++;  // handlers of others, an allocator's for one, come behind this one
      for (Range& r : ranges) r.forked = true;
    }, [] {
      within--;
      over_fork.unlock(mutex);
    }, [] {
      forget_all();
      within--;
      over_fork.unlock(mutex);
    });
  });
  const Within within;
  std::lock_guard lock(mutex);
  if (bounds.none()) forget_all();
  if (guests_ran.exchange(false)) slots.note_run();
  ranges.reserve(kMostLent);
  // Small slots come and go while a machine starts, and each look takes some 100 us. Where no more can be lent it looks at this slot alone: a program may
  // have 32764 of them.
  if (region.memory_size >= kLeastMoved) {
    const bool room = ranges.size() < kMostLent;
    forget_what_is_gone(room ? 0 : begin, room ? ~uintptr_t{0} : end);
    if (room && !unknown(begin, end).empty() && native_wanted()) find_files(begin, end, region.guest_phys_addr);
  }
  for (Range& r : ranges) {
    if (!r.lendable || !r.overlaps(begin, end)) continue;
    if (std::none_of(r.to.begin(), r.to.end(), [&](const auto& to) { return to.first == info.st_ino; })) lend(r, info.st_ino, vm);
  }
  slots.note(begin, end);
  note_bounds();
}

namespace {
void something_else(const void* at, size_t size, bool with_pages) {
  const auto begin = reinterpret_cast<uintptr_t>(at), end = (begin + size + kPage - 1) & ~(kPage - 1);
  if (!may_be_lent(begin, end)) return;
  int saved = errno;
  {
    const Within within;
    std::lock_guard lock(mutex);
    if (std::any_of(ranges.begin(), ranges.end(), [&](const Range& r) { return r.overlaps(begin, end); })) forget_what_is_gone(begin, end, with_pages);
    else slots.forget(begin, end);
    note_bounds();
  }
  errno = saved;
}
}  // namespace

void look_again(const void* at, size_t size) { something_else(at, size, false); }

void take_home(const void* at, size_t size) {
  const auto begin = reinterpret_cast<uintptr_t>(at), end = (begin + size + kPage - 1) & ~(kPage - 1);
  if (begin % kPage != 0 || !may_be_lent(begin, end)) return;
  int saved = errno;
  {
    const Within within;
    std::lock_guard lock(mutex);
    forget_what_is_gone(begin, end);
    std::vector<std::pair<uintptr_t, uintptr_t>> home;
    for (const Range& r : ranges)
      if (r.ours && r.overlaps(begin, end) && move_home(r, std::max(begin, r.begin), std::min(end, r.end)))
        home.emplace_back(std::max(begin, r.begin), std::min(end, r.end));
    for (auto [from, until] : home) {
      for (const Range& r : ranges)
        if (!r.forked && r.begin <= from && r.end >= until) drop_pages(r, from, until);
      cut(from, until);
    }
  }
  errno = saved;
}

void unlend(const void* at, size_t size) { something_else(at, size, true); }

void look_at_userfault(unsigned long request, uintptr_t argument) {
  uffdio_range range;
  if (_IOC_NR(request) != _UFFDIO_REGISTER || !read_argument(argument, range)) return;
  stop_lending(reinterpret_cast<void*>(range.start), range.len);
}

void stop_lending(const void* at, size_t size) {
  const auto begin = reinterpret_cast<uintptr_t>(at), end = begin + size;
  if (!may_be_lent(begin, end)) return;
  int saved = errno;
  {
    const Within within;
    std::lock_guard lock(mutex);
    for (Range& r : ranges) {
      if (!r.overlaps(begin, end)) continue;
      take_back(r);
      r.to.clear(), r.lendable = false;
    }
  }
  errno = saved;
}

bool drops_moved(const void* at, size_t size, int advice, int* result) {
  if (!drops_private_pages(advice)) return false;
  const auto begin = reinterpret_cast<uintptr_t>(at), end = begin + size;
  if (!may_be_lent(begin, end) || begin % kPage != 0) return false;
  const Within within;
  std::lock_guard lock(mutex);
  bool any = false;
  for (const Range& r : ranges) any |= r.ours && r.overlaps(begin, end);
  if (!any) return false;
  auto* next = VIREO_NEXT_AS("madvise", int(void*, size_t, int));
  *result = 0;
  uintptr_t from = begin;
  const uintptr_t last = (end + kPage - 1) & ~(kPage - 1);
  while (from < last && *result == 0) {
    auto r = std::find_if(ranges.begin(), ranges.end(), [&](const Range& one) { return one.ours && one.end > from && one.begin < last; });
    uintptr_t until = r == ranges.end() ? last : std::max(from, r->begin);
    if (until > from) *result = next(reinterpret_cast<void*>(from), until - from, advice);
    if (r == ranges.end() || *result != 0) break;
    from = std::max(from, r->begin), until = std::min(last, r->end);
    // Not MADV_REMOVE, which would take the pages of whatever file is mapped there now (free() and system calls without libc are not seen).
    *result = next(reinterpret_cast<void*>(from), until - from, advice == MADV_FREE ? MADV_DONTNEED : advice);
    if (const int saved = errno; *result == 0) {
      drop_pages(*r, from, until);
      errno = saved;
    }
    from = until;
  }
  return true;
}

}  // namespace vireo::preload
