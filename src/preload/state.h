// SPDX-License-Identifier: Apache-2.0
// What the files of this room share.
#pragma once

#include <atomic>
#include <cstddef>

namespace vireo::preload {

// Set with the first open of /dev/kvm: until then every function is libc's.
extern std::atomic<bool> in_use;
inline bool used() { return in_use.load(std::memory_order_acquire); }

// How many calls of ours this thread is in that hold locks (within.h). Not allocated lazily: allocators ask.
[[gnu::tls_model("initial-exec")]] extern thread_local constinit unsigned within;

// A vCPU has run since this was last cleared.
extern std::atomic<bool> guests_ran;

// Opens softkvm as /dev/kvm: a descriptor, or -1 with errno. `flags` as for open().
int open_kvm(int flags);
bool is_kvm(const char* path);
bool is_kvm(int directory, const char* path);

// The program's signal handlers are put behind ours. With the first open.
void take_over_signals();

// An ioctl of /dev/vhost-*: the kernel may be about to become a device of the guest.
void look_at_vhost(unsigned long request);

// The program has changed [host, host+size), or what is mapped there.
void changed(const void* host, size_t size);

}  // namespace vireo::preload
