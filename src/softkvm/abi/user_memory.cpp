// SPDX-License-Identifier: Apache-2.0
// The system checks the pointer: process_vm_readv and process_vm_writev on our own process honour the page protections and fail with
// EFAULT. Sandboxes that forbid them (they belong to ptrace) leave the other way to have the system touch memory for us, a pipe.
#include "softkvm/abi/user_memory.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>

#include "base/owned_fd.h"
#include "softkvm/abi/handles.h"

namespace vireo::softkvm::abi {
namespace {

std::atomic<bool> vm_calls_forbidden{false};

constexpr size_t kPipeChunk = 4096;  // a pipe always takes PIPE_BUF bytes when empty

struct Pipe {
  OwnedFd read_end, write_end;
  pid_t owner = 0;

  bool open() {
    if (read_end.valid() && owner == ::getpid()) return true;
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return false;
    read_end.reset(ends[0]);
    write_end.reset(ends[1]);
    owner = ::getpid();
    return true;
  }
};

// Either pointer may be bad. After a failure the pipe may hold bytes, so it is given up.
bool copy_by_pipe(void* to, const void* from, size_t size) {
  static thread_local Pipe pipe;
  auto* out = static_cast<std::byte*>(to);
  auto* in = static_cast<const std::byte*>(from);
  while (size > 0) {
    if (!pipe.open()) return false;
    size_t chunk = std::min(size, kPipeChunk);
    if (::write(pipe.write_end.get(), in, chunk) != static_cast<ssize_t>(chunk) ||
        ::read(pipe.read_end.get(), out, chunk) != static_cast<ssize_t>(chunk)) {
      pipe = Pipe{};
      return false;
    }
    in += chunk;
    out += chunk;
    size -= chunk;
  }
  return true;
}

template <auto Call>
bool copy(void* local, uintptr_t remote, size_t size, void* to, const void* from) {
  if (size == 0) return true;
  if (!vm_calls_forbidden.load(std::memory_order_relaxed)) {
    iovec here{local, size}, there{reinterpret_cast<void*>(remote), size};
    ssize_t done = Call(process_id(), &here, 1, &there, 1, 0);
    if (done == static_cast<ssize_t>(size)) return true;
    if (done >= 0 || (errno != EPERM && errno != ENOSYS)) return false;
    vm_calls_forbidden = true;
  }
  return copy_by_pipe(to, from, size);
}

}  // namespace

bool copy_in(void* to, uintptr_t from, size_t size) {
  return copy<::process_vm_readv>(to, from, size, to, reinterpret_cast<const void*>(from));
}

bool copy_out(uintptr_t to, const void* from, size_t size) {
  return copy<::process_vm_writev>(const_cast<void*>(from), to, size, reinterpret_cast<void*>(to), from);
}

}  // namespace vireo::softkvm::abi
