// SPDX-License-Identifier: Apache-2.0
// The program's guest memory is lent to softkvm, which runs guest user code on the bare CPU in processes of its own (docs/native.md) and has to map the
// guest's pages there. So memory that becomes a slot has to be of a file: a memory file of the program's is found, and private anonymous memory
// is put into one, at the same address and with what it holds. For the program it is as it was but for what docs/preload.md says.
// Spec: proc(5), maps, smaps and map_files; madvise(2); memfd_create(2); <linux/userfaultfd.h>.
#include "preload/lending.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/mempolicy.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "base/held_signals.h"
#include "base/owned_fd.h"
#include "preload/mappings.h"
#include "preload/next.h"
#include "preload/state.h"
#include "preload/within.h"
#include "softkvm/softkvm.h"

namespace vireo::preload {
namespace {

constexpr uintptr_t kPage = 4096;
constexpr uint64_t kLargePage = 2 << 20;
constexpr uint64_t kLeast = 2 << 20;         // smaller memory is no operating system's
constexpr uint64_t kMostCopied = 64 << 20;   // of what is in use already: a program that has filled its memory would wait, and need it twice meanwhile
constexpr size_t kMostRanges = 256;

using Vms = std::vector<std::pair<ino_t, int>>;  // a handle's file and number

struct Range {
  uintptr_t begin, end;
  OwnedFd file;
  uint64_t offset;  // of `begin`
  bool ours;        // was private memory
  bool lendable = true;
  bool forked = false;  // a child may have it mapped
  Vms to = {};  // that have it
};

std::mutex mutex;
HeldOverFork over_fork;
auto& ranges = *new std::vector<Range>;  // they do not overlap; threads may outlive the program's end
// Memory that is or was a slot. After a guest has run it is not moved: what the guest writes meanwhile would be lost.
struct Slot {
  uintptr_t begin, end;
  bool ran;
};
auto& slots = *new std::vector<Slot>;
// Around all of both, for those who ask without the mutex.
std::atomic<uintptr_t> lowest{~uintptr_t{0}}, highest{0};

// What allocators do in the midst of ours is not about guest memory, and the mutex may be this thread's.
bool may_be_lent(uintptr_t begin, uintptr_t end) {
  return within == 0 && begin < highest.load(std::memory_order_acquire) && end > lowest.load(std::memory_order_acquire);
}

// Not a standard stream's number, should the program have closed one: it would print into it, or put another file there.
OwnedFd beside_streams(int fd) {
  OwnedFd made(fd);
  return fd < 0 || fd > 2 ? std::move(made) : OwnedFd(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
}

// The first of the program's descriptors that `wanted` likes, or -1.
template <class Wanted>
int find_descriptor(Wanted wanted) {
  DIR* folder = ::opendir("/proc/self/fd");
  int found = -1;
  if (folder == nullptr) return found;
  while (const dirent* entry = ::readdir(folder)) {
    char* end = nullptr;
    const long fd = ::strtol(entry->d_name, &end, 10);
    if (end != entry->d_name && *end == 0 && wanted(static_cast<int>(fd))) {
      found = static_cast<int>(fd);
      break;
    }
  }
  ::closedir(folder);
  return found;
}

// A descriptor of the file that is mapped there: the mapping's own, for which a right is needed, or one that the program has open.
OwnedFd file_of(const Mapping& m) {
  auto open = [&](const std::string& path) {
    struct stat kind;  // to open a device may do something
    if (::stat(path.c_str(), &kind) != 0 || !S_ISREG(kind.st_mode)) return OwnedFd();
    OwnedFd fd = beside_streams(VIREO_NEXT_AS("open", int(const char*, int, ...))(path.c_str(), O_RDWR | O_CLOEXEC));
    struct stat info;
    if (fd.valid() && (::fstat(fd.get(), &info) != 0 || info.st_dev != m.device || info.st_ino != m.inode || !S_ISREG(info.st_mode))) fd.reset();
    return fd;
  };
  char name[64];
  ::snprintf(name, sizeof name, "/proc/self/map_files/%zx-%zx", m.begin, m.end);
  if (OwnedFd fd = open(name); fd.valid()) return fd;
  const int its = find_descriptor([&](int fd) {
    struct stat info;
    return ::fstat(fd, &info) == 0 && info.st_dev == m.device && info.st_ino == m.inode;
  });
  return its < 0 ? OwnedFd() : open("/proc/self/fd/" + std::to_string(its));
}

bool ksm_runs() {
  OwnedFd fd(VIREO_NEXT_AS("open", int(const char*, int, ...))("/sys/kernel/mm/ksm/run", O_RDONLY | O_CLOEXEC));
  char c = '0';
  return fd.valid() && VIREO_NEXT_AS("read", ssize_t(int, void*, size_t))(fd.get(), &c, 1) == 1 && c == '1';
}

// May private memory become a file's and be the same for the program?
bool may_move(const Mapping& m, uintptr_t begin, uintptr_t end) {
  if (m.shared || m.named || m.inode != 0 || !m.readable || !m.writable || end - begin < kLeast) return false;
  // Hugetlbfs, devices, locked pages, userfaultfd; wiped in a child, which memory of a file cannot be.
  for (const char* flag : {"ht", "io", "pf", "lo", "um", "uw", "ui", "wf"})
    if (m.has(flag)) return false;
  if (m.has("mg") && ksm_runs()) return false;  // equal pages are to be one
  int policy = MPOL_DEFAULT;
  if (::syscall(SYS_get_mempolicy, &policy, nullptr, 0, begin, MPOL_F_ADDR) == 0 && policy != MPOL_DEFAULT) return false;
  rlimit most;
  return ::getrlimit(RLIMIT_FSIZE, &most) == 0 && (most.rlim_cur == RLIM_INFINITY || most.rlim_cur > end - begin + kLargePage);
}

// Copies the pages that are in use. False: there are too many, or it is not known which.
bool copy_used(int file, uint64_t offset, uintptr_t begin, uintptr_t end) {
  OwnedFd pagemap(VIREO_NEXT_AS("open", int(const char*, int, ...))("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  if (!pagemap.valid()) return false;
  uint64_t copied = 0;
  for (uintptr_t at = begin; at < end;) {
    uint64_t entries[512];
    const size_t n = std::min<size_t>(std::size(entries), (end - at) / kPage);
    const auto got = VIREO_NEXT_AS("pread", ssize_t(int, void*, size_t, off_t))(pagemap.get(), entries, n * sizeof *entries, static_cast<off_t>(at / kPage * sizeof *entries));
    if (got != static_cast<ssize_t>(n * sizeof *entries)) return false;
    for (size_t i = 0; i < n; i++) {
      constexpr uint64_t kPresentOrSwapped = 3ull << 62;
      if (!(entries[i] & kPresentOrSwapped)) continue;
      const uintptr_t page = at + i * kPage;
      if ((copied += kPage) > kMostCopied) return false;
      if (::pwrite(file, reinterpret_cast<const void*>(page), kPage, static_cast<off_t>(offset + (page - begin))) != static_cast<ssize_t>(kPage)) return false;
    }
    at += n * kPage;
  }
  return true;
}

// The rights and advice that a mapping had, to what is in its place now, readable and writable.
void advise_as(const Mapping& m, uintptr_t begin, uintptr_t end) {
  void* at = reinterpret_cast<void*>(begin);
  const size_t size = end - begin;
  const int rights = (m.readable ? PROT_READ : 0) | (m.writable ? PROT_WRITE : 0) | (m.executable ? PROT_EXEC : 0);
  if (rights != (PROT_READ | PROT_WRITE)) VIREO_NEXT_AS("mprotect", int(void*, size_t, int))(at, size, rights);
  auto* advise = VIREO_NEXT_AS("madvise", int(void*, size_t, int));
  constexpr std::pair<const char*, int> kAdvice[] = {{"dc", MADV_DONTFORK}, {"dd", MADV_DONTDUMP}, {"hg", MADV_HUGEPAGE}, {"nh", MADV_NOHUGEPAGE},
                                                     {"sr", MADV_SEQUENTIAL}, {"rr", MADV_RANDOM}};
  for (auto [flag, advice] : kAdvice)
    if (m.has(flag)) advise(at, size, advice);
}

// Private memory into a file. Nobody may write there meanwhile, as nobody does who is about to give it to a guest.
bool move_into_file(const Mapping& m, Range& range) {
  const uint64_t size = range.end - range.begin;
  range.offset = range.begin % kLargePage;  // large pages of the file are such of the addresses
  range.file = beside_streams(::memfd_create("vireo-guest-memory", MFD_CLOEXEC));
  if (!range.file.valid() || ::ftruncate(range.file.get(), static_cast<off_t>(range.offset + size)) != 0) return false;
  if (!copy_used(range.file.get(), range.offset, range.begin, range.end)) return false;
  void* at = reinterpret_cast<void*>(range.begin);
  const int rights = PROT_READ | PROT_WRITE | (m.executable ? PROT_EXEC : 0);
  if (VIREO_NEXT_AS("mmap", void*(void*, size_t, int, int, int, off_t))(at, size, rights, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, range.file.get(),
                                                                        static_cast<off_t>(range.offset)) != at)
    return false;
  advise_as(m, range.begin, range.end);
  softkvm::notice_change(at, size);
  return true;
}

void note_bounds() {
  uintptr_t low = ~uintptr_t{0}, high = 0;
  for (const Range& r : ranges) low = std::min(low, r.begin), high = std::max(high, r.end);
  for (const Slot& s : slots) low = std::min(low, s.begin), high = std::max(high, s.end);
  lowest.store(low, std::memory_order_release);
  highest.store(high, std::memory_order_release);
}

// A number may be another file's by now.
bool is_still(ino_t file, int fd) {
  struct stat info;
  return ::fstat(fd, &info) == 0 && info.st_ino == file;
}

// A number that the VM has now: the program may have made a duplicate and closed the first. -1: none, it is gone.
int number_of(ino_t file, int vm) {
  if (is_still(file, vm)) return vm;
  return find_descriptor([&](int fd) { return is_still(file, fd) && softkvm::is_handle(fd); });
}

// Those that have the range, by numbers that they have now.
Vms vms_of(const Range& range) {
  Vms there;
  for (auto [file, number] : range.to)
    if (const int vm = number_of(file, number); vm >= 0) there.emplace_back(file, vm);
  return there;
}

void take_back(const Range& range) {
  for (auto [file, vm] : vms_of(range)) softkvm::return_memory(vm, reinterpret_cast<void*>(range.begin), range.end - range.begin);
}

void lend(Range& range, ino_t file, int vm) {
  constexpr size_t kMany = 16;  // most are of VMs that are gone
  if (range.to.size() >= kMany) range.to = vms_of(range);
  if (softkvm::lend_memory(vm, reinterpret_cast<void*>(range.begin), range.end - range.begin, range.file.get(), range.offset) == 0) range.to.emplace_back(file, vm);
}

// The pages of [begin, end) in the file of private memory that was. The number may be another file's by now, if the program has closed all it knew nothing of.
void drop_pages(const Range& r, uintptr_t begin, uintptr_t end) {
  char name[64] = {};
  if (::readlink(("/proc/self/fd/" + std::to_string(r.file.get())).c_str(), name, sizeof name - 1) < 0 || !::strstr(name, "vireo-guest-memory")) return;
  ::fallocate(r.file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(r.offset + (begin - r.begin)), static_cast<off_t>(end - begin));
}

// [begin, end) is no slot's memory any more.
void forget_slots(uintptr_t begin, uintptr_t end) {
  for (size_t i = slots.size(); i-- > 0;) {
    const Slot old = slots[i];
    if (old.end <= begin || old.begin >= end) continue;
    slots[i] = slots.back();
    slots.pop_back();
    if (old.begin < begin) slots.push_back({old.begin, begin, old.ran});
    if (end < old.end) slots.push_back({end, old.end, old.ran});
  }
}

bool has_run(uintptr_t begin, uintptr_t end) {
  return std::any_of(slots.begin(), slots.end(), [&](const Slot& s) { return s.ran && s.begin < end && s.end > begin; });
}

void note_slot(uintptr_t begin, uintptr_t end) {
  constexpr size_t kMany = 1024;
  if (std::any_of(slots.begin(), slots.end(), [&](const Slot& s) { return s.begin <= begin && s.end >= end; })) return;
  if (slots.size() < kMany) slots.push_back({begin, end, false});
}

// [begin, end) is something else now. What is left of ranges beside it stays lent.
void cut(uintptr_t begin, uintptr_t end) {
  for (size_t i = 0; i < ranges.size();) {
    if (ranges[i].end <= begin || ranges[i].begin >= end) {
      i++;
      continue;
    }
    take_back(ranges[i]);
    const Range old = std::move(ranges[i]);
    ranges.erase(ranges.begin() + static_cast<ptrdiff_t>(i));
    for (auto [from, until] : {std::pair{old.begin, begin}, std::pair{end, old.end}}) {
      if (from >= until || ranges.size() == kMostRanges) continue;
      Range left{.begin = from, .end = until, .file = OwnedFd(::fcntl(old.file.get(), F_DUPFD_CLOEXEC, 3)), .offset = old.offset + (from - old.begin),
                 .ours = old.ours, .lendable = old.lendable, .forked = old.forked};
      if (!left.file.valid()) continue;
      for (auto [file, vm] : vms_of(old)) lend(left, file, vm);
      ranges.insert(ranges.begin() + static_cast<ptrdiff_t>(i++), std::move(left));
    }
  }
  note_bounds();
}

// The parts of [begin, end) that are no range.
std::vector<std::pair<uintptr_t, uintptr_t>> unknown(uintptr_t begin, uintptr_t end) {
  std::vector<std::pair<uintptr_t, uintptr_t>> parts;
  for (const Range& r : ranges) {
    if (r.end <= begin || r.begin >= end) continue;
    if (begin < r.begin) parts.emplace_back(begin, r.begin);
    begin = r.end;
  }
  if (begin < end) parts.emplace_back(begin, end);
  return parts;
}

// What lies in a slot becomes ranges of files, as far as it can: with what lies below it down to where guest address 0 would be, for a machine's
// memory is in several slots, and the first of them small.
void find_files(uintptr_t begin, uintptr_t end, uint64_t guest_address) {
  for (const Mapping& m : mappings(begin, end, true)) {
    uintptr_t from = std::max(begin, m.begin);
    if (m.begin <= begin && guest_address <= begin - m.begin) from = begin - guest_address;
    for (auto [first, last] : unknown(from, std::min(end, m.end))) {
      if (ranges.size() == kMostRanges) break;
      Range range{.begin = first, .end = last, .file = {}, .offset = m.offset + (first - m.begin), .ours = !m.shared};
      if (m.shared && m.inode != 0 && m.readable && m.writable) range.file = file_of(m);
      else if (!has_run(first, last) && may_move(m, first, last) && !move_into_file(m, range)) range.file.reset();
      if (!range.file.valid()) continue;
      const auto behind = std::find_if(ranges.begin(), ranges.end(), [&](const Range& r) { return r.begin > first; });
      ranges.insert(behind, std::move(range));
    }
  }
  note_bounds();
}

// What of [begin, end) is not mapped any more as it is known goes: system calls without libc are not seen, nor are libc's own (free). And of calls that are seen it
// is not known what other threads have made of it since. `with_pages`: nobody has its memory mapped elsewhere.
void forget_what_is_gone(uintptr_t begin, uintptr_t end, bool with_pages = false) {
  const auto now = mappings(begin, end);
  std::vector<std::pair<uintptr_t, uintptr_t>> gone;
  for (const Range& r : ranges) {
    struct stat info;
    uintptr_t at = std::max(begin, r.begin);
    const uintptr_t until = std::min(end, r.end);
    if (at >= until || ::fstat(r.file.get(), &info) != 0) continue;
    for (const Mapping& m : now)
      if (m.begin <= at && m.end > at && m.shared && m.inode == info.st_ino && m.device == info.st_dev && m.offset + (at - m.begin) == r.offset + (at - r.begin)) at = m.end;
    if (at < until) gone.emplace_back(at, until);
  }
  for (auto [from, until] : gone) {
    for (const Range& r : ranges)
      if (with_pages && r.ours && !r.forked && r.begin < until && r.end > from) drop_pages(r, std::max(from, r.begin), std::min(until, r.end));
    forget_slots(from, until);
    cut(from, until);
  }
}

// The program's pointer may be none.
template <class T>
bool read_argument(uintptr_t argument, T& into) {
  const iovec here{&into, sizeof into}, there{reinterpret_cast<void*>(argument), sizeof into};
  return ::process_vm_readv(::getpid(), &here, 1, &there, 1, 0) == static_cast<ssize_t>(sizeof into);
}

// How many seccomp filters the process is under: as many as it was started with, or more, where it has confined itself (proc(5), Seccomp_filters).
unsigned filters() {
  unsigned long long count = 0;
  if (FILE* file = ::fopen("/proc/self/status", "re")) {
    char* line = nullptr;
    size_t room = 0;
    while (::getline(&line, &room, file) > 0)
      if (::sscanf(line, "Seccomp_filters: %llu", &count) == 1) break;
    ::free(line);
    ::fclose(file);
  }
  return static_cast<unsigned>(count);
}
const unsigned filters_at_start = filters();

// Not where native running is off, and not where the program has forbidden itself processes: it could be killed for softkvm's (QEMU, -sandbox on,spawn=deny).
bool wanted() {
  static const bool on = [] {
    const char* off = ::getenv("VIREO_SOFTKVM_OFF");
    const std::string list = off == nullptr ? "" : off;
    return list != "all" && ("," + list + ",").find(",native,") == std::string::npos;
  }();
  return on && filters() == filters_at_start;
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
      // What a child drops of the file would be gone for its parent too.
      ranges.clear();
      slots.clear();
      lowest.store(~uintptr_t{0}), highest.store(0);
      within--;
      over_fork.unlock(mutex);
    });
  });
  const Within within;
  std::lock_guard lock(mutex);
  if (guests_ran.exchange(false))
    for (Slot& s : slots) s.ran = true;
  ranges.reserve(kMostRanges);
  // Small slots come and go while a machine starts, and each look takes some 100 us.
  if (region.memory_size >= kLeast) {
    forget_what_is_gone(0, ~uintptr_t{0});
    if (!unknown(begin, end).empty() && wanted()) find_files(begin, end, region.guest_phys_addr);
  }
  for (Range& r : ranges) {
    if (!r.lendable || r.begin >= end || r.end <= begin) continue;
    if (std::none_of(r.to.begin(), r.to.end(), [&](const auto& to) { return to.first == info.st_ino; })) lend(r, info.st_ino, vm);
  }
  note_slot(begin, end);
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
    if (std::any_of(ranges.begin(), ranges.end(), [&](const Range& r) { return r.begin < end && r.end > begin; })) forget_what_is_gone(begin, end, with_pages);
    else forget_slots(begin, end);
    note_bounds();
  }
  errno = saved;
}

