// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/jitdump.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <ctime>

#include "base/log.h"

namespace vireo::softkvm {
namespace {

constexpr size_t kPage = 4096;

struct Header {
  uint32_t magic = 0x4a695444;  // "JiTD"
  uint32_t version = 1;
  uint32_t total_size = 40;
  uint32_t elf_mach = EM_X86_64;
  uint32_t pad1 = 0;
  uint32_t pid = 0;
  uint64_t timestamp = 0;
  uint64_t flags = 0;
};
static_assert(sizeof(Header) == 40);

struct Load {
  uint32_t id = 0;  // JIT_CODE_LOAD
  uint32_t total_size = 0;
  uint64_t timestamp = 0;
  uint32_t pid = 0, tid = 0;
  uint64_t vma = 0, code_addr = 0, code_size = 0, code_index = 0;
};
static_assert(sizeof(Load) == 56);

uint64_t now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

}  // namespace

Result<std::unique_ptr<Jitdump>> Jitdump::create(const std::string& folder) {
  std::string path = folder + "/jit-" + std::to_string(getpid()) + ".dump";
  unlink(path.c_str());  // of an earlier process, or a trap
  OwnedFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_APPEND | O_CLOEXEC, 0600));
  if (!fd.valid()) return fail_errno(path);
  Header header;
  header.pid = static_cast<uint32_t>(getpid());
  header.timestamp = now();
  if (write(fd.get(), &header, sizeof header) != static_cast<ssize_t>(sizeof header)) return fail_errno(path);
  void* mark = mmap(nullptr, kPage, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd.get(), 0);
  if (mark == MAP_FAILED) return fail_errno(path + ": mapping it for execution, by which perf finds it");
  return std::unique_ptr<Jitdump>(new Jitdump(std::move(fd), std::move(path), mark));
}

Jitdump::~Jitdump() { munmap(mark_, kPage); }

void Jitdump::add(const void* code, size_t size, const std::string& name) {
  if (!fd_.valid()) return;
  Load load;
  load.total_size = static_cast<uint32_t>(sizeof load + name.size() + 1 + size);
  load.timestamp = now();
  load.pid = static_cast<uint32_t>(getpid());
  load.tid = static_cast<uint32_t>(gettid());
  load.vma = load.code_addr = reinterpret_cast<uintptr_t>(code);
  load.code_size = size;
  load.code_index = count_++;
  const iovec parts[] = {{&load, sizeof load}, {const_cast<char*>(name.c_str()), name.size() + 1}, {const_cast<void*>(code), size}};
  // The process may be killed any time: each record is whole when it is there.
  if (writev(fd_.get(), parts, 3) == static_cast<ssize_t>(load.total_size)) return;
  log(LogLevel::kWarning, "%s: %s; it ends here", path_.c_str(), errno ? strerror(errno) : "written in part");
  fd_.reset();
}

}  // namespace vireo::softkvm
