// SPDX-License-Identifier: Apache-2.0
// The public door: which handle, which kind of ioctl.
#include "softkvm/softkvm.h"

#include <unistd.h>

#include <cerrno>

#include "base/held_signals.h"
#include "softkvm/abi/clock.h"
#include "softkvm/abi/handles.h"
#include "softkvm/abi/signals.h"
#include "softkvm/abi/system_ioctls.h"
#include "softkvm/abi/vcpu_ioctls.h"
#include "softkvm/abi/vm_ioctls.h"
#include "softkvm/mmu/large_page_wishes.h"

namespace vireo::softkvm {

using namespace abi;

namespace {

std::shared_ptr<VmFile> find_vm(int fd) {
  std::shared_ptr<File> file = find(fd);
  if (!file || file->kind != FileKind::kVm) return nullptr;
  return std::static_pointer_cast<VmFile>(file);
}

Ring ring_of(const Doorbell& d) {
  Ring ring;
  ring.address = d.address, ring.value = d.value, ring.size = d.size;
  ring.bus = d.pio ? Ring::kPio : Ring::kMmio, ring.match = d.match;
  ring.call = d.call, ring.context = d.context;
  return ring;
}

}  // namespace

int open_system() {
  auto file = std::make_shared<SystemFile>();
  int fd = make_descriptor(*file, "kvm", 0);
  if (fd >= 0) install(fd, std::move(file));
  return fd;
}

namespace {
int call(int fd, unsigned long request, uintptr_t argument) {
  std::shared_ptr<File> file = find(fd, request == KVM_RUN);
  if (!file) return -ENOTTY;
  if (file->kind == FileKind::kSystem) return system_ioctl(request, argument);
  if (file->address_space != this_address_space()) return -EIO;
  if (file->kind == FileKind::kVcpu) return vcpu_ioctl(static_cast<VcpuFile&>(*file), request, argument);
  return vm_ioctl(std::static_pointer_cast<VmFile>(file), request, argument);
}
}  // namespace

// As in the kernel, where handlers run when the system call is over: none of the program's finds a lock of ours held, or leaves one so.
int ioctl(int fd, unsigned long request, uintptr_t argument) {
  if (request != KVM_RUN) {
    HeldSignals held;
    return call(fd, request, argument);
  }
  int result;
  {
    KeptSignals kept;
    result = call(fd, request, argument);
  }
  resend_kept_signals();
  return result;
}

int close(int fd) { return close_handle(fd); }

void notice_write(int vm_fd, const void* host, size_t size) {
  if (auto file = find_vm(vm_fd)) file->vm->notice_write(host, size);
}

int lend_memory(int vm_fd, const void* host, size_t size, int fd, uint64_t offset) {
  auto file = find_vm(vm_fd);
  return file ? file->vm->lent.add(host, size, fd, offset) : -ENOTTY;
}

int allow_large_pages(int vm_fd, const void* host, size_t size) {
  auto file = find_vm(vm_fd);
  return file ? file->vm->allow_large_pages(host, size) : -ENOTTY;
}

void note_large_page_wish(void* host, size_t size) {
  HeldSignals held;
  large_page_wishes().note(host, size);
}

int return_memory(int vm_fd, const void* host, size_t size) {
  auto file = find_vm(vm_fd);
  if (!file) return -ENOTTY;
  file->vm->return_memory(host, size);
  return 0;
}

unsigned handle_limit() { return descriptor_limit(); }
void note_replaced(int fd) { note_new_meaning(fd); }

bool is_handle(int fd) { return find(fd) != nullptr; }

void notice_change(const void* host, size_t size) { Vm::notice_change(host, size); }
void expect_unseen_writes() {
  Vm::expect_unseen_writes();
  abi::expect_foreign_callers();
}
void expect_signal_handlers() { HeldSignals::expect_handlers(); }
void expect_foreign_writes() { Vm::expect_foreign_writes(2000ull * host_tsc_khz()); }

int add_doorbell(int vm_fd, const Doorbell& doorbell) {
  auto file = find_vm(vm_fd);
  if (!file) return -ENOTTY;
  if (doorbell.call == nullptr) return -EINVAL;
  std::lock_guard lock(file->mutex);
  return file->ioeventfds.add_doorbell(ring_of(doorbell));
}

int remove_doorbell(int vm_fd, const Doorbell& doorbell) {
  auto file = find_vm(vm_fd);
  if (!file) return -ENOTTY;
  std::lock_guard lock(file->mutex);
  return file->ioeventfds.remove_doorbell(ring_of(doorbell));
}

}  // namespace vireo::softkvm
