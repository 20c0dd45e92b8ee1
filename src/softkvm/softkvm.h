// SPDX-License-Identifier: Apache-2.0
// softkvm's door: the KVM ABI of <linux/kvm.h> as function calls. Handles are real descriptors (memfds), so dup, poll and
// close work on them; the vCPU's kvm_run page is had by mmap of its descriptor, MAP_SHARED, of KVM_GET_VCPU_MMAP_SIZE bytes.
// Thread-safe as the kernel's module is. Results are as from the kernel's ioctl, but errors come as -errno.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/result.h"

namespace vireo::softkvm {

// What open("/dev/kvm") gives: a system handle, or -errno.
int open_system();

// Any KVM ioctl on a system, VM, vCPU or device handle: >= 0, or -errno. -ENOTTY for what is not a handle of softkvm.
int ioctl(int fd, unsigned long request, uintptr_t argument);

// Closes a handle: the last handle of a VM frees it. 0 or -errno. Async-signal-safe for what is not a handle.
int close(int fd);

// Asks the vCPU whose KVM_RUN is on this thread, if any, to return EINTR at its next safe point. Async-signal-safe: made for signal handlers.
void interrupt_this_thread();

// The same for another thread, from ordinary code; one that has run a vCPU before and does not now returns from its next KVM_RUN.
void interrupt_thread(pthread_t thread);

// For who puts handlers of its own before the program's (preload/). To be called first in such a handler. True: KVM_RUN is on this thread; the
// signal is kept, and sent again when KVM_RUN has returned EINTR, as the kernel runs handlers only then; the handler returns at once. A
// signal that comes again gets its first siginfo back.
bool keep_signal_during_run(int number, siginfo_t* info, void* context);
// The handler is softkvm's: it hands on to the one that it found when the first VM was made, or when KVM_RUN took a signal over.
bool is_our_signal_handler(const struct sigaction& action);
// From now on signal handlers may call what is here, or leave it by siglongjmp: none runs while one of its locks is held. All calls but KVM_RUN make two
// more system calls for that.
void expect_signal_handlers();

// A system, VM or vCPU handle.
bool is_handle(int fd);
// No descriptor from this on is a handle that an ioctl has been made on.
unsigned handle_limit();
// `fd` has become another descriptor, or none, without close() above: what it stood for is let go of. Async-signal-safe where that was nothing.
void note_replaced(int fd);

// Extensions for which the ABI has no word.

// Host code wrote guest memory at [host, host+size) of a slot of VM `vm_fd` (device DMA): drops translations made from it. To be called
// after the data is in place and before its completion becomes visible to the guest.
void notice_write(int vm_fd, const void* host, size_t size);

// For callers that see what a whole process does to its memory (preload/). Translations made from what lies at [host, host+size) in any VM are
// dropped; unlike notice_write, no page becomes dirty, as writes of the program itself never do.
void notice_change(const void* host, size_t size);
// From now on host code may write guest memory without a notice: vCPUs compare code with what it was translated from where the guest can have
// learnt of such a write. To be called before the first VM is made.
void expect_unseen_writes();
// And from now on such writes may come at any time after the guest has spoken to a device, and become known to the guest by its memory alone:
// another process or the kernel writes, and the guest polls. For two seconds after each write to a device, code is compared whenever a jump
// from another page leads to it. Any time; only where unseen writes are expected.
void expect_foreign_writes();

// Names translated code for perf (docs/guide/perf.md): in /tmp/perf-PID.map, in FOLDER/jit-PID.dump, with the guest kernel's functions from a
// System.map or a copy of its kallsyms. Empty strings: none. For the whole process, before the first VM is made. What is wrong, in one line.
struct CodeNames {
  bool perf_map = false;
  std::string jitdump_folder, symbols;
};
Result<> name_code(const CodeNames& wanted);

// Keeps translated code in `folder` for the next VM (docs/code-cache.md), at most `most` bytes of files. The folder is made where only it is missing; it
// has to be this user's and no one else's to write. For the whole process, before the first VM is made. What is wrong, in one line.
Result<> keep_code(const std::string& folder, uint64_t most);

// Says that the host memory [host, host+size) is mapped shared from `offset` of file `fd`, so that softkvm may map its pages in processes of its own and
// run guest user code there on the bare CPU (docs/native.md). Whole pages; the descriptor is duplicated. To be called before the vCPUs run, for
// memory that is or will be in a slot; return_memory() before the file is made shorter. 0 or -errno.
int lend_memory(int vm_fd, const void* host, size_t size, int fd, uint64_t offset);
int return_memory(int vm_fd, const void* host, size_t size);

// Says that the host memory [host, host+size), anonymous or of a memfd, may be put into the host's large pages by MADV_COLLAPSE where the guest
// uses much of it. Whole large pages inside of it are; at most LargePages::kMost ranges of a VM. Any time. 0 or -errno.
int allow_large_pages(int vm_fd, const void* host, size_t size);

// The program has got large pages for [host, host+size) from the kernel (madvise(2), MADV_HUGEPAGE). If that becomes a guest's memory, it is as with
// allow_large_pages(); where the host is seen to take long for large pages, the wish is taken back. For preload/.
void note_large_page_wish(void* host, size_t size);

// Registers a direct call instead of an eventfd for an ioeventfd-like doorbell: a guest write of `size` bytes (0: any) to a guest physical
// address (or port, if `pio`), runs `call(context)` on the vCPU's thread. 0 or -errno.
struct Doorbell {
  uint64_t address;
  uint32_t size;
  bool pio;
  bool match;      // only writes of `value`
  uint64_t value;
  void (*call)(void* context);
  void* context;
};
int add_doorbell(int vm_fd, const Doorbell& doorbell);
int remove_doorbell(int vm_fd, const Doorbell& doorbell);

}  // namespace vireo::softkvm
