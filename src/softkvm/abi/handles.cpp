// SPDX-License-Identifier: Apache-2.0
#include "softkvm/abi/handles.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <ctime>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "base/held_signals.h"
#include "base/log.h"

namespace vireo::softkvm::abi {
namespace {

using Inode = std::pair<dev_t, ino_t>;

// Its mutex is held with signals held, and no file is let go of under it: a VM's end takes other locks.
struct Registry {
  std::mutex mutex;
  std::vector<std::shared_ptr<File>> by_fd;
  std::map<Inode, std::weak_ptr<File>> by_inode;
  std::atomic<uint64_t> generation{1};  // changes whenever by_fd does
  HeldOverFork during_fork;

  // What is told without the mutex. Of most numbers, whether by_fd has a file; the length of by_fd; the device that memfds are on.
  static constexpr unsigned kMarked = 1 << 16;
  std::atomic<uint64_t> marks[kMarked / 64] = {};
  std::atomic<unsigned> limit{0};
  std::atomic<dev_t> device{0};
  std::atomic<bool> several_devices{false};

  bool may_know(int fd) const {
    const auto number = static_cast<unsigned>(fd);
    if (number >= kMarked) return number < limit.load(std::memory_order_acquire);
    return marks[number / 64].load(std::memory_order_acquire) >> number % 64 & 1;
  }
  bool may_be_ours(const Inode& inode) const {
    return several_devices.load(std::memory_order_acquire) || inode.first == device.load(std::memory_order_acquire);
  }
};

// Never destroyed: threads may still be in KVM_RUN while the process exits.
Registry& registry() {
  static Registry* instance = [] {
    auto* made = new Registry;
    // A fork while another thread is in here must not leave the child with a locked registry.
    constexpr auto unlock = [] { registry().during_fork.unlock(registry().mutex); };
    ::pthread_atfork([] { registry().during_fork.lock(registry().mutex); }, unlock, unlock);
    return made;
  }();
  return *instance;
}

// The child of a fork has no threads but one, so it cannot take a VM apart: what it drops, it forgets.
void let_go(std::shared_ptr<File> file) {
  if (file && file->address_space != this_address_space()) new std::shared_ptr<File>(std::move(file));
}
void let_go(std::vector<std::shared_ptr<File>> files) {
  for (std::shared_ptr<File>& file : files) let_go(std::move(file));
}

bool inode_of(int fd, Inode& inode) {
  struct stat status;
  if (::fstat(fd, &status) != 0) return false;
  inode = {status.st_dev, status.st_ino};
  return true;
}

using Dropped = std::vector<std::shared_ptr<File>>;

void mark(Registry& r, int fd, bool known) {
  const auto number = static_cast<unsigned>(fd);
  if (number >= Registry::kMarked) return;
  const uint64_t bit = 1ull << number % 64;
  if (known) r.marks[number / 64].fetch_or(bit, std::memory_order_release);
  else r.marks[number / 64].fetch_and(~bit, std::memory_order_release);
}

// From now on `fd` is `file`. What it was is to be let go of without the mutex.
void put(Registry& r, int fd, std::shared_ptr<File> file, Dropped& dropped) {
  if (r.by_fd.size() <= static_cast<size_t>(fd)) {
    r.by_fd.resize(fd + 1);
    r.limit.store(static_cast<unsigned>(r.by_fd.size()), std::memory_order_release);
  }
  r.by_fd[fd].swap(file);
  if (file) dropped.push_back(std::move(file));
  mark(r, fd, true);
  r.generation.fetch_add(1, std::memory_order_release);
}

std::shared_ptr<File> take(Registry& r, int fd) {
  std::shared_ptr<File> taken;
  if (static_cast<size_t>(fd) < r.by_fd.size()) taken = std::move(r.by_fd[fd]);
  mark(r, fd, false);
  r.generation.fetch_add(1, std::memory_order_release);
  return taken;
}

bool same_owner(const std::shared_ptr<File>& a, const std::shared_ptr<File>& b) {
  return !a.owner_before(b) && !b.owner_before(a);
}

// The last known descriptor of `file`'s VM is gone, but a dup of one that no ioctl was made on may be left: looks at all descriptors.
void adopt_duplicates(Registry& r, const std::shared_ptr<File>& file, Dropped& dropped) {
  DIR* directory = ::opendir("/proc/self/fd");
  if (directory == nullptr) return;
  while (dirent* entry = ::readdir(directory)) {
    char* end = nullptr;
    long fd = std::strtol(entry->d_name, &end, 10);
    if (end == entry->d_name || *end != 0) continue;
    Inode inode;
    if (!inode_of(static_cast<int>(fd), inode)) continue;
    auto known = r.by_inode.find(inode);
    if (known == r.by_inode.end()) continue;
    auto other = known->second.lock();
    if (!other) continue;
    if (same_owner(other, file)) put(r, static_cast<int>(fd), other, dropped);
    dropped.push_back(std::move(other));  // it may be the last of its VM by now
  }
  ::closedir(directory);
}

// It has its parent's memory, but descriptors of its own: what it closes, the parent still has.
bool in_vfork_child() { return ::getpid() != process_id(); }

void forget_dead_inodes(Registry& r) { std::erase_if(r.by_inode, [](const auto& entry) { return entry.second.expired(); }); }

struct Cached {
  int fd = -1;
  uint64_t generation = 0;
  std::weak_ptr<File> file;
};
thread_local Cached cached;

// In a page that a fork gives the child zeroed.
struct ProcessNames {
  std::atomic<uint64_t> address_space;
  std::atomic<pid_t> id;
};

ProcessNames& process_names() {
  static ProcessNames* names = [] {
    void* page = ::mmap(nullptr, ::getpagesize(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) panic("no memory for one page");
    auto* made = static_cast<ProcessNames*>(page);
    if (::madvise(page, ::getpagesize(), MADV_WIPEONFORK) != 0) {
      // Kernels before 4.14; a raw clone() goes unseen then.
      static ProcessNames* wiped = made;
      ::pthread_atfork(nullptr, nullptr, [] { wiped->address_space = 0, wiped->id = 0; });
    }
    return made;
  }();
  return *names;
}

}  // namespace

pid_t process_id() {
  std::atomic<pid_t>& id = process_names().id;
  pid_t value = id.load(std::memory_order_relaxed);
  if (value == 0) id.store(value = ::getpid(), std::memory_order_relaxed);
  return value;
}

uint64_t this_address_space() {
  std::atomic<uint64_t>& name = process_names().address_space;
  uint64_t value = name.load(std::memory_order_relaxed);
  if (value != 0) return value;
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  uint64_t fresh = static_cast<uint64_t>(::getpid()) << 40 | (static_cast<uint64_t>(now.tv_sec * 1000000000ll + now.tv_nsec) & 0xffffffffff);
  if (fresh == 0) fresh = 1;
  return name.compare_exchange_strong(value, fresh) ? fresh : value;
}

int make_descriptor(File& file, const char* name, size_t size) {
  int fd = ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -errno;
  Inode inode;
  if ((size > 0 && ::ftruncate(fd, static_cast<off_t>(size)) != 0) ||
      ::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0 || !inode_of(fd, inode)) {
    int code = errno;
    ::close(fd);
    return -code;
  }
  file.address_space = this_address_space();
  process_id();  // named before a child of vfork could be
  file.device = inode.first;
  file.inode = inode.second;
  return fd;
}

void install(int fd, std::shared_ptr<File> file) {
  HeldSignals held;
  Registry& r = registry();
  Dropped dropped;
  {
    std::lock_guard lock(r.mutex);
    forget_dead_inodes(r);
    dev_t none = 0;
    if (!r.device.compare_exchange_strong(none, file->device) && none != file->device) r.several_devices = true;
    r.by_inode[{file->device, file->inode}] = file;
    put(r, fd, std::move(file), dropped);
  }
  let_go(std::move(dropped));
}

std::shared_ptr<File> find(int fd, bool trusted) {
  if (fd < 0) return nullptr;
  Registry& r = registry();
  if (trusted && cached.fd == fd && cached.generation == r.generation.load(std::memory_order_acquire)) {
    if (auto file = cached.file.lock()) return file;
  }
  Inode inode;
  bool open = trusted || inode_of(fd, inode);
  if (!trusted && !r.may_know(fd) && !(open && r.may_be_ours(inode))) return nullptr;
  HeldSignals held;
  std::shared_ptr<File> found;
  Dropped dropped;
  {
    std::lock_guard lock(r.mutex);
    if (static_cast<size_t>(fd) < r.by_fd.size() && r.by_fd[fd]) {
      const auto& known = r.by_fd[fd];
      if (trusted || (open && Inode{known->device, known->inode} == inode)) {
        found = known;
      } else {
        if (in_vfork_child()) return nullptr;
        // Closed without our knowledge. A duplicate may live on elsewhere.
        std::shared_ptr<File> stale = take(r, fd);
        if (stale.use_count() == 1) adopt_duplicates(r, stale, dropped);
        dropped.push_back(std::move(stale));
      }
    }
    if (!found && !r.by_inode.empty() && (trusted ? inode_of(fd, inode) : open)) {
      auto known = r.by_inode.find(inode);
      if (known != r.by_inode.end() && (found = known->second.lock()) && !in_vfork_child()) put(r, fd, found, dropped);
    }
    if (found) cached = {fd, r.generation.load(std::memory_order_relaxed), found};
  }
  let_go(std::move(dropped));
  return found;
}

void note_new_meaning(int fd) {
  if (fd >= 0 && registry().may_know(fd)) find(fd);
}

unsigned descriptor_limit() { return registry().limit.load(std::memory_order_acquire); }

int close_handle(int fd) {
  Inode inode;
  if (fd < 0 || (!registry().may_know(fd) && !(inode_of(fd, inode) && registry().may_be_ours(inode)))) return -ENOTTY;
  HeldSignals held;
  std::shared_ptr<File> file = find(fd);
  if (!file) return -ENOTTY;
  if (in_vfork_child()) return ::close(fd) == 0 ? 0 : -errno;
  Registry& r = registry();
  Dropped dropped;
  int result;
  {
    std::lock_guard lock(r.mutex);
    std::shared_ptr<File> taken = take(r, fd);
    result = ::close(fd) == 0 ? 0 : -errno;
    if (taken && same_owner(taken, file)) file.reset();
    if (taken && taken.use_count() == 1) adopt_duplicates(r, taken, dropped);
    dropped.push_back(std::move(taken));
  }
  let_go(std::move(file));
  let_go(std::move(dropped));
  return result;
}

}  // namespace vireo::softkvm::abi