// A part of one range. False: there is no memory for it.
bool take_home(const Range& r, uintptr_t begin, uintptr_t end) {
  const size_t size = end - begin;
  auto* map = VIREO_NEXT_AS("mmap", void*(void*, size_t, int, int, int, off_t));
  void* made = map(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (made == MAP_FAILED) return false;
  const auto base = static_cast<off_t>(r.offset + (begin - r.begin)), last = base + static_cast<off_t>(size);
  bool whole = true;
  for (off_t from = base, until; whole && (from = ::lseek(r.file.get(), from, SEEK_DATA)) >= 0 && from < last; from = until) {
    until = std::min(last, ::lseek(r.file.get(), from, SEEK_HOLE));
    auto* to = static_cast<char*>(made) + (from - base);
    for (off_t at = from; whole && at < until;) {
      const ssize_t got = VIREO_NEXT_AS("pread", ssize_t(int, void*, size_t, off_t))(r.file.get(), to + (at - from), static_cast<size_t>(until - at), at);
      whole = got > 0;
      at += got;
    }
  }
  const auto were = mappings(begin, end, true);
  if (!whole || VIREO_NEXT_AS("mremap", void*(void*, size_t, size_t, int, ...))(made, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, reinterpret_cast<void*>(begin)) == MAP_FAILED) {
    VIREO_NEXT_AS("munmap", int(void*, size_t))(made, size);
    return false;
  }
  for (const Mapping& m : were) advise_as(m, std::max(begin, m.begin), std::min(end, m.end));
  return true;
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
      if (r.ours && r.begin < end && r.end > begin && take_home(r, std::max(begin, r.begin), std::min(end, r.end)))
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
      if (r.begin >= end || r.end <= begin) continue;
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
  for (const Range& r : ranges) any |= r.ours && r.begin < end && r.end > begin;
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
