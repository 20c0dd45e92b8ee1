// SPDX-License-Identifier: Apache-2.0
// Which descriptor is which File. Descriptors are real (memfds), so dup, poll, fcntl, close_range and O_CLOEXEC do what they always
// do; a number that is not known yet, or that somebody closed and reused, is told by its inode.
#pragma once

#include <cstddef>
#include <memory>

#include "softkvm/abi/file.h"

namespace vireo::softkvm::abi {

// Names the calling process's address space: a fork gives the child another one, vfork and threads share theirs.
uint64_t this_address_space();
// getpid() without a system call each time.
pid_t process_id();

// An unregistered memfd of `size` bytes whose size is sealed, close-on-exec; its inode goes into `file`. -errno.
int make_descriptor(File& file, const char* name, size_t size);
// From now on `fd`, made by make_descriptor, stands for `file`.
void install(int fd, std::shared_ptr<File> file);

// Nothing: not ours. `trusted` skips the check that the number still means what it meant (one system call), for calls where time counts.
std::shared_ptr<File> find(int fd, bool trusted = false);

// `fd` may have been closed or replaced behind our back: what it stood for is let go of. Async-signal-safe where it stood for nothing.
void note_new_meaning(int fd);

// All that stand for a file, as far as is known, are below this.
unsigned descriptor_limit();

// Closes the descriptor and lets go of its file. 0 or -errno; -ENOTTY (nothing closed) if it is not ours.
int close_handle(int fd);

}  // namespace vireo::softkvm::abi
